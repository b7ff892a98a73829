"""Paired tests of two models."""

from __future__ import annotations

import math

import numpy as np
import pytest

from freerun.metrics.paired import McNemar, mcnemar, paired_bootstrap, paired_ratios

EACH = np.ones(300)


def test_a_model_does_not_differ_from_itself():
    figures = np.random.default_rng(1).integers(5, size=300)
    result = paired_ratios((figures, EACH), (figures, EACH))
    assert (result.difference.value, result.difference.low, result.difference.high) == (0, 0, 0)
    assert result.p_value == 1


def test_the_difference_is_b_minus_a():
    result = paired_ratios((np.zeros(300), EACH), (EACH, EACH))
    assert (result.a, result.b, result.difference.value) == (0, 1, 1)


def test_pairing_sees_a_small_difference_under_large_ones_between_sources():
    generator = np.random.default_rng(1)
    hard = generator.normal(0, 100, size=300)
    better = hard - 1 + generator.normal(0, 0.5, size=300)
    result = paired_ratios((hard, EACH), (better, EACH))
    assert result.difference.value == pytest.approx(-1, abs=0.1)
    assert result.difference.high < -0.9
    assert result.p_value == pytest.approx(2 / 1001)


def test_p_counts_resamples_on_the_rarer_side_twice():
    differences = np.array([-1.0] * 9 + [2.0] * 90)
    assert paired_bootstrap(0, 1, np.zeros(99), differences).p_value == pytest.approx(2 * 10 / 100)
    assert paired_bootstrap(0, 1, np.zeros(99), -differences).p_value == pytest.approx(2 * 10 / 100)


def test_resamples_without_a_difference_count_on_both_sides():
    differences = np.array([0.0] * 19 + [1.0] * 80)
    assert paired_bootstrap(0, 1, np.zeros(99), differences).p_value == pytest.approx(2 * 20 / 100)


def test_undefined_resamples_are_left_out_and_undefined_figures_stay_undefined():
    assert paired_bootstrap(0, 1, np.zeros(5), np.array([1, 1, 1, 1, np.nan])).p_value == pytest.approx(2 / 5)
    result = paired_bootstrap(math.nan, 1, np.full(5, np.nan), np.ones(5))
    assert math.isnan(result.p_value)
    assert math.isnan(result.difference.value)


def test_unlike_numbers_of_two_models_under_no_difference_are_rarely_significant():
    generator = np.random.default_rng(1)

    def trial():
        a, b = generator.random((2, 100)) < 0.5
        return paired_ratios((a, np.ones(100)), (b, np.ones(100)), resamples=200).p_value < 0.1

    assert sum(trial() for _ in range(100)) < 22


def test_mcnemar_by_hand():
    right_a = np.array([True] * 5 + [False] * 1 + [True] * 10 + [False] * 3)
    right_b = np.array([False] * 5 + [True] * 1 + [True] * 10 + [False] * 3)
    assert mcnemar(right_a, right_b) == McNemar(5, 1, pytest.approx(2 * (1 + 6) / 2**6))
    assert mcnemar(right_b, right_a).p_value == mcnemar(right_a, right_b).p_value


@pytest.mark.parametrize("right", [[], [True, False]])
def test_mcnemar_without_disagreement(right):
    assert mcnemar(np.array(right, bool), np.array(right, bool)) == McNemar(0, 0, 1.0)


def test_mcnemar_of_as_many_on_both_sides_is_1():
    assert mcnemar(np.array([True, False]), np.array([False, True])).p_value == 1.0
