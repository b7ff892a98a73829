"""The one change that a resumed run accepts, a larger ``training.updates`` or ``training.epochs``.

The journal is the authority. Its first event has the configuration that the run was started with, and the ``resume``
event of a run that was made longer has ``"changed": {"training.updates": [20, 40]}``. ``config.toml`` is rewritten
after that event, so it may still have the former value if the process was killed between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freerun.config import Config, CosineSchedule, override, shown
from freerun.errors import RunError

__all__ = [
    "LENGTHS",
    "Change",
    "Lengthening",
    "changed_length",
    "check_lengthening",
    "explained",
    "has_changed",
    "length_of",
    "recorded_length",
    "with_length",
]

LENGTHS = ("training.updates", "training.epochs")
"""Key paths; a run has one of them."""
Change = tuple[str, Any, Any]
"""Key path, value before, value now; None if it is absent."""


@dataclass(frozen=True)
class Lengthening:
    """The length of a run, by its key path, before and after it was changed."""

    key: str
    before: float
    after: float


def length_of(config: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the key path and the value of a complete configuration's length."""
    section, _, key = LENGTHS[0 if "updates" in config["training"] else 1].partition(".")
    return f"{section}.{key}", config[section][key]


def with_length(config: Mapping[str, Any], value: float) -> dict[str, Any]:
    """Return a complete configuration with another value of its length."""
    key, _ = length_of(config)
    return override(config, key.split("."), value, key)


def recorded_length(events: Sequence[Mapping[str, Any]], key: str, value: Any) -> tuple[Any, Any]:
    """Return the length after these events, and the one before its last change; ``value`` is that of the start."""
    before = value
    for event in events:
        changed = event.get("changed")
        pair = changed.get(key) if event["event"] == "resume" and isinstance(changed, Mapping) else None
        if isinstance(pair, list) and len(pair) == 2 and all(type(each) in (int, float) for each in pair):
            before, value = pair
    return value, before


def check_lengthening(directory: object, changes: Sequence[Change]) -> Lengthening | None:
    """Return the only change if it makes the run longer, None if it is of another key.

    Raises:
        RunError: the length is changed in another way.
    """
    lengths = [change for change in changes if change[0] in LENGTHS]
    if len(lengths) == 2:
        had, value = next((key, old) for key, old, _ in lengths if old is not None)
        raise RunError(
            directory,
            has_changed(changes),
            f"Expected {had}, which this run was started with: {shown(value)} or more",
            f"Set {had} to train longer, or train into another directory with --out",
        )
    if not lengths or len(changes) > 1:
        return None
    key, before, after = lengths[0]
    if after < before:
        raise RunError(
            directory,
            has_changed(changes),
            f"Expected {shown(before)} or more: a run can be made longer, but not shorter",
            f"Add --set {key}={shown(before)} to resume it, or train into another directory with --out",
        )
    return Lengthening(key, before, after)


def has_changed(changes: Sequence[Change]) -> str:
    """Return in words what has changed."""
    details = "; ".join(f"{key} was {shown(old)}, now {shown(new)}" for key, old, new in changes)
    return f"the configuration has changed: {details}"


def changed_length(events: Sequence[Mapping[str, Any]], config: Config) -> dict[str, Any]:
    """Return what a ``resume`` event records: the length, if it differs from that in the events that are kept.

    Events after the checkpoint are truncated, so a lengthening among them has to be recorded again.
    """
    if not events or "config" not in events[0]:
        return {}
    key, value = length_of(events[0]["config"])
    before, _ = recorded_length(events, key, value)
    now = length_of(config.model_dump(exclude_none=True, mode="json"))[1]
    return {"changed": {key: [before, now]}} if before != now else {}


def explained(longer: Lengthening, config: Config, is_out_of_patience: bool) -> list[str]:
    """Return sentences about what the new length means for the resumed run."""
    sentences = [f"This run is longer now: {longer.key} was {shown(longer.before)}, now {shown(longer.after)}."]
    if isinstance(config.training.schedule, CosineSchedule):
        sentences.append(
            "From here on, the learning rate follows the cosine schedule of the new length, so the result differs from "
            "that of a run with this length from the start."
        )
    if is_out_of_patience:
        sentences.append(
            f"The last {config.evaluation.patience} evaluations found no better model (evaluation.patience), so the "
            "run ends at this update whatever its length."
        )
    return sentences
