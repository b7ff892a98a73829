"""Configuration keys that have been renamed: an old name is an error that gives the new one.

Files that an earlier version of freerun wrote itself, such as the configuration of a run, are read with both names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["RENAMED", "new_name", "with_former_names", "with_new_names"]

RENAMED: Final = {"forcing.teacher_too": "include_teacher_term", "reach": "target_error"}
"""Key path, without the number of a phase -> the new name of its last key."""


def new_name(path: str) -> str | None:
    """Return the new name of the last key of a path; None if it was not renamed."""
    return RENAMED.get(re.sub(r"^forcing\.phases\[\d+\]\.", "forcing.", path))


def with_new_names(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw configuration that freerun wrote, with renamed keys under their new names."""
    return _renamed(raw, RENAMED, "")


def with_former_names(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a complete configuration with renamed keys under their former names: hashes of it stay what they were."""
    former = {path.rpartition(".")[0] + "." + name: path.rpartition(".")[2] for path, name in RENAMED.items()}
    return _renamed(raw, {path.lstrip("."): name for path, name in former.items()}, "")


def _renamed(raw: Mapping[str, Any], names: Mapping[str, str], prefix: str) -> dict[str, Any]:
    strategy = raw.get("strategy")
    if isinstance(strategy, str) and ":" in strategy:
        return dict(raw)  # the keys of a custom strategy are its own
    result: dict[str, Any] = {}
    for key, value in raw.items():
        name = names.get(f"{prefix}{key}") or key
        result[key if name in raw else name] = _inner(value, names, f"{prefix}{key}.")
    return result


def _inner(value: Any, names: Mapping[str, str], prefix: str) -> Any:
    if isinstance(value, Mapping):
        return _renamed(value, names, prefix)
    if isinstance(value, list) and prefix == "forcing.phases.":
        return [_inner(phase, names, "forcing.") for phase in value]
    return value
