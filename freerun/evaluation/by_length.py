"""Metrics by source length: does quality fall when a long source must pass through one context vector?

The question of Sutskever et al. 2014 (figure 3) and Bahdanau et al. 2015 (figure 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freerun.evaluation.searcher_evaluation import Evaluation
from freerun.metrics.intervals import Interval, ratio_interval

__all__ = ["Band", "by_source_length", "length_bands"]

BANDS = 8


@dataclass(frozen=True, slots=True)
class Band:
    """The sources of ``shortest`` to ``longest`` tokens (inclusive, without EOS), and their metrics by name."""

    shortest: int
    longest: int
    sources: int
    metrics: dict[str, Interval]


def by_source_length(evaluation: Evaluation, lengths: Sequence[int], bands: int = BANDS) -> list[Band]:
    """Return the metrics of an evaluation in bands of source length, shortest first.

    lengths: [N], tokens of each source without EOS.
    """
    sizes = np.asarray(lengths)
    return [_band(evaluation, sizes, *ends) for ends in length_bands(sizes, bands)]


def length_bands(lengths: npt.NDArray[np.int_], bands: int = BANDS) -> list[tuple[int, int]]:
    """Return the shortest and longest length of at most ``bands`` bands with about the same number of sources each.

    No length is in two bands, and a remainder of less than half a band joins the last one.
    """
    values, counts = np.unique(lengths, return_counts=True)
    size = len(lengths) / bands
    result: list[tuple[int, int]] = []
    first, held = 0, 0
    for index, count in enumerate(counts):
        held += int(count)
        if held >= size:
            result.append((int(values[first]), int(values[index])))
            first, held = index + 1, 0
    if held and (held >= size / 2 or not result):
        result.append((int(values[first]), int(values[-1])))
    elif held:
        result[-1] = (result[-1][0], int(values[-1]))
    return result


def _band(evaluation: Evaluation, lengths: npt.NDArray[np.int_], shortest: int, longest: int) -> Band:
    rows = np.flatnonzero((lengths >= shortest) & (lengths <= longest))
    metrics = {
        name: ratio_interval(np.asarray(above)[rows], np.asarray(below)[rows])
        for name, (above, below) in evaluation.ratios.items()
    }
    for name, score in evaluation.free.scores.items():
        metrics[name] = score.of(rows).interval()
    return Band(shortest, longest, len(rows), metrics)
