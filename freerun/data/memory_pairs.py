"""Pairs that a program passes in, checked as the lines of a file are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from freerun.arguments import check_items, wrong_type
from freerun.data.features import Features
from freerun.data.field_check import check_field
from freerun.data.readers import Pair
from freerun.errors import DataError

__all__ = ["PairsInMemory", "pairs_in_memory"]

EXPECTED = '(source, target), two str, or {"source": str, "target": str}'
EXPECTED_FEATURES = "a str or a list of str as features"


@dataclass(frozen=True)
class PairsInMemory:
    """Pairs that no file holds; ``Pair.line`` is the position in the iterable, from 1."""

    pairs: tuple[Pair, ...]

    def __str__(self) -> str:
        return "pairs in memory"


def pairs_in_memory(name: str, values: object) -> PairsInMemory:
    """Read an iterable of pairs: (source, target), or mappings or objects with a source and a target.

    All pairs may have features, a str or a sequence of str: as a third item, key or attribute.

    Args:
        name: of the argument, for messages.
        values: a list, a generator, the rows of a DataFrame.

    Raises:
        TypeError: no iterable, a table, or an item that is no pair of two str.
        DataError: a text that no line of a TSV file could hold, or features in some of the pairs only.
    """
    if hasattr(values, "columns"):  # a DataFrame iterates over its columns or their names
        raise TypeError(
            f"{name}: the value is a table ({type(values).__name__}), not its rows. Expected an iterable of (source, "
            'target), for example df[["source", "target"]].values or df.itertuples().'
        )
    check_items(name, values, "pairs (source, target)")
    assert isinstance(values, Iterable)
    pairs = tuple(_pair(f"{name}[{number}]", value, number + 1) for number, value in enumerate(values))
    _check_all_or_none(name, pairs)
    return PairsInMemory(pairs)


def _pair(name: str, value: object, line: int) -> Pair:
    source, target, features = _fields(value)
    if not isinstance(source, str) or not isinstance(target, str):
        raise wrong_type(name, value, EXPECTED)
    for side, text in (("source", source), ("target", target)):
        _check_text(text, name, side)
    return Pair(source, target, line, _features(name, features))


def _features(name: str, value: object) -> Features | None:
    if value is None or isinstance(value, str):
        _check_text(value or "", name, "feature text")
        return value
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise wrong_type(f"{name}.features", value, EXPECTED_FEATURES)
    for item in value:
        _check_text(item, name, "feature text")
    return tuple(value)


def _check_text(text: str, name: str, field: str) -> None:
    check_field(text, name, field, "Decode the text with the right encoding, and without surrogateescape")


def _check_all_or_none(name: str, pairs: Sequence[Pair]) -> None:
    """Check that all pairs have features, or none."""
    other = next((pair for pair in pairs if (pair.features is None) != (pairs[0].features is None)), None)
    if other is not None:
        has, first = ("no features", "some") if other.features is None else ("features", "none")
        raise DataError(
            f"{name}[{other.line - 1}]",
            f"this pair has {has}, and the first one has {first}",
            "Expected features in every pair, or in none",
            'Give the others features, too, which may be ""',
        )


def _fields(value: object) -> tuple[object, object, object]:
    """Return source, target and features, None if there are none."""
    if isinstance(value, Mapping):
        return value.get("source"), value.get("target"), value.get("features")
    if hasattr(value, "source") and hasattr(value, "target"):
        return value.source, value.target, getattr(value, "features", None)
    if isinstance(value, str | bytes | Set) or not isinstance(value, Iterable):
        return None, None, None
    items = tuple(value)
    if len(items) == 2:
        return (*items, None)
    return items if len(items) == 3 and items[2] is not None else (None, None, None)
