"""Sequence accuracy and symbol error rate, from one value per source."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.metrics.edit_distance import closest_reference

__all__ = ["EditDistances", "edit_distances", "exact_matches", "ratio", "sequence_accuracy", "symbol_error_rate"]

Tokens = Sequence[Hashable]
Values = npt.NDArray[np.integer | np.floating | np.bool_]


class EditDistances(NamedTuple):
    """The distance of each source's output to its closest reference, and that reference's length [N]."""

    distances: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


def edit_distances(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> EditDistances:
    """Compute the distances of N hypotheses to their closest references; each source has at least one reference."""
    # reshape keeps two columns if there are no sources.
    closest = [closest_reference(*pair) for pair in zip(hypotheses, references, strict=True)]
    distances, lengths = np.array(closest, np.int64).reshape(-1, 2).T
    return EditDistances(distances, lengths)


def exact_matches(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> npt.NDArray[np.bool_]:
    """Return True for each of N hypotheses that equals one of its references [N]."""
    pairs = zip(hypotheses, references, strict=True)
    return np.array([any(_equal(hypothesis, reference) for reference in each) for hypothesis, each in pairs], np.bool_)


def _equal(one: Tokens, other: Tokens) -> bool:
    # Search returns tuples, codecs return lists.
    return list(one) == list(other)


def ratio(numerators: Values, denominators: Values) -> float:
    """Return the ratio of two sums over sources; NaN (undefined) if the second is 0."""
    total = float(denominators.sum())
    return float(numerators.sum()) / total if total else float("nan")


def sequence_accuracy(matches: npt.NDArray[np.bool_]) -> float:
    """Return the fraction (0 to 1) of sources whose output equals a reference; NaN without sources."""
    return ratio(matches, np.ones(len(matches)))


def symbol_error_rate(distances: EditDistances) -> float:
    """Return sum of distances / sum of the closest references' lengths (0 or more; NaN if all of these are empty)."""
    return ratio(distances.distances, distances.lengths)
