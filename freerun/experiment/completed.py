"""Runs that are complete, so that there is nothing to resume."""

from __future__ import annotations

from pathlib import Path

from freerun.errors import BundleError, RunError
from freerun.experiment.origin import is_finished
from freerun.experiment.result import TrainResult
from freerun.log import log
from freerun.runtime.bundle import WEIGHTS, read_bundle
from freerun.training.checkpoint import Checkpoints
from freerun.training.journal import read_journal

__all__ = ["complete_result"]

_REASONS = {"complete": "all updates made", "patience": "no further improvement"}


def complete_result(directory: Path) -> TrainResult | None:
    """Return the result of a run that is complete, and log why; None if it can be resumed.

    Raises:
        RunError: the run is complete, but its best model is damaged and no checkpoint is left to restore it from.
    """
    if not is_finished(directory):
        return None
    last = read_journal(directory / "journal.jsonl")[-1]
    if not _has_best_model(directory):
        return None
    log.info(
        f"{directory}: this run is complete (update {last['update']:,}, {_REASONS[last['reason']]}); nothing to resume."
    )
    return result_of(directory)


def result_of(directory: Path) -> TrainResult:
    """Return the result of a run that has ended."""
    last = read_journal(directory / "journal.jsonl")[-1]
    best = read_bundle(directory)
    return TrainResult(directory, best.metrics, last["update"], best.config["training"]["update"])


def _has_best_model(directory: Path) -> bool:
    """Return True if a complete run's best bundle is intact; otherwise log that the end of the run is repeated.

    Raises:
        RunError: the bundle is damaged, and no checkpoint is left to repeat the end from.
    """
    try:
        bundle = read_bundle(directory / "best")
        bundle.checked_bytes(WEIGHTS)
        final = [event for event in read_journal(directory / "journal.jsonl") if event.get("final")]
        if not final or final[-1].get("best_sha256") in (None, bundle.weights_hash):
            return True
        location, what = directory / "best", "its weights are not those that training ended with"
    except BundleError as error:
        location, what = Path(error.where), error.what
    if not Checkpoints(directory / "checkpoints", 1).updates():
        raise RunError(
            location,
            f"{what}, and no checkpoint is left to restore it from",
            "Expected the directory best/ as training wrote it",
            "Put it back, or train again into another directory with --out",
        )
    log.info(f"{location}: {what}. Repeating the end of this run from its newest checkpoint.")
    return False
