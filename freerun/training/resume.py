"""The checkpoint that a run resumes from: the newest intact one whose journal and earlier checkpoints are intact."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from freerun.errors import RunError
from freerun.training.checkpoint import Checkpoint, Checkpoints, Damaged
from freerun.training.journal import Journal, read_journal
from freerun.training.settings import TrainerSettings

__all__ = ["Resumption", "choose_checkpoint"]


@dataclass(frozen=True)
class Resumption:
    """The point at which a run resumes.

    ``discarded`` are the updates of checkpoints to be removed: damaged ones, and all after ``update``, which the run
    will write again. ``notices`` describe what is wrong with the damaged ones.
    """

    update: int
    checkpoint: Checkpoint
    discarded: tuple[int, ...] = ()
    notices: tuple[str, ...] = ()


def choose_checkpoint(checkpoints: Checkpoints, journal: Journal, settings: TrainerSettings) -> Resumption | None:
    """Return the newest checkpoint from which a run ends as if it had never stopped, None if there is no checkpoint.

    It is intact, the journal up to it is unchanged, and so are the earlier checkpoints that may be averaged with later
    ones at the end.

    Raises:
        RunError: there are checkpoints, but none can be used. Nothing is removed.
    """
    updates = checkpoints.updates()
    problems = {update: reason for update in updates if (reason := _damage(checkpoints, update))}
    intact = set(updates) - problems.keys()
    for update in sorted(intact, reverse=True):
        checkpoint = checkpoints.load(update)
        reason = _obstacle(checkpoint.state, journal, settings, intact)
        if not reason:
            return _resumption(checkpoints, update, checkpoint, problems)
        problems[update] = reason
    if not updates:
        return None
    details = "; ".join(f"update {update}: {problems[update]}" for update in updates)
    raise RunError(
        checkpoints.directory,
        f"no checkpoint is usable: {details}",
        "Expected checkpoints and a journal as this run wrote them",
        "Put the files back, or remove this directory to start the run from the beginning",
    )


def _damage(checkpoints: Checkpoints, update: int) -> str:
    try:
        checkpoints.load(update)
    except Damaged as error:
        return error.what
    return ""


def _obstacle(state: Mapping[str, Any], journal: Journal, settings: TrainerSettings, intact: Collection[int]) -> str:
    """Return why a run cannot resume from an intact checkpoint, "" if it can."""
    sha256 = state.get("journal_sha256")
    if sha256 and not journal.holds(state["journal_size"], sha256):
        return f"the part of {journal.path.name} before this checkpoint has changed"
    at_end = state["update"] == state["evaluated"] and not settings.evaluates_at(state["update"])
    if at_end and state["update"] < settings.updates:
        # only earlier versions wrote such a checkpoint
        return "saved at the end of a shorter run, after an evaluation that this run does not have"
    missing = [update for update in _averaged(state, journal, settings) if update not in intact]
    if missing:
        return f"the checkpoint of update {missing[0]} is missing or damaged, and may be averaged at the end"
    return ""


def _averaged(state: Mapping[str, Any], journal: Journal, settings: TrainerSettings) -> list[int]:
    """Return the updates of scheduled checkpoints that may be averaged at the end, up to this one."""
    update = state["update"]
    events = [event for event in read_journal(journal.path) if event["event"] == "checkpoint"]
    scheduled = sorted({event["update"] for event in events if event["update"] < update})
    if state.get("scheduled"):
        scheduled.append(update)
    number = settings.average - _fewest_to_come(state, settings) if settings.average > 1 else 0
    return scheduled[-number:] if number > 0 else []


def _fewest_to_come(state: Mapping[str, Any], settings: TrainerSettings) -> int:
    """Return how many scheduled checkpoints follow at least: all, up to ``average``, or until patience ends."""
    count, stale = 0, state["stale"]
    for update in range(state["update"], settings.updates + 1):
        evaluates = update != state["evaluated"] and update > 0 and _is_due(update, settings.evaluate_every, settings)
        saves = update > state["update"] and settings.checkpoint_every > 0 and update % settings.checkpoint_every == 0
        count += evaluates or saves
        stale += evaluates
        if count >= settings.average or 0 < settings.patience <= stale:
            break
    return count


def _is_due(update: int, every: int, settings: TrainerSettings) -> bool:
    return update >= settings.updates or (every > 0 and update % every == 0)


def _resumption(
    checkpoints: Checkpoints, update: int, checkpoint: Checkpoint, problems: Mapping[int, str]
) -> Resumption:
    # every later one has a problem: the newest without one was chosen
    notices = [f"{checkpoints.path(other)}: {reason}. Skipped and removed." for other, reason in problems.items()]
    if not checkpoint.is_verified:
        path = checkpoints.path(update)
        notices.append(
            f"{path}: an earlier version wrote this checkpoint without hashes, so damage would go unnoticed."
        )
    return Resumption(update, checkpoint, tuple(problems), tuple(notices))
