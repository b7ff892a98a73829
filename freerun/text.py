"""Formatting of numbers, texts and values for people."""

from __future__ import annotations

import json
import math

__all__ = [
    "cut",
    "duration",
    "forbidden_character",
    "in_minutes",
    "json_line",
    "lone_surrogate",
    "one_line",
    "printable",
    "shown",
]

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]
"""Characters that end a line, or that a terminal interprets instead of displaying them."""
_ESCAPED = {number: chr(number).encode("unicode_escape").decode() for number in _CONTROLS}
_MAX_BITS = 4096
"""Maximum size of an integer that is shown in digits: Python converts at most 4,300 digits."""
_NOT_IN_A_FIELD = {"\t": "a tab", "\n": "a line feed", "\r": "a carriage return", "\0": "a NUL character"}
_ESCAPED_IN_JSON = {number: f"\\u{number:04x}" for number in _CONTROLS}


def duration(seconds: float) -> str:
    """Format a duration in its two largest units: "1 h 05 min", "3 min 20 s", "12 s"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def in_minutes(number: float) -> str:
    """Format a number of minutes as it was set: "1 minute", "2.5 minutes"."""
    shown_number = f"{round(number, 2):g}"
    return f"{shown_number} minute{'' if shown_number == '1' else 's'}"


def printable(text: str) -> str:
    """Escape control characters, so that data cannot control the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def one_line(text: str) -> str:
    """Escape control characters and line separators: the result is one line and cannot control the terminal.

    Unlike ``printable`` it keeps all characters of writing systems, such as joiners and no-break spaces.
    """
    return text if text.isprintable() else text.translate(_ESCAPED)


def forbidden_character(text: str, allowed: str = "") -> str | None:
    """Return the name of a character in ``text`` that one field of a TSV line cannot hold, None if there is none.

    ``allowed`` are characters to accept all the same.
    """
    for character, name in _NOT_IN_A_FIELD.items():
        if character in text and character not in allowed:
            return name
    return None


def lone_surrogate(text: str) -> str | None:
    """Return the first half of a surrogate pair in ``text``, such as "U+D83D": it cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"U+{ord(text[error.start]):04X}"
    return None


def json_line(value: object) -> str:
    """Format a value as one line of JSON, safe for terminals; raises ValueError for NaN and infinity."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() else text.translate(_ESCAPED_IN_JSON)


def shown(value: object, limit: int = 80) -> str:
    """Format a value as TOML, truncated to ``limit`` characters; "not set" for None."""
    try:
        return cut("not set" if value is None else _toml(value), limit)
    except RecursionError:
        return "a value that is nested too deeply to be shown"


def cut(text: str, limit: int = 80) -> str:
    """Truncate ``text`` to ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return f"a whole number of about {round(value.bit_length() * math.log10(2)):,} digits"
    return str(value)
