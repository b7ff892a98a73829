"""Configuration keys that have been renamed: an old name is an error that gives the new one.

Files that an earlier version of freerun wrote itself, such as the configuration of a run, are read with both names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["RENAMED", "new_name", "with_new_names"]

RENAMED: Final = {"forcing.teacher_too": "include_teacher_term", "reach": "target_error"}
"""Key path, without the number of a phase -> the new name of its last key."""


def new_name(path: str) -> str | None:
    """Return the new name of the last key of a path; None if it was not renamed."""
    return RENAMED.get(re.sub(r"^forcing\.phases\[\d+\]\.", "forcing.", path))


def with_new_names(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a raw configuration that freerun wrote, with renamed keys under their new names."""
    strategy = raw.get("strategy")
    if isinstance(strategy, str) and ":" in strategy:
        return dict(raw)  # the keys of a custom strategy are its own
    result: dict[str, Any] = {}
    for key, value in raw.items():
        name = new_name(f"{prefix}{key}") or key
        result[key if name in raw else name] = _inner(value, f"{prefix}{key}.")
    return result


def _inner(value: Any, prefix: str) -> Any:
    if isinstance(value, Mapping):
        return with_new_names(value, prefix)
    if isinstance(value, list) and prefix == "forcing.phases.":
        return [_inner(phase, "forcing.") for phase in value]
    return value
