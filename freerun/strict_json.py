"""JSON from a stranger: what RFC 8259 allows and no more, with bounds on depth and numbers."""

from __future__ import annotations

import json
import math
from typing import Any, Final

__all__ = ["MAX_DEPTH", "parse"]

MAX_DEPTH: Final = 64
"""Arrays and objects inside each other: far more than any file has, far less than recursion bears."""
_LARGEST: Final = 2**63
_LONGEST: Final = 20
"""Characters of the largest whole number with its sign."""


def parse(content: bytes) -> Any:
    """Parse UTF-8 JSON.

    Raises:
        ValueError: the content is not UTF-8 or not JSON, is nested deeper than ``MAX_DEPTH``, has a number that is not
            finite (NaN, 1e999) or a whole number beyond 64 bits, or a string with half a surrogate pair.
    """
    text = content.decode()
    # Only where there are that many brackets can the nesting be that deep: most files need no walk.
    brackets = content.count(b"[") + content.count(b"{")
    if brackets > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    value = json.loads(text, parse_constant=_refuse_constant, parse_int=_whole, parse_float=_finite)
    if b"\\u" in content:  # only an escape can stand for half a pair
        _refuse_half_pairs(value)
    return value


def _depth(text: str) -> int:
    """The deepest nesting of brackets that stand outside of strings."""
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


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _whole(digits: str) -> int:
    if len(digits) > _LONGEST or not -_LARGEST <= (number := int(digits)) < _LARGEST:
        raise ValueError(f"the whole number {digits[:_LONGEST]}... does not fit 64 bits")
    return number


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:_LONGEST]} is too large")
    return number


def _refuse_half_pairs(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"a string has half a surrogate pair, U+{ord(half):04X}") from None
