"""Tests of differences against SciPy, against brute force, and against what they must not do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import nct, ttest_1samp
from scipy.stats import t as student

from freerun.metrics.paired import paired_ratios
from freerun.studies.differences import hierarchical_bootstrap, holm, paired_t, smallest_detectable


def figures(rate, sources=300, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 10, sources)
    return generator.binomial(lengths, rate), lengths


def alike(*rates):
    """Runs of a study whose sources all have the same figures."""
    return [(np.full(20, rate), np.ones(20)) for rate in rates]


@pytest.mark.parametrize(
    "runs", [([figures(0.2)], [figures(0.3, seed=1)]), (alike(0.2, 0.5, 0.3), alike(0.1, 0.1, 0.4))]
)
def test_seeds_and_sources_are_drawn_with_the_seed_of_the_bootstrap(runs):
    first, again, other = (hierarchical_bootstrap(*runs, 100, seed).difference for seed in (0, 0, 1))
    assert first == again != other


def test_t_over_seeds_is_that_of_scipy():
    differences = [0.02, -0.01, 0.03, 0.015, 0.0]
    expected = ttest_1samp(differences, 0.0)
    ends = expected.confidence_interval(0.95)
    found = paired_t(differences)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.difference.low, found.difference.high) == pytest.approx((ends.low, ends.high))
    assert found.difference.value == pytest.approx(np.mean(differences))


def test_one_seed_has_no_test_over_seeds():
    found = paired_t([0.1])
    assert found.difference.value == 0.1
    assert np.isnan([found.difference.low, found.difference.high, found.p_value, smallest_detectable([0.1])]).all()


def test_seeds_that_all_agree_have_no_spread():
    assert paired_t([0.0, 0.0]).p_value == 1.0
    assert paired_t([0.1, 0.1]).p_value == 0.0
    assert smallest_detectable([0.1, 0.1]) == 0.0


@pytest.mark.parametrize("comparisons", [1, 7])
@pytest.mark.parametrize("size", [3, 5, 20])
def test_the_smallest_detectable_difference_is_found_in_80_per_cent(size, comparisons):
    differences = np.random.default_rng(size).normal(size=size)
    spread = np.std(differences, ddof=1)
    shift = smallest_detectable(differences, comparisons) * size**0.5 / spread
    limit = student.ppf(1 - 0.025 / comparisons, size - 1)
    assert nct.sf(limit, size - 1, shift) == pytest.approx(0.8)


def test_holm_is_the_step_down_of_the_paper():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # a larger p-value is never corrected to less than a smaller one is
    assert holm([0.01, 0.012, 0.013]) == pytest.approx([0.03, 0.03, 0.03])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_undefined_p_values_are_no_hypotheses():
    assert holm([np.nan, 0.02, np.nan, 0.03]) == pytest.approx([np.nan, 0.04, np.nan, 0.04], nan_ok=True)
    assert np.isnan(holm([np.nan])).all()


def test_seeds_are_resampled():
    # without any spread over sources, the resamples are those of the seeds: with two, one in four has the first only
    lengths = np.full(50, 10.0)
    control = [(np.full(50, rate), lengths) for rate in (2.0, 3.0)]
    arm = [(np.full(50, rate), lengths) for rate in (1.0, 6.0)]
    found = hierarchical_bootstrap(arm, control, resamples=4000)
    assert (found.difference.low, found.difference.value, found.difference.high) == pytest.approx((-0.1, 0.1, 0.3))
    assert found.p_value == pytest.approx(2 * 0.25, abs=0.03)


def test_seeds_are_resampled_in_pairs():
    # one seed is hard for both arms, so their difference is the same under all seeds
    lengths = np.full(50, 10.0)
    control = [(np.full(50, rate), lengths) for rate in (1.0, 8.0, 3.0)]
    arm = [(errors + 1, lengths) for errors, _ in control]
    found = hierarchical_bootstrap(arm, control).difference
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_one_seed_has_an_interval_over_sources_and_no_p_value():
    arm, control = figures(0.1, seed=1), figures(0.3, seed=2)
    found, expected = hierarchical_bootstrap([arm], [control]), paired_ratios(control, arm).difference
    assert (found.difference.low, found.difference.high) == pytest.approx((expected.low, expected.high))
    assert np.isnan(found.p_value)


def test_the_number_of_resamples_is_that_asked_for():
    arm, control = [figures(0.1, seed=s) for s in (1, 2)], [figures(0.2, seed=s) for s in (3, 4)]
    assert hierarchical_bootstrap(arm, control, resamples=99).p_value == pytest.approx(2 / 100)


def test_the_value_is_the_mean_difference_over_seeds():
    arm, control = [figures(0.1, seed=s) for s in (1, 2)], [figures(0.2, seed=s) for s in (3, 4)]
    expected = np.mean([a.sum() / b.sum() - c.sum() / d.sum() for (a, b), (c, d) in zip(arm, control, strict=True)])
    found = hierarchical_bootstrap(arm, control)
    assert found.difference.value == pytest.approx(expected)
    assert found.difference.low < expected < found.difference.high < 0
    assert found.p_value == pytest.approx(2 / 1001)


def test_the_sign_follows_the_order():
    arm, control = [figures(0.1, seed=s) for s in (1, 2)], [figures(0.2, seed=s) for s in (3, 4)]
    there, back = hierarchical_bootstrap(arm, control), hierarchical_bootstrap(control, arm)
    assert back.difference.value == pytest.approx(-there.difference.value)
    assert back.difference.low == pytest.approx(-there.difference.high)


def test_an_arm_does_not_differ_from_itself():
    arm = [figures(0.1, seed=s) for s in (1, 2, 3)]
    found = hierarchical_bootstrap(arm, arm)
    assert (found.difference.value, found.difference.low, found.difference.high, found.p_value) == (0, 0, 0, 1)


def test_more_seeds_are_not_more_test_data():
    arm, control = figures(0.1, seed=1), figures(0.12, seed=2)
    one = paired_ratios(control, arm).difference
    many = hierarchical_bootstrap([arm] * 8, [control] * 8).difference
    assert (many.low, many.high) == pytest.approx((one.low, one.high))


def test_more_seeds_do_tell_more_of_what_seeds_do():
    generator = np.random.default_rng(0)

    def width(seeds):
        rates = generator.normal(0.2, 0.03, (2, seeds))
        arm, control = ([figures(rate, 2000, seed=n) for n, rate in enumerate(row)] for row in rates)
        found = hierarchical_bootstrap(arm, control).difference
        return found.high - found.low

    assert width(40) < 0.6 * width(5)
