"""Estimates of several ratios at once."""

from __future__ import annotations

import numpy as np
import pytest

from freerun.diagnostics.estimate import Estimate, Resampled
from freerun.metrics.intervals import ratio_interval
from freerun.studies.differences import hierarchical_bootstrap

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


def test_a_mean_over_seeds_resamples_the_seeds():
    """Without any spread over sources, a mean of two seeds is that of one seed twice in half of the resamples."""
    each = np.ones(40)
    made = Resampled({"1": (0 * each, each), "2": (each, each), "other": (9 * each, each)})
    assert made.mean_over_draws(["1", "2"]) == Estimate(0.5, 0.0, 1.0, 40)
    assert made.mean_over_draws(["2"]) == Estimate(1.0, 1.0, 1.0, 40)
    # as the seeds of a study's comparisons, so what an arm and a comparison show goes together
    twenty = {str(seed): (seed * each, each) for seed in range(20)}
    expected = hierarchical_bootstrap([*twenty.values()], [(0 * each, each)] * 20).difference
    found = Resampled(twenty).mean_over_draws([*twenty])
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_mean_over_seeds_resamples_the_sources_too():
    made = Resampled({"1": (ABOVE, BELOW), "2": (ABOVE, BELOW)})
    assert made.mean_over_draws(["1", "2"]) == pytest.approx(made.ratio("1"))
