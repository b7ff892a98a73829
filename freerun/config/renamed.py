"""Configuration keys that have been renamed: an old name is an error that gives the new one.

Files that an earlier version of freerun wrote itself, such as the configuration of a run, are read with both names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["new_name", "with_former_names", "with_new_names"]

RENAMED: Final = {"forcing.teacher_too": "forcing.include_teacher_term", "reach": "target_error"}
"""Former key path, without the number of a phase -> the present one, in the same section."""


def new_name(path: str) -> str | None:
    """Return the new name of the last key of a path; None if it was not renamed."""
    present = RENAMED.get(re.sub(r"^forcing\.phases\[\d+\]\.", "forcing.", path))
    return None if present is None else _last(present)


def with_new_names(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw configuration that freerun wrote, with renamed keys under their new names."""
    return _renamed(raw, RENAMED, "")


def with_former_names(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a complete configuration with renamed keys under their former names: hashes of it stay what they were."""
    return _renamed(raw, {present: former for former, present in RENAMED.items()}, "")


def _renamed(raw: Mapping[str, Any], names: Mapping[str, str], prefix: str) -> dict[str, Any]:
    strategy = raw.get("strategy")
    if isinstance(strategy, str) and ":" in strategy:
        return dict(raw)  # the keys of a custom strategy are its own
    result: dict[str, Any] = {}
    for key, value in raw.items():
        path = f"{prefix}{key}"
        name = _last(names[path]) if path in names else key
        result[key if name in raw else name] = _inner(value, names, f"{path}.")
    return result


def _inner(value: Any, names: Mapping[str, str], prefix: str) -> Any:
    if isinstance(value, Mapping):
        return _renamed(value, names, prefix)
    if isinstance(value, list) and prefix == "forcing.phases.":
        return [_inner(phase, names, "forcing.") for phase in value]
    return value


def _last(path: str) -> str:
    return path.rpartition(".")[2]
