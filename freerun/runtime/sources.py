"""Sources that a program passes to a predictor: texts, or for a model with features, texts with their features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, TypeAlias

from freerun.arguments import check_text, wrong_type
from freerun.data.features import FeatureCodec, Features, contains_separator
from freerun.data.known_features import missing_features
from freerun.errors import DataError
from freerun.text import forbidden_character, lone_surrogate, shown

__all__ = [
    "Source",
    "check_features_type",
    "check_line",
    "check_text_alone",
    "features_of",
    "split_sources",
    "stored_features",
]

Source: TypeAlias = str | tuple[str, Features]
"""A text, or for a model with features a text and its features."""

_PAIR = 'a pair (text, features), for example ("walk", "V;PST") or ("walk", ["V", "PST"])'
_FIX = 'Pass features, or pairs (text, features); "" stands for none'


def split_sources(
    sources: Sequence[Any], numbers: Iterable[int], codec: FeatureCodec
) -> tuple[list[str], list[Features]]:
    """Return the texts of ``sources``, and their features.

    Raises:
        TypeError: an item is neither a text nor a pair.
        DataError: an item has no features, or features that no line of a file could hold.
    """
    texts: list[str] = []
    columns: list[Features] = []
    for position, (number, source) in enumerate(zip(numbers, sources, strict=True)):
        name, location = f"texts[{position}]", f"text {number + 1}"
        if isinstance(source, str):
            raise missing_features(location, source, codec, _FIX)
        text, features = _pair(name, source)
        _check_features(features, f"{name}[1]", location, codec)
        texts.append(text)
        columns.append(features)
    return texts, columns


def _pair(name: str, source: Any) -> tuple[str, Any]:
    """Return the two items of a pair; the first one is a str."""
    fields = tuple(source) if _is_sequence(source) else ()
    if len(fields) != 2 or not isinstance(fields[0], str):
        raise wrong_type(name, source, _PAIR)
    return fields


def _is_sequence(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | Mapping | Set)


def features_of(pair: object, location: str, name: str, codec: FeatureCodec) -> Features:
    """Return the attribute ``features`` of a pair, the argument ``name``. Raises as ``split_sources`` does."""
    features: Any = getattr(pair, "features", None)
    if features is None:
        raise missing_features(
            location,
            str(getattr(pair, "source", "")),
            codec,
            'Pass pairs with the attribute features; "" stands for none',
        )
    _check_features(features, f"{name}.features", location, codec)
    return stored_features(features)


def check_features_type(name: str, features: object) -> None:
    """Raise TypeError unless ``features`` is a str or a sequence of str."""
    items = [features] if isinstance(features, str) else features
    if isinstance(items, bytes | bytearray) or not isinstance(items, Sequence):
        raise wrong_type(name, features, "a str with all features, or a list of str with one feature each")
    for number, item in enumerate(items):
        if not isinstance(item, str):
            check_text(f"{name}[{number}]", item)


def _check_features(features: Any, name: str, location: str, codec: FeatureCodec) -> None:
    """Check features, the argument ``name``; ``location`` is that of their text, for messages.

    Raises:
        TypeError: neither a str nor a sequence of str.
        DataError: features that no line of a file could hold, or a separator inside one item of a sequence.
    """
    check_features_type(name, features)
    for item in [features] if isinstance(features, str) else features:
        if not item.isprintable():
            check_line(item, name, f"features of {location}")
        if item is not features and contains_separator(item, codec.separator):
            raise DataError(
                f"features of {location}",
                f"the feature {shown(item)} contains the separator {shown(codec.separator)}",
                "Expected one feature in each item of a sequence",
                "Pass one str with all features, or split the item",
            )


def stored_features(features: Features) -> Features:
    """Return features in a form that cannot change."""
    return features if isinstance(features, str) else tuple(features)


def check_text_alone(source: Any, name: str, location: str) -> None:
    """Check an item of the argument of a model without features.

    Raises:
        TypeError: no text.
        DataError: a text with features, or one that does not fit on one line of a file.
    """
    if _is_sequence(source) and len(fields := tuple(source)) == 2 and isinstance(fields[0], str):
        raise DataError(
            location,
            f"{shown(fields[0])} has features ({shown(fields[1])}), but the model was trained without any",
            "Expected a text alone",
            "Leave the features out, or use a model that was trained with features",
        )
    check_line(source, name, location)


def check_line(text: Any, name: str, location: str) -> None:
    """Check that a text, the argument ``name``, fits on one line of a file; ``location`` is for messages."""
    check_text(name, text)
    if character := forbidden_character(text, allowed="\r"):
        raise DataError(location, f"contains {character}", "Expected one line of text", "Replace it with a space")
    if surrogate := lone_surrogate(text):
        raise DataError(
            location,
            f"contains half a surrogate pair ({surrogate})",
            "Expected complete Unicode characters",
            "Decode the text with the right encoding, and without surrogateescape",
        )
