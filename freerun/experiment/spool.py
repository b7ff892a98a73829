"""Pairs that can be read only once, from a pipe or ``/dev/fd/N``: training copies them into its run directory.

Training reads its pairs several times, and again when it is resumed. The copies are written to a temporary directory
inside the run directory, which becomes ``pairs/`` once the run has its ``config.toml``; that names the copies.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from freerun.config import DataConfig
from freerun.data.opening import is_read_once
from freerun.data.readers import (
    Columns,
    PairsLocation,
    ParallelFiles,
    Sink,
    copy_pairs,
    describe,
    each_file,
    files_of,
    kind_of,
)
from freerun.errors import DataError, RunError
from freerun.experiment.pairs_spec import COPIES, copies_in, location_of, value_of
from freerun.files import new_sibling_dir, real_path, remove_leftovers, replacing_file, sync_dir
from freerun.log import log

__all__ = ["Spool", "complete_spool", "existing_spool", "spool_pairs", "with_copies"]

_UNFINISHED: Final = f".{COPIES}.*.tmp"
_PARTS: Final = ("train", "dev")
# the form that /dev/fd/63 has as an absolute path
_DESCRIPTOR: Final = re.compile(r"/proc/(self|\d+)/fd/(\d+)")


@dataclass(frozen=True)
class Spool:
    """The location of a run's pairs.

    Attributes:
        directory: the run directory.
        reading: the paths from which the pairs can be read now.
        name: the training pairs as the user named them, for messages.
        recorded: ``train`` and ``dev`` of a configuration, if copies took their place.
        copies: the temporary directory, None if nothing had to be copied.
    """

    directory: Path
    reading: DataConfig
    name: str
    recorded: Mapping[str, Any] = field(default_factory=dict)
    copies: Path | None = None

    def publish(self) -> None:
        """Move the copies to their place in the run directory."""
        if self.copies is not None:
            os.replace(self.copies, self.directory / COPIES)
            sync_dir(self.directory)

    def discard(self) -> None:
        """Remove the copies unless they were published."""
        if self.copies is not None:
            shutil.rmtree(self.copies, ignore_errors=True)


def spool_pairs(directory: Path, data: DataConfig) -> Spool:
    """Copy the pairs of a new run that can be read only once.

    Raises:
        DataError: a pipe holds no pairs, or bad ones; or a copy cannot be written. Nothing is left behind.
    """
    once = {part: location for part in _PARTS if (location := _location(data, part)) and _is_read_once(location)}
    name = describe(_as_named(location_of(data.train)))
    if not once:
        return Spool(directory, data, name)
    remove_leftovers(directory, COPIES)
    copies = new_sibling_dir(directory / COPIES)
    try:
        now = {part: _copied(location, copies, part, data.columns) for part, location in once.items()}
        sync_dir(copies)
    except BaseException:
        shutil.rmtree(copies, ignore_errors=True)
        raise
    final = real_path(directory) / COPIES
    later = {part: _moved(location, copies, final) for part, location in now.items()}
    for part, location in once.items():
        log.info(f"{describe(_as_named(location))}: can be read only once, so it is copied to {describe(later[part])}.")
    recorded = {part: value_of(location) for part, location in later.items()}
    return Spool(directory, _naming(data, now), name, recorded, copies)


def existing_spool(directory: Path, data: DataConfig) -> Spool:
    """Return the spool of a run that exists; its copies may have been moved with it."""
    locations = {part: copies_in(directory, location) for part in _PARTS if (location := _location(data, part))}
    return Spool(directory, _naming(data, locations), describe(locations["train"]))


def complete_spool(directory: Path) -> None:
    """Before a run is resumed: repeat the renaming of its copies if a kill came between it and ``config.toml``."""
    unfinished = list(directory.glob(_UNFINISHED))
    if len(unfinished) == 1 and not (directory / COPIES).exists():
        os.replace(unfinished[0], directory / COPIES)
    remove_leftovers(directory, COPIES)


def with_copies(requested: Mapping[str, Any], before: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return ``requested``, a complete configuration, with this run's copies in place of pipes with the same pairs.

    Raises:
        RunError: a pipe gives other pairs.
    """
    data = dict(requested["data"])
    for part in _PARTS:
        if not (data.get(part) and before["data"].get(part)):
            continue
        location, copy = (_location(DataConfig.model_validate(each["data"]), part) for each in (requested, before))
        if location is None or copy is None or not _is_read_once(location) or not _is_copy(copy):
            continue
        if not _same_content(location, copies_in(directory, copy), data.get("columns")):
            raise RunError(
                directory,
                f"{describe(_as_named(location))} has other pairs than those that this run copied to {describe(copy)}",
                "Expected the same pairs",
                "Leave the pairs out to resume, or train into another directory with --out",
            )
        data[part] = before["data"][part]
    return {**requested, "data": data}


