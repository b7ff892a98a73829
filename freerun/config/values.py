"""Values as they are shown in messages: the way TOML writes them."""

from __future__ import annotations

import json

__all__ = ["shown"]


def shown(value: object, most: int = 80) -> str:
    """A value as TOML writes it, cut after ``most`` characters; "not set" for None."""
    text = "not set" if value is None else _toml(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
