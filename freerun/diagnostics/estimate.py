"""Estimates with 95 % intervals: ratios of sums over sources, and what is computed of several of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.metrics.intervals import percentile_interval, resampled_sums
from freerun.randomness import numpy_generator

__all__ = ["Columns", "Estimate", "Resampled"]

Floats = npt.NDArray[np.float64]
Columns = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Numerators [N] and denominators [N], one of each a source."""


class Estimate(NamedTuple):
    """A figure, the ends of its interval (None where undefined), and the number of sources that it rests on."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class Resampled:
    """Ratios over the same N sources, resampled together, so that a figure made of several keeps how they go together.

    Args:
        ratios: name to numerators and denominators [N].
    """

    def __init__(self, ratios: Mapping[str, Columns]) -> None:
        self._places = {name: place for place, name in enumerate(ratios)}
        columns = np.stack([np.asarray(column, np.float64) for pair in ratios.values() for column in pair], 1)
        self._counts = np.count_nonzero(columns[:, 1::2], axis=0)
        self._sums = np.concatenate([columns.sum(0, keepdims=True), resampled_sums(columns)])

    def ratio(self, name: str) -> Estimate:
        """Sum of the numerators by sum of the denominators."""
        return self.of(lambda ratio: ratio, name)

    def quotient(self, above: str, below: str) -> Estimate:
        """One ratio by another."""
        return self.of(_by, above, below)

    def of(self, function: Callable[..., Floats], *names: str) -> Estimate:
        """``function`` of the named ratios, which come as arrays over resamples; ``n`` is that of the first."""
        ratios = [_by(self._sums[:, 2 * place], self._sums[:, 2 * place + 1]) for place in map(self._place, names)]
        with np.errstate(invalid="ignore"):
            found = function(*ratios)
        interval = percentile_interval(float(found[0]), found[1:])
        count = int(self._counts[self._place(names[0])])
        return Estimate(_defined(interval.value), _defined(interval.low), _defined(interval.high), count)

    def mean_over_draws(self, names: Sequence[str]) -> Estimate:
        """The mean of ratios of which each is one draw (a seed), drawn again in every resample; all sources count."""
        drawn = numpy_generator(0, "seeds of a study").integers(len(names), size=(len(self._sums) - 1, len(names)))

        def mean(*ratios: Floats) -> Floats:
            values = np.stack(ratios, 1)
            return np.concatenate([values[:1].mean(1), np.take_along_axis(values[1:], drawn, 1).mean(1)])

        return self.of(mean, *names)

    def _place(self, name: str) -> int:
        return self._places[name]


def _by(above: Floats, below: Floats) -> Floats:
    """One by the other; NaN, which is to say undefined, by 0."""
    result = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=result, where=below != 0)
    return result


def _defined(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
