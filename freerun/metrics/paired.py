"""Comparison of two models on the same sources: paired bootstrap and McNemar's test.

Dimensions: N sources, R resamples. Differences are B minus A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freerun.metrics.accuracy import Values, ratio
from freerun.metrics.intervals import RESAMPLES, Interval, percentile_interval, resampled_ratios

__all__ = ["Difference", "McNemar", "mcnemar", "paired_bootstrap", "paired_ratios"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of two models, the difference B - A with its 95 % interval, and a two-sided p-value."""

    a: float
    b: float
    difference: Interval
    p_value: float


@dataclass(frozen=True, slots=True)
class McNemar:
    """The numbers of sources on which only A, or only B, was correct, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p_value: float


def paired_bootstrap(
    a: float, b: float, resampled_a: npt.NDArray[np.float64], resampled_b: npt.NDArray[np.float64]
) -> Difference:
    """Compare metrics whose resamples [R] were drawn together (Koehn 2004, two-sided).

    p is twice the fraction of resamples on the rarer side of zero difference, with one added to the count so that it is
    never 0. NaN if a metric is undefined.
    """
    differences = resampled_b - resampled_a
    differences = differences[~np.isnan(differences)]
    rarer = int(min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0)))
    defined = len(differences) and not math.isnan(b - a)
    p_value = min(1.0, 2 * (rarer + 1) / (len(differences) + 1)) if defined else math.nan
    return Difference(a, b, percentile_interval(b - a, differences), p_value)


def paired_ratios(
    a: tuple[Values, Values], b: tuple[Values, Values], resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Compare sum(numerators) / sum(denominators) of two models, each given as a pair of arrays [N]."""
    return paired_bootstrap(
        ratio(*a), ratio(*b), resampled_ratios(*a, resamples, seed), resampled_ratios(*b, resamples, seed)
    )


def mcnemar(correct_a: npt.NDArray[np.bool_], correct_b: npt.NDArray[np.bool_]) -> McNemar:
    """Run McNemar's test (1947) on the correct outputs [N] of two models.

    Under the null hypothesis a source that only one model gets right is A's or B's like a fair coin flip. The binomial
    tail is summed exactly for any number of sources, so no normal approximation is needed.
    """
    only_a = int(np.count_nonzero(correct_a & ~correct_b))
    only_b = int(np.count_nonzero(correct_b & ~correct_a))
    return McNemar(only_a, only_b, min(1.0, 2 * _binomial_tail(min(only_a, only_b), only_a + only_b)))


def _binomial_tail(heads: int, flips: int) -> float:
    """Return the probability of at most ``heads`` heads in ``flips`` flips of a fair coin."""
    # In logarithms: binomial coefficients of some thousand flips exceed a float.
    logs = (math.lgamma(flips + 1) - math.lgamma(k + 1) - math.lgamma(flips - k + 1) for k in range(heads + 1))
    return math.fsum(math.exp(log - flips * math.log(2)) for log in logs)
