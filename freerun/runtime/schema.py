"""The schema of a bundle's config.json, validated without pydantic: a prediction need not wait for its import.

Keys that are not named here are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from freerun.architecture import ATTENTIONS, CELLS, CONTEXTS
from freerun.bounds import MAX_LAYERS
from freerun.text import shown

__all__ = ["CONFIG", "Fault", "first_fault"]


@dataclass(frozen=True)
class Fault:
    """An invalid value: its key path, what is wrong, and what was expected."""

    key: str
    what: str
    expected: str


@dataclass(frozen=True)
class _Value:
    """A test of one value, and what it expects, in words."""

    fits: Callable[[Any], bool]
    expected: str
    optional: bool = False


_Section = Mapping[str, "_Value | _Section"]


def _whole(least: int, most: int | None = None, optional: bool = False) -> _Value:
    def fits(value: Any) -> bool:
        return type(value) is int and value >= least and (most is None or value <= most)

    expected = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most:,}"
    return _Value(fits, expected, optional)


def _word(*words: str) -> _Value:
    listed = ", ".join(f'"{word}"' for word in words)
    return _Value(lambda value: isinstance(value, str) and value in words, f"one of {listed}")


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0  # type: ignore[arg-type, operator]


def _is_tokens(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("char|whitespace|sentencepiece:[0-9]{1,9}", value) is not None


def _is_table_of_strings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(inner, str) for inner in value.values())


_TRUTH: Final = _Value(lambda value: isinstance(value, bool), "true or false")
_STRING: Final = _Value(lambda value: isinstance(value, str), "a string")

_SIDE: Final[_Section] = {
    "tokens": _Value(_is_tokens, '"char", "whitespace" or "sentencepiece:N"'),
    "normalisation": _word("NFC", "NFD", "NFKC", "NFKD", "none"),
    "case": _word("keep", "lower"),
    "reverse": _TRUTH,
}
CONFIG: Final[_Section] = {
    "source": _SIDE,
    "target": _SIDE,
    "model": {
        **{name: _whole(1) for name in ("source_vocabulary", "target_vocabulary", "embedding_size", "hidden_size")},
        "num_layers": _whole(1, MAX_LAYERS),
        "cell": _word(*CELLS),
        "bidirectional": _TRUTH,
        "context": _word(*CONTEXTS),
        "attention": _word(*ATTENTIONS),
        "tied_output": _TRUTH,
        "input_feeding": _Value(_TRUTH.fits, _TRUTH.expected, optional=True),
    },
    "length_bound": {
        "longest_target": _whole(0),
        "largest_ratio": _Value(_is_number, "a number, 0 or more"),
        "fixed": _whole(0, optional=True),
    },
    "most_frequent_target": _STRING,
    "training": _Value(lambda value: isinstance(value, dict), "a table"),
    "files": _Value(_is_table_of_strings, "a table"),
    "graphs": _Value(_is_table_of_strings, "a table", optional=True),
}


def first_fault(config: Mapping[str, Any], section: _Section = CONFIG, prefix: str = "") -> Fault | None:
    """Return the first value that ``section`` does not accept, or None."""
    for name, expected in section.items():
        key, value = prefix + name, config.get(name)
        fault = (
            _fault_of_value(key, value, expected) if isinstance(expected, _Value) else _of_section(key, value, expected)
        )
        if fault is not None:
            return fault
    return None


def _fault_of_value(key: str, value: object, expected: _Value) -> Fault | None:
    if expected.fits(value) or (value is None and expected.optional):
        return None
    return Fault(key, _what(value), f"Expected {expected.expected}")


def _of_section(key: str, value: object, expected: _Section) -> Fault | None:
    if isinstance(value, dict):
        return first_fault(value, expected, f"{key}.")
    return Fault(key, _what(value), f"Expected a section, [{key}]")


def _what(value: object) -> str:
    return "this key is missing" if value is None else f"the value is {shown(value)}"
