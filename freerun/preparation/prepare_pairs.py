"""Preparation of pairs in a directory of their own, which an interrupted preparation is continued in.

The directory is complete when it has its manifest, which is written last.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from freerun.config import changed_keys, shown
from freerun.data.manifest import MANIFEST, PREPARATION
from freerun.data.prepared import Prepared, open_prepared
from freerun.errors import DataError, RunError
from freerun.files import write_atomic
from freerun.lock import check_empty, inner_lock, only_writer
from freerun.log import log
from freerun.preparation.choices import PrepareRequest
from freerun.preparation.job import HopelessError, PreparationJob, Progress

__all__ = ["prepare"]


def prepare(request: PrepareRequest, progress: Progress) -> tuple[Prepared, bool]:
    """Prepare pairs, or continue what was interrupted; return the result, and False if it was there already.

    Raises:
        UserError: something that the user can fix; what was there before is unchanged.
    """
    with only_writer(inner_lock(request.out)):
        if not (request.out / PREPARATION).exists():
            check_empty(request.out, (f".{PREPARATION}.",))
        job = PreparationJob.of(request, progress)
        if _is_complete(job):
            shutil.rmtree(job.scratch, ignore_errors=True)  # a kill came after the manifest
            damage = damage_of(job.out, progress)
            if damage is None:
                return open_prepared(job.out), False
            log.warning(f"{damage} The pairs are prepared again.")
            (job.out / MANIFEST).unlink()
        try:
            with job.explained():
                job.run()
        except HopelessError as error:
            job.discard()
            raise error.reason from None
        return open_prepared(job.out), True


def damage_of(directory: Path, progress: Progress) -> str | None:
    """Return what is wrong with prepared pairs, None if all files are as they were written."""
    try:
        prepared = open_prepared(directory)
        prepared.check(lambda done, fraction: progress("checking", done, fraction))
    except DataError as error:
        return f"{error.where}: {error.what}."
    return None


def _is_complete(job: PreparationJob) -> bool:
    """Return True if the directory has these pairs, prepared; write the record of a new preparation.

    Raises:
        RunError: it has others, or they were prepared with other settings.
    """
    path = job.out / PREPARATION
    record, is_complete = job.record(), (job.out / MANIFEST).exists()
    if not path.exists():
        with job.explained():
            write_atomic(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
        return False
    try:
        before = json.loads(path.read_bytes())
        changes = changed_keys(before, record)
    except (OSError, ValueError, AttributeError):
        changes = [("preparation.json", "damaged", "")]
    if is_complete:
        changes = [change for change in changes if change[0] != "freerun"]  # this one need not continue it
    if changes:
        key, old, new = changes[0]
        what = {"pairs.train_sha256": "the pairs are others", "pairs.dev_sha256": "the development pairs are others"}
        raise RunError(
            job.out,
            f"this directory has {'prepared pairs' if is_complete else 'a preparation that is not complete'}, but "
            + what.get(key, f"{key} was {shown(old)}, and is {shown(new)} now"),
            "Expected the same pairs and settings, to continue",
            "Choose another directory with --out, or remove this one",
        )
    return is_complete
