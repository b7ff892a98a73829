"""Sequence accuracy and symbol error rate, from one figure a source."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.metrics.edit_distance import closest_reference

__all__ = ["EditDistances", "edit_distances", "exact_matches", "ratio", "sequence_accuracy", "symbol_error_rate"]

Tokens = Sequence[Hashable]
Figures = npt.NDArray[np.integer | np.floating | np.bool_]


class EditDistances(NamedTuple):
    """For each source [N]: distance to the closest reference, and that reference's length."""

    distances: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


def edit_distances(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> EditDistances:
    """Distances of N hypotheses to the closest of their references; each source has at least one."""
    # reshape keeps two columns when there are no sources.
    closest = [closest_reference(*pair) for pair in zip(hypotheses, references, strict=True)]
    distances, lengths = np.array(closest, np.int64).reshape(-1, 2).T
    return EditDistances(distances, lengths)


def exact_matches(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> npt.NDArray[np.bool_]:
    """Whether each of N hypotheses equals any of its references [N]."""
    pairs = zip(hypotheses, references, strict=True)
    return np.array([any(_equal(hypothesis, each) for each in right) for hypothesis, right in pairs], np.bool_)


def _equal(one: Tokens, other: Tokens) -> bool:
    # Tuples of a search and lists of a codec hold the same tokens.
    return list(one) == list(other)


def ratio(numerators: Figures, denominators: Figures) -> float:
    """Sum over sources by sum over sources; NaN, which is to say undefined, when the latter is 0."""
    total = float(denominators.sum())
    return float(numerators.sum()) / total if total else float("nan")


def sequence_accuracy(matches: npt.NDArray[np.bool_]) -> float:
    """Share (0-1) of sources whose output equals a reference; NaN without sources."""
    return ratio(matches, np.ones(len(matches)))


def symbol_error_rate(distances: EditDistances) -> float:
    """Sum of distances by sum of the closest references' lengths (0 and up; NaN when all of them are empty)."""
    return ratio(distances.distances, distances.lengths)
