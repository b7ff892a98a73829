"""Untrusted JSON: exactly what RFC 8259 allows, with limits on depth and numbers."""

from __future__ import annotations

import json
import math
from typing import Any, Final

__all__ = ["MAX_DEPTH", "parse"]

MAX_DEPTH: Final = 64
"""Maximum nesting of arrays and objects: far more than any file has, far below the recursion limit."""
_MAX_INTEGER: Final = 2**63
_MAX_DIGITS: Final = 20
"""Length of the largest 64-bit integer with its sign."""


def parse(content: bytes) -> Any:
    """Parse UTF-8 JSON.

    Raises:
        ValueError: the content is not UTF-8 or not JSON, is nested deeper than ``MAX_DEPTH``, has a number that is not
            finite (NaN, 1e999) or a whole number beyond 64 bits, or a string with half a surrogate pair.
    """
    text = content.decode()
    # The nesting is only as deep as there are opening brackets: most files need no further check.
    brackets = content.count(b"[") + content.count(b"{")
    if brackets > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    value = json.loads(text, parse_constant=_reject_constant, parse_int=_parse_integer, parse_float=_parse_float)
    if b"\\u" in content:  # only an escape can express half a pair
        _check_surrogates(value)
    return value


def _depth(text: str) -> int:
    """Return the maximum nesting of brackets outside strings."""
    depth = deepest = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _parse_integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS or not -_MAX_INTEGER <= (number := int(digits)) < _MAX_INTEGER:
        raise ValueError(f"the whole number {digits[:_MAX_DIGITS]}... does not fit into 64 bits")
    return number


def _parse_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:_MAX_DIGITS]} is too large")
    return number


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"a string contains half a surrogate pair, U+{ord(half):04X}") from None