def _location(data: DataConfig, part: str) -> PairsLocation | None:
    value = data.train if part == "train" else data.dev
    return None if value is None else location_of(value)


def _is_read_once(location: PairsLocation) -> bool:
    return any(is_read_once(file) for file in files_of(location))


def _is_copy(location: PairsLocation) -> bool:
    return any(file.parent.name == COPIES for file in files_of(location))


def _as_named(location: PairsLocation) -> PairsLocation:
    """Return ``/dev/fd/N`` in place of ``/proc/PID/fd/N``, which real paths make of it."""
    return each_file(location, _named)


def _named(file: Path) -> Path:
    match = _DESCRIPTOR.fullmatch(str(file))
    return Path(f"/dev/fd/{match[2]}") if match and match[1] in ("self", str(os.getpid())) else file


def _copied(location: PairsLocation, directory: Path, part: str, columns: Columns | None) -> PairsLocation:
    """Copy those files of ``location`` that are read once to ``directory``, and return the new location."""
    named = _as_named(location)
    names = _names(named, part)
    with contextlib.ExitStack() as stack:
        sinks: dict[Path, Sink] = {}
        for file, name in names.items():
            if is_read_once(file):
                sinks[file] = _writer(stack.enter_context(replacing_file(directory / name)), file)
        copy_pairs(named, sinks, columns, log.info)
    return each_file(named, lambda file: directory / names[file] if file in sinks else file)


def _names(location: PairsLocation, part: str) -> dict[Path, str]:
    """Return the names of the copies; the name decides the format, and copies are not compressed."""
    if isinstance(location, ParallelFiles):
        return {location.source: f"{part}.source.txt", location.target: f"{part}.target.txt"}
    assert isinstance(location, Path)  # a list has no pipes
    return {location: f"{part}.jsonl" if kind_of(location) == "JSON Lines" else f"{part}.tsv"}


def _writer(out: BinaryIO, file: Path) -> Sink:
    def write(line: bytes) -> None:
        try:
            out.write(line)
        except OSError as error:
            raise DataError(
                file,
                f"the copy of these pairs cannot be written ({error.strerror or error})",
                "Expected enough disk space for the pairs, which can be read only once",
                "Free disk space, or choose another directory with --out",
            ) from error

    return write


def _moved(location: PairsLocation, old: Path, new: Path) -> PairsLocation:
    return each_file(location, lambda file: new / file.name if file.parent == old else file)


def _naming(data: DataConfig, locations: Mapping[str, PairsLocation]) -> DataConfig:
    """Return ``data`` with other training or development pairs."""
    return DataConfig.model_validate(
        {**data.model_dump(), **{part: value_of(each) for part, each in locations.items()}}
    )


def _same_content(location: PairsLocation, copy: PairsLocation, columns: Columns | None) -> bool:
    """Return True if the files of ``location`` that are read once have the content of their copies."""
    named = _as_named(location)
    files, copies = files_of(named), files_of(copy)
    hashes = {file: hashlib.sha256() for file in files if is_read_once(file)}
    copy_pairs(named, {file: digest.update for file, digest in hashes.items()}, columns, log.info)
    return len(files) == len(copies) and all(
        file == other if file not in hashes else hashes[file].digest() == _digest(other)
        for file, other in zip(files, copies, strict=True)
    )


def _digest(file: Path) -> bytes:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()
