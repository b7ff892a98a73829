"""Bootstrap intervals over sources."""

from __future__ import annotations

import math

import numpy as np
import pytest

from freerun.metrics.intervals import (
    Interval,
    percentile_interval,
    ratio_interval,
    resampled_ratios,
    resampled_sums,
)


def generator():
    return np.random.default_rng(0)


def test_each_resample_draws_as_many_sources_as_there_are():
    sums = resampled_sums(np.ones((37, 1), int), resamples=120)
    assert sums.shape == (120, 1)
    assert (sums == 37).all()


def test_sources_are_drawn_with_replacement():
    drawn = resampled_sums(np.eye(30), resamples=400)
    assert drawn.max() > 1
    assert (drawn == 0).mean() == pytest.approx((1 - 1 / 30) ** 30, abs=0.02)
    assert drawn.mean(axis=0) == pytest.approx(np.ones(30), abs=0.25)


def test_resamples_depend_on_the_seed_and_on_nothing_else():
    figures = generator().normal(size=(20, 2))
    assert (resampled_sums(figures) == resampled_sums(figures, seed=0)).all()
    assert resampled_sums(figures[:, :1])[:, 0] == pytest.approx(resampled_sums(figures)[:, 0])
    assert (resampled_sums(figures, resamples=70) == resampled_sums(figures)[:70]).all()
    assert (resampled_sums(figures, seed=1) != resampled_sums(figures)).any()


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide():
    figures = generator().normal(5.0, 2.0, size=400)
    interval = ratio_interval(figures, np.ones(400))
    error = figures.std() / 20
    assert interval.value == pytest.approx(figures.mean())
    assert interval.low == pytest.approx(figures.mean() - 1.96 * error, abs=0.2 * error)
    assert interval.high == pytest.approx(figures.mean() + 1.96 * error, abs=0.2 * error)


def test_the_unit_is_the_source_and_not_the_token():
    lengths = np.array([1] * 50 + [100])
    errors = np.array([0] * 50 + [100])
    interval = ratio_interval(errors, lengths)
    assert interval.value == pytest.approx(100 / 150)
    assert interval.low == 0  # a third of the resamples miss the one long source


def test_figures_that_do_not_vary_have_an_interval_without_width():
    assert ratio_interval(np.full(9, 2), np.full(9, 4)) == Interval(0.5, 0.5, 0.5)


def test_percentiles():
    interval = percentile_interval(50.0, np.arange(101.0))
    assert (interval.low, interval.high) == pytest.approx((2.5, 97.5))
    interval = percentile_interval(50.0, np.arange(101.0), level=0.5)
    assert (interval.low, interval.high) == pytest.approx((25, 75))


def test_undefined_resamples_are_left_out():
    lengths = np.array([0, 0, 4])
    ratios = resampled_ratios(np.array([1, 1, 2]), lengths)
    assert 0.25 < np.isnan(ratios).mean() < 0.34  # (2/3)^3
    interval = ratio_interval(np.array([1, 1, 2]), lengths)
    assert interval.value == 1
    assert 0.5 <= interval.low <= interval.high


def test_an_undefined_figure_has_an_undefined_interval():
    interval = ratio_interval(np.array([1.0, 2.0]), np.zeros(2))
    assert all(map(math.isnan, (interval.value, interval.low, interval.high)))
    assert math.isnan(percentile_interval(math.nan, np.arange(5.0)).low)


def test_an_interval_is_drawn_with_its_seed():
    numerators, denominators = generator().integers(0, 5, 40), generator().integers(3, 9, 40)
    first, again, other = (ratio_interval(numerators, denominators, 50, seed) for seed in (0, 0, 1))
    assert first == again != other
