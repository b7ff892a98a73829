"""Is one model better than another on the same sources? Paired bootstrap and McNemar's test.

Legend: N sources, R resamples. Differences are B minus A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freerun.metrics.accuracy import Figures, ratio
from freerun.metrics.intervals import RESAMPLES, Interval, percentile_interval, resampled_ratios

__all__ = ["Difference", "McNemar", "mcnemar", "paired_bootstrap", "paired_ratios"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Figures of two models, their difference B - A with its 95 % interval, and a two-sided p-value."""

    a: float
    b: float
    difference: Interval
    p_value: float


@dataclass(frozen=True, slots=True)
class McNemar:
    """On how many sources only A, and only B, was right; the exact two-sided p-value."""

    only_a: int
    only_b: int
    p_value: float


def paired_bootstrap(
    a: float, b: float, resampled_a: npt.NDArray[np.float64], resampled_b: npt.NDArray[np.float64]
) -> Difference:
    """Compare figures whose resamples [R] were drawn together (Koehn 2004, with two sides).

    p is twice the share of resamples on the rarer side of no difference, where one more is counted than was seen, so
    that it is never 0. NaN where a figure is undefined.
    """
    differences = resampled_b - resampled_a
    differences = differences[~np.isnan(differences)]
    rarer = int(min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0)))
    defined = len(differences) and not math.isnan(b - a)
    p_value = min(1.0, 2 * (rarer + 1) / (len(differences) + 1)) if defined else math.nan
    return Difference(a, b, percentile_interval(b - a, differences), p_value)


def paired_ratios(
    a: tuple[Figures, Figures], b: tuple[Figures, Figures], resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Compare sum(numerators) / sum(denominators) of two models, each given as a pair of arrays [N]."""
    return paired_bootstrap(
        ratio(*a), ratio(*b), resampled_ratios(*a, resamples, seed), resampled_ratios(*b, resamples, seed)
    )


def mcnemar(right_a: npt.NDArray[np.bool_], right_b: npt.NDArray[np.bool_]) -> McNemar:
    """McNemar's test (1947) on two models' right outputs [N].

    Without a difference, a source that only one gets right is A's or B's like a coin's throw; the binomial tail is
    summed exactly, whatever the number, so no normal approximation is needed.
    """
    only_a = int(np.count_nonzero(right_a & ~right_b))
    only_b = int(np.count_nonzero(right_b & ~right_a))
    return McNemar(only_a, only_b, min(1.0, 2 * _coin_tail(min(only_a, only_b), only_a + only_b)))


def _coin_tail(heads: int, throws: int) -> float:
    """Probability of at most ``heads`` heads in ``throws`` throws of a fair coin."""
    # In logarithms: binomial coefficients of some thousand throws exceed a float.
    logs = (math.lgamma(throws + 1) - math.lgamma(k + 1) - math.lgamma(throws - k + 1) for k in range(heads + 1))
    return math.fsum(math.exp(log - throws * math.log(2)) for log in logs)
