"""Numbers, texts and values as a person reads them."""

from __future__ import annotations

import json

__all__ = ["duration", "printable", "shown"]


def duration(seconds: float) -> str:
    """A length of time in its two largest units: "1 h 05 min", "3 min 20 s", "12 s"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def printable(text: str) -> str:
    """``text`` with control characters escaped, so that data cannot steer the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


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
