"""Pairs that a program passes in, checked as the lines of a file are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from freerun.arguments import check_items, wrong_type
from freerun.data.readers import Pair, check_field

__all__ = ["PairsInMemory", "pairs_in_memory"]

EXPECTED = '(source, target), two str, or {"source": str, "target": str}'


@dataclass(frozen=True)
class PairsInMemory:
    """Pairs that no file holds; ``Pair.line`` is the position in the iterable, from 1."""

    pairs: tuple[Pair, ...]

    def __str__(self) -> str:
        return "pairs in memory"


def pairs_in_memory(name: str, values: object) -> PairsInMemory:
    """Read an iterable of pairs: (source, target), or mappings or objects with a source and a target.

    Args:
        name: of the argument, for messages.
        values: a list, a generator, the rows of a DataFrame.

    Raises:
        TypeError: no iterable, a table, or an item that is no pair of two str.
        DataError: a text that no line of a TSV file could hold.
    """
    if hasattr(values, "columns"):  # a DataFrame iterates over its columns or their names
        raise TypeError(
            f"{name}: the value is a table ({type(values).__name__}), not its rows. Expected an iterable of (source, "
            'target), for example df[["source", "target"]].values or df.itertuples().'
        )
    check_items(name, values, "pairs (source, target)")
    assert isinstance(values, Iterable)
    return PairsInMemory(tuple(_pair(f"{name}[{number}]", value, number + 1) for number, value in enumerate(values)))


def _pair(name: str, value: object, line: int) -> Pair:
    source, target = _sides(value)
    if not isinstance(source, str) or not isinstance(target, str):
        raise wrong_type(name, value, EXPECTED)
    for side, text in (("source", source), ("target", target)):
        check_field(text, name, side, "Decode the text with the right encoding, and without surrogateescape")
    return Pair(source, target, line)


def _sides(value: object) -> tuple[object, object]:
    if isinstance(value, Mapping):
        return value.get("source"), value.get("target")
    if hasattr(value, "source") and hasattr(value, "target"):
        return value.source, value.target
    if isinstance(value, str | bytes | Set) or not isinstance(value, Iterable):
        return None, None
    sides = tuple(value)
    return (sides[0], sides[1]) if len(sides) == 2 else (None, None)
