"""Levenshtein distance between token sequences."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from freerun.errors import MissingExtraError

try:
    from rapidfuzz.distance import Levenshtein
except ModuleNotFoundError as missing:
    raise MissingExtraError("rapidfuzz", "train", "measuring edit distances") from missing

__all__ = ["Closest", "closest_reference", "edit_distance"]


class Closest(NamedTuple):
    """The distance to the closest reference, and the length of that reference in tokens."""

    distance: int
    length: int


def edit_distance(hypothesis: Sequence[Hashable], reference: Sequence[Hashable]) -> int:
    """Return the minimum number of insertions, deletions and substitutions that turn one sequence into the other."""
    return Levenshtein.distance(hypothesis, reference)


def closest_reference(hypothesis: Sequence[Hashable], references: Iterable[Sequence[Hashable]]) -> Closest:
    """Return the closest reference, of several equally close ones the longest; ValueError if there is none."""
    # Negative lengths, so that the smallest pair is the longest of the closest.
    distances = [(edit_distance(hypothesis, reference), -len(reference)) for reference in references]
    if not distances:
        raise ValueError("no reference to compare with")
    distance, length = min(distances)
    return Closest(distance, -length)
