"""Is an arm better than the control, over seeds and sources?

Legend: S seeds, N sources, R resamples. Differences are arm minus control under the same seed, which shares initial
weights, data order and dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.diagnostics.estimate import Columns
from freerun.errors import MissingExtraError
from freerun.metrics.intervals import RESAMPLES, Interval, percentile_interval, resampled_sums
from freerun.randomness import numpy_generator

try:
    from scipy.stats import t as student
except ModuleNotFoundError as missing:
    raise MissingExtraError("scipy", "report", "comparing runs over seeds") from missing

__all__ = ["FEWEST_SEEDS", "PairedT", "Tested", "hierarchical_bootstrap", "holm", "paired_t", "smallest_detectable"]

Floats = npt.NDArray[np.float64]
FEWEST_SEEDS = 5
"""With fewer nothing is claimed: even a sign-flip test over n seeds cannot go below p = 2 ** (1 - n)."""
POWER = 0.8
LEVEL = 0.05


class Tested(NamedTuple):
    """A mean difference with its 95 % interval and two-sided p-value."""

    difference: Interval
    p_value: float


class PairedT(NamedTuple):
    """The same over seeds alone; NaN with one seed."""

    difference: Interval
    p_value: float


def hierarchical_bootstrap(
    arm: Sequence[Columns], control: Sequence[Columns], resamples: int = RESAMPLES, seed: int = 0
) -> Tested:
    """Resample seeds, then sources: figures [S] of (numerators, denominators) [N] each, paired by seed.

    All seeds see the same sources, so one draw of sources serves all seeds of a resample: drawn anew for each seed, the
    chance in the sources would average out over seeds, as if more seeds meant more test data.
    """
    stacked = np.stack([column for pair in zip(arm, control, strict=True) for columns in pair for column in columns], 1)
    sums = resampled_sums(stacked, resamples, seed).reshape(resamples, len(arm), 2, 2)
    differences_RS = _difference(sums)
    drawn = numpy_generator(seed, "seeds of a study").integers(len(arm), size=(resamples, len(arm)))
    means = np.take_along_axis(differences_RS, drawn, 1).mean(1)
    value = float(_difference(stacked.sum(0).reshape(1, len(arm), 2, 2)).mean())
    if np.isnan(value):
        return Tested(percentile_interval(value, means), np.nan)
    means = means[~np.isnan(means)]
    rarer = int(min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0)))
    return Tested(percentile_interval(value, means), min(1.0, 2 * (rarer + 1) / (len(means) + 1)))


def _difference(sums: Floats) -> Floats:
    """Arm minus control: [..., S, 2, 2] (arm or control, numerator or denominator) to [..., S]."""
    below = np.where(sums[..., 1] == 0, np.nan, sums[..., 1])
    ratios = sums[..., 0] / below
    found: Floats = ratios[..., 0] - ratios[..., 1]
    return found


def paired_t(differences: Sequence[float]) -> PairedT:
    """Student's t over seeds: mean of ``differences`` [S], its 95 % interval, two-sided p."""
    size, mean = len(differences), float(np.mean(differences))
    if size < 2:
        return PairedT(Interval(mean, np.nan, np.nan), np.nan)
    error = float(np.std(differences, ddof=1)) / size**0.5
    reach = float(student.ppf(1 - LEVEL / 2, size - 1)) * error
    p_value = float(2 * student.sf(abs(mean) / error, size - 1)) if error else (0.0 if mean else 1.0)
    return PairedT(Interval(mean, mean - reach, mean + reach), p_value)


def smallest_detectable(differences: Sequence[float]) -> float:
    """The true difference that a paired t test over as many seeds would find in 80 % of studies; NaN with one seed.

    (t_(1 - 0.05 / 2) + t_0.8) s / sqrt(S), s the standard deviation of the differences seen.
    """
    size = len(differences)
    if size < 2:
        return float("nan")
    reach = student.ppf(1 - LEVEL / 2, size - 1) + student.ppf(POWER, size - 1)
    return float(reach * np.std(differences, ddof=1) / size**0.5)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction (1979): p-values that hold for all comparisons together."""
    order = np.argsort(p_values, kind="stable")
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        # the undefined ones come last, and stay what they are
        worst = max(min(1.0, (len(p_values) - rank) * p_values[place]), worst)
        adjusted[place] = np.nan if np.isnan(p_values[place]) else worst
    return adjusted
