"""Estimates with 95 % intervals: ratios of sums over sources, and functions of such ratios."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.metrics.defined import finite_or_none
from freerun.metrics.intervals import percentile_interval, resampled_sums
from freerun.randomness import numpy_generator

__all__ = ["Columns", "Estimate", "Resampled", "safe_divide"]

Floats = npt.NDArray[np.float64]
Columns = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Numerators [N] and denominators [N], one of each per source."""


class Estimate(NamedTuple):
    """A value, the ends of its interval (None if undefined), and the number of sources that it is computed from."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class Resampled:
    """Ratios over the same N sources, resampled together, so that functions of several ratios keep their correlation.

    Args:
        ratios: name to numerators and denominators [N].
    """

    def __init__(self, ratios: Mapping[str, Columns]) -> None:
        self._positions = {name: position for position, name in enumerate(ratios)}
        columns = np.stack([np.asarray(column, np.float64) for pair in ratios.values() for column in pair], 1)
        self._counts = np.count_nonzero(columns[:, 1::2], axis=0)
        self._sums = np.concatenate([columns.sum(0, keepdims=True), resampled_sums(columns)])

    def ratio(self, name: str) -> Estimate:
        """Return the sum of the numerators divided by the sum of the denominators."""
        return self.of(lambda ratio: ratio, name)

    def quotient(self, above: str, below: str) -> Estimate:
        """Return one ratio divided by another."""
        return self.of(safe_divide, above, below)

    def of(self, function: Callable[..., Floats], *names: str) -> Estimate:
        """Return ``function`` of the named ratios, given as arrays over resamples; ``n`` is that of the first."""
        columns = [2 * self._positions[name] for name in names]
        ratios = [safe_divide(self._sums[:, column], self._sums[:, column + 1]) for column in columns]
        with np.errstate(invalid="ignore"):
            values = function(*ratios)
        interval = percentile_interval(float(values[0]), values[1:])
        count = int(self._counts[self._positions[names[0]]])
        ends = (finite_or_none(interval.low), finite_or_none(interval.high))
        return Estimate(finite_or_none(interval.value), *ends, count)

    def mean_over_draws(self, names: Sequence[str]) -> Estimate:
        """Return the mean of ratios, one per seed; each resample draws seeds anew and counts all sources."""
        seeds = numpy_generator(0, "seeds of a study").integers(len(names), size=(len(self._sums) - 1, len(names)))

        def mean(*ratios: Floats) -> Floats:
            values = np.stack(ratios, 1)
            return np.concatenate([values[:1].mean(1), np.take_along_axis(values[1:], seeds, 1).mean(1)])

        return self.of(mean, *names)


def safe_divide(above: Floats, below: Floats) -> Floats:
    """Return ``above / below``, NaN (undefined) where ``below`` is 0."""
    result = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=result, where=below != 0)
    return result
