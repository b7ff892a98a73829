"""Tests of the difference between an arm and the control, over seeds and sources.

Shape suffixes: S seeds, N sources, R resamples. Differences are arm minus control under the same seed, which shares
initial weights, data order and dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from freerun.diagnostics.estimate import Columns
from freerun.errors import MissingExtraError
from freerun.metrics.intervals import RESAMPLES, Interval, resampled_sums
from freerun.metrics.paired import paired_bootstrap
from freerun.randomness import numpy_generator

try:
    from scipy.optimize import brentq
    from scipy.stats import nct as noncentral_student
    from scipy.stats import t as student
except ModuleNotFoundError as missing:
    raise MissingExtraError("scipy", "report", "comparing runs over seeds") from missing

__all__ = ["LEVEL", "MIN_SEEDS", "Tested", "hierarchical_bootstrap", "holm", "paired_t", "smallest_detectable"]

MIN_SEEDS = 5
"""With fewer seeds nothing is claimed: even a sign-flip test over n seeds cannot go below p = 2 ** (1 - n)."""
POWER = 0.8
LEVEL = 0.05


class Tested(NamedTuple):
    """A mean difference with its 95 % interval and two-sided p-value."""

    difference: Interval
    p_value: float


def hierarchical_bootstrap(
    arm: Sequence[Columns], control: Sequence[Columns], resamples: int = RESAMPLES, seed: int = 0
) -> Tested:
    """Resample seeds, then sources, of metrics [S], each (numerators, denominators) [N], paired by seed.

    All seeds share the sources, so one sample of sources serves all seeds of a resample: sampled anew for each seed,
    their variance would average out over seeds, as if more seeds meant more test data.

    With one seed the p-value is NaN, since the seed's effect cannot be separated from the arm's, and the interval is
    one over sources. Resampling S seeds underestimates their variance by a factor of (S - 1) / S, so if seeds differ
    more than sources, the interval is too narrow with few seeds (docs/study.md has numbers): a verdict needs
    ``paired_t``, too.
    """
    stacked = np.stack([column for pair in zip(arm, control, strict=True) for columns in pair for column in columns], 1)
    sums = np.concatenate([stacked.sum(0, keepdims=True), resampled_sums(stacked, resamples, seed)])
    sums = sums.reshape(-1, len(arm), 2, 2)  # arm or control, numerator or denominator
    ratios_RS2 = sums[..., 0] / np.where(sums[..., 1] == 0, np.nan, sums[..., 1])
    draws = numpy_generator(seed, "seeds of a study").integers(len(arm), size=(resamples, len(arm)))
    means_R2 = np.take_along_axis(ratios_RS2[1:], draws[..., None], 1).mean(1)
    of_arm, of_control = ratios_RS2[0].mean(0).tolist()
    result = paired_bootstrap(of_control, of_arm, means_R2[:, 1], means_R2[:, 0])
    return Tested(result.difference, result.p_value if len(arm) > 1 else np.nan)


def paired_t(differences: Sequence[float]) -> Tested:
    """Run Student's t test over seeds on ``differences`` [S]; the interval and p-value are NaN with one seed."""
    size, mean = len(differences), float(np.mean(differences))
    if size < 2:
        return Tested(Interval(mean, np.nan, np.nan), np.nan)
    error = float(np.std(differences, ddof=1)) / size**0.5
    margin = float(student.ppf(1 - LEVEL / 2, size - 1)) * error
    p_value = float(2 * student.sf(abs(mean) / error, size - 1)) if error else (0.0 if mean else 1.0)
    return Tested(Interval(mean, mean - margin, mean + margin), p_value)


def smallest_detectable(differences: Sequence[float], comparisons: int = 1) -> float:
    """Return the true difference that a paired t test over as many seeds finds in 80 % of studies; NaN with one seed.

    The test is at 0.05 / ``comparisons``, the level that Holm's correction sets for the smallest of that many p-values.
    The result is shift * s / sqrt(S), with s the standard deviation of ``differences`` [S].
    """
    size = len(differences)
    if size < 2:
        return float("nan")
    return float(_detectable_shift(size, comparisons) * np.std(differences, ddof=1) / size**0.5)


@cache
def _detectable_shift(size: int, comparisons: int) -> float:
    """Return the noncentrality at which t with ``size`` - 1 degrees of freedom exceeds its limit 4 times out of 5."""
    limit = float(student.ppf(1 - LEVEL / comparisons / 2, size - 1))
    return float(brentq(lambda shift: noncentral_student.sf(limit, size - 1, shift) - POWER, 0.0, 4 * limit + 4))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for all comparisons together (Holm 1979).

    Undefined ones (NaN) stay NaN and do not count as hypotheses, since they can never be rejected.
    """
    order = np.argsort(p_values, kind="stable")  # NaN last
    hypotheses = int(np.count_nonzero(~np.isnan(p_values)))
    adjusted, worst = [float("nan")] * len(p_values), 0.0
    for rank, position in enumerate(order[:hypotheses]):
        worst = max(min(1.0, (hypotheses - rank) * p_values[position]), worst)
        adjusted[position] = worst
    return adjusted
