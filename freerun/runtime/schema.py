"""The schema of a bundle's config.json, validated without pydantic, whose import would delay predictions.

Keys that are not listed here are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from freerun.architecture import ATTENTIONS, CELLS, CONTEXTS, FEATURE_ENCODERS, SUMMARY
from freerun.bounds import MAX_LAYERS
from freerun.symbols import NUM_SPECIAL
from freerun.text import shown

__all__ = ["CONFIG", "InvalidValue", "first_invalid_value"]


@dataclass(frozen=True)
class InvalidValue:
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


def _whole(low: int, high: int | None = None, optional: bool = False) -> _Value:
    def fits(value: Any) -> bool:
        return type(value) is int and value >= low and (high is None or value <= high)

    expected = f"a whole number, {low} or more" if high is None else f"a whole number from {low} to {high:,}"
    return _Value(fits, expected, optional)


def _word(*words: str, optional: bool = False) -> _Value:
    listed = ", ".join(f'"{word}"' for word in words)
    return _Value(lambda value: isinstance(value, str) and value in words, f"one of {listed}", optional)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0  # type: ignore[arg-type, operator]


def _is_tokens(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("char|whitespace|sentencepiece:[0-9]{1,9}", value) is not None


def _is_table_of_strings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(inner, str) for inner in value.values())


def _is_separator(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= _MAX_SEPARATOR


_MAX_SEPARATOR: Final = 8
_BOOLEAN: Final = _Value(lambda value: isinstance(value, bool), "true or false")
_STRING: Final = _Value(lambda value: isinstance(value, str), "a string")

_FORMS: Final = "NFC", "NFD", "NFKC", "NFKD", "none"
_SIDE: Final[_Section] = {
    "tokens": _Value(_is_tokens, '"char", "whitespace" or "sentencepiece:N"'),
    "normalisation": _word(*_FORMS),
    "case": _word("keep", "lower"),
    "reverse": _BOOLEAN,
}
CONFIG: Final[_Section] = {
    "source": _SIDE,
    "target": {**_SIDE, "written": _word(*_FORMS, optional=True)},
    "model": {
        **{name: _whole(1) for name in ("source_vocabulary", "target_vocabulary", "embedding_size", "hidden_size")},
        "num_layers": _whole(1, MAX_LAYERS),
        "cell": _word(*CELLS),
        "bidirectional": _BOOLEAN,
        "context": _word(*CONTEXTS),
        "attention": _word(*ATTENTIONS),
        "tied_output": _BOOLEAN,
        "input_feeding": _Value(_BOOLEAN.fits, _BOOLEAN.expected, optional=True),
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


FEATURES: Final[_Section] = {
    "model": {
        "feature_vocabulary": _whole(NUM_SPECIAL),
        "feature_encoder": _word(*FEATURE_ENCODERS),
    },
    "features": {"separator": _Value(_is_separator, f"a text of 1 to {_MAX_SEPARATOR} characters")},
}
"""Further keys of a model with features. Others have none of them, or the values of ``_NO_FEATURES``."""
_NO_FEATURES: Final = {"feature_vocabulary": 0, "feature_encoder": ""}


def first_invalid_value(config: Mapping[str, Any]) -> InvalidValue | None:
    """Return the first value that ``CONFIG`` or ``FEATURES`` does not accept, or None."""
    return _first_invalid(config, CONFIG) or _check_features(config)


def _check_features(config: Mapping[str, Any]) -> InvalidValue | None:
    model = config["model"]
    if config.get("features") is None and all(model.get(key, value) == value for key, value in _NO_FEATURES.items()):
        return None
    invalid = _first_invalid(config, FEATURES)
    if invalid is not None or model["feature_encoder"] == SUMMARY or ATTENTIONS[model["attention"]].reads_memory:
        return invalid
    what = (
        f"{_what(model['feature_encoder'])}, which attention reads, but model.attention is {shown(model['attention'])}"
    )
    return InvalidValue("model.feature_encoder", what, 'Expected "summary"')


def _first_invalid(config: Mapping[str, Any], section: _Section, prefix: str = "") -> InvalidValue | None:
    for name, expected in section.items():
        key, value = prefix + name, config.get(name)
        invalid = (
            _check_value(key, value, expected) if isinstance(expected, _Value) else _check_section(key, value, expected)
        )
        if invalid is not None:
            return invalid
    return None


def _check_value(key: str, value: object, expected: _Value) -> InvalidValue | None:
    if expected.fits(value) or (value is None and expected.optional):
        return None
    return InvalidValue(key, _what(value), f"Expected {expected.expected}")


def _check_section(key: str, value: object, expected: _Section) -> InvalidValue | None:
    if isinstance(value, dict):
        return _first_invalid(value, expected, f"{key}.")
    return InvalidValue(key, _what(value), f"Expected a section, [{key}]")


def _what(value: object) -> str:
    return "this key is missing" if value is None else f"the value is {shown(value)}"
