"""Estimates of several ratios at once."""

from __future__ import annotations

import numpy as np
import pytest

from freerun.diagnostics.estimate import Estimate, Resampled
from freerun.metrics.intervals import ratio_interval

GENERATOR = np.random.default_rng(0)
ABOVE, BELOW = GENERATOR.integers(0, 5, 40), GENERATOR.integers(0, 3, 40)


def test_a_ratio_has_the_interval_of_evaluate():
    expected = ratio_interval(ABOVE, BELOW)
    found = Resampled({"other": (BELOW, ABOVE), "one": (ABOVE, BELOW)}).ratio("one")
    assert found[:3] == pytest.approx((expected.value, expected.low, expected.high))
    assert found.n == np.count_nonzero(BELOW)


def test_a_quotient_is_resampled_as_a_whole():
    made = Resampled({"one": (ABOVE, BELOW), "double": (2 * ABOVE, BELOW), "none": (ABOVE, 0 * BELOW)})
    assert made.quotient("double", "one") == pytest.approx((2.0, 2.0, 2.0, np.count_nonzero(BELOW)))
    assert made.quotient("one", "none") == Estimate(None, None, None, np.count_nonzero(BELOW))


def test_what_is_undefined_is_none_and_not_nought():
    assert Resampled({"none": (ABOVE, 0 * BELOW)}).ratio("none") == Estimate(None, None, None, 0)
