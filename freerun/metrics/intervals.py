"""Percentile bootstrap over sources (Efron & Tibshirani 1993, chapter 13).

The sources of resample r depend on (seed, number of sources) only, so figures of two models on the same sources are
resampled together, and their difference is a paired one. Legend: N sources, C columns of figures, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freerun.metrics.accuracy import Figures, ratio
from freerun.randomness import numpy_generator

__all__ = [
    "LEVEL",
    "RESAMPLES",
    "Interval",
    "percentile_interval",
    "ratio_interval",
    "resampled_ratios",
    "resampled_sums",
]

RESAMPLES = 1000
LEVEL = 0.95

_BLOCK = 50  # resamples drawn together: memory stays at _BLOCK numbers a source

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the ends of its interval; all NaN where it is undefined."""

    value: float
    low: float
    high: float


def resampled_sums(figures: Figures, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Sums [R, C] of ``figures`` [N, C] over N sources drawn with replacement, R times."""
    sources = len(figures)
    columns = figures.astype(np.float64, copy=False)
    generator = numpy_generator(seed, "bootstrap")
    sums = np.empty((resamples, columns.shape[1]))
    for first in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - first)
        # Counting how often each source was drawn turns summing R samples into one matrix product. The offset gives
        # each row of the block counters of its own.
        drawn = generator.integers(sources, size=(rows, sources)) + sources * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * sources).reshape(rows, sources)
        sums[first : first + rows] = counts.astype(np.float64) @ columns
    return sums


def resampled_ratios(numerators: Figures, denominators: Figures, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """``ratio`` of each resample [R]; NaN where it is undefined."""
    sums = resampled_sums(np.stack((numerators, denominators), axis=1), resamples, seed)
    ratios = np.full(len(sums), np.nan)
    np.divide(sums[:, 0], sums[:, 1], out=ratios, where=sums[:, 1] != 0)
    return ratios


def percentile_interval(value: float, resampled: Floats, level: float = LEVEL) -> Interval:
    """The middle ``level`` of the ``resampled`` values [R] around ``value``; undefined ones are left out."""
    defined = resampled[~np.isnan(resampled)]
    if np.isnan(value) or not len(defined):
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(defined, ((1 - level) / 2, (1 + level) / 2))
    return Interval(value, float(low), float(high))


def ratio_interval(numerators: Figures, denominators: Figures, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """sum(numerators) / sum(denominators), both [N], with its 95 % interval."""
    resampled = resampled_ratios(numerators, denominators, resamples, seed)
    return percentile_interval(ratio(numerators, denominators), resampled)
