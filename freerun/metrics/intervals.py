"""Percentile bootstrap over sources (Efron & Tibshirani 1993, chapter 13).

The sources of resample r depend only on (seed, number of sources), so metrics of two models on the same sources are
resampled together, and their difference is paired. Dimensions: N sources, C columns of values, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freerun.metrics.accuracy import Values, ratio
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

_BLOCK = 50  # resamples that are drawn together: limits memory to _BLOCK numbers per source

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the ends of its interval; all NaN if it is undefined."""

    value: float
    low: float
    high: float


def resampled_sums(values: Values, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Compute the sums [R, C] of ``values`` [N, C] over R samples of N sources, drawn with replacement."""
    sources = len(values)
    columns = values.astype(np.float64, copy=False)
    generator = numpy_generator(seed, "bootstrap")
    sums = np.empty((resamples, columns.shape[1]))
    for first in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - first)
        # With counts of how often each source was drawn, the sums of R samples are one matrix product. The offset
        # gives each row of the block separate counters.
        draws = generator.integers(sources, size=(rows, sources)) + sources * np.arange(rows)[:, None]
        counts = np.bincount(draws.ravel(), minlength=rows * sources).reshape(rows, sources)
        sums[first : first + rows] = counts.astype(np.float64) @ columns
    return sums


def resampled_ratios(numerators: Values, denominators: Values, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Compute the ``ratio`` of each resample [R]; NaN where it is undefined."""
    sums = resampled_sums(np.stack((numerators, denominators), axis=1), resamples, seed)
    ratios = np.full(len(sums), np.nan)
    np.divide(sums[:, 0], sums[:, 1], out=ratios, where=sums[:, 1] != 0)
    return ratios


def percentile_interval(value: float, resampled: Floats, level: float = LEVEL) -> Interval:
    """Return the central interval of the ``resampled`` values [R] that holds ``level`` of them; NaNs are left out."""
    defined = resampled[~np.isnan(resampled)]
    if np.isnan(value) or not len(defined):
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(defined, ((1 - level) / 2, (1 + level) / 2))
    return Interval(value, float(low), float(high))


def ratio_interval(numerators: Values, denominators: Values, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return ``sum(numerators) / sum(denominators)``, both [N], with its 95 % interval."""
    resampled = resampled_ratios(numerators, denominators, resamples, seed)
    return percentile_interval(ratio(numerators, denominators), resampled)
