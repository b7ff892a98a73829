"""Figures by the length of the source: does quality fall where much must pass through one context vector?

The question of Sutskever et al. 2014 (figure 3) and Bahdanau et al. 2015 (figure 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freerun.evaluation.evaluate import Evaluation
from freerun.metrics.intervals import Interval, ratio_interval

__all__ = ["Band", "by_source_length", "length_bands"]

BANDS = 8


@dataclass(frozen=True, slots=True)
class Band:
    """The sources of ``shortest`` to ``longest`` tokens (EOS not counted), both included, and their figures by name."""

    shortest: int
    longest: int
    sources: int
    figures: dict[str, Interval]


def by_source_length(evaluation: Evaluation, lengths: Sequence[int], bands: int = BANDS) -> list[Band]:
    """The figures of an evaluation in bands of source length, shortest first.

    lengths: [N], the tokens of each source without EOS.
    """
    sizes = np.asarray(lengths)
    return [_band(evaluation, sizes, *ends) for ends in length_bands(sizes, bands)]


def length_bands(lengths: npt.NDArray[np.int_], bands: int = BANDS) -> list[tuple[int, int]]:
    """Shortest and longest length of each of at most ``bands`` bands that hold about as many sources each.

    A length is never in two bands, and a rest of less than half a band's share joins the last one.
    """
    values, counts = np.unique(lengths, return_counts=True)
    share = len(lengths) / bands
    found: list[tuple[int, int]] = []
    first, held = 0, 0
    for index, count in enumerate(counts):
        held += int(count)
        if held >= share:
            found.append((int(values[first]), int(values[index])))
            first, held = index + 1, 0
    if held and (held >= share / 2 or not found):
        found.append((int(values[first]), int(values[-1])))
    elif held:
        found[-1] = (found[-1][0], int(values[-1]))
    return found


def _band(evaluation: Evaluation, lengths: npt.NDArray[np.int_], shortest: int, longest: int) -> Band:
    rows = np.flatnonzero((lengths >= shortest) & (lengths <= longest))
    figures = {
        name: ratio_interval(np.asarray(above)[rows], np.asarray(below)[rows])
        for name, (above, below) in evaluation.ratios.items()
    }
    for name, score in evaluation.free.scores.items():
        figures[name] = score.of(rows).interval()
    return Band(shortest, longest, len(rows), figures)
