"""Laws that hold for every output and reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from freerun.metrics.accuracy import edit_distances, exact_matches, sequence_accuracy, symbol_error_rate
from freerun.metrics.edit_distance import closest_reference, edit_distance
from freerun.metrics.intervals import ratio_interval
from freerun.metrics.paired import mcnemar, paired_ratios

TOKENS = st.lists(st.sampled_from(["a", "b", "cc", ""]), max_size=6)
CORPUS = st.lists(st.tuples(TOKENS, st.lists(TOKENS, min_size=1, max_size=3)), min_size=1, max_size=6)
FIGURES = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=12)


@given(one=TOKENS, other=TOKENS, third=TOKENS)
def test_edit_distance_is_a_metric(one, other, third):
    assert (edit_distance(one, other) == 0) == (one == other)
    assert edit_distance(one, other) == edit_distance(other, one)
    assert edit_distance(one, third) <= edit_distance(one, other) + edit_distance(other, third)


@given(hypothesis=TOKENS, references=st.lists(TOKENS, min_size=1, max_size=4), more=TOKENS)
def test_one_more_reference_never_hurts(hypothesis, references, more):
    before, after = closest_reference(hypothesis, references), closest_reference(hypothesis, [*references, more])
    assert after.distance <= before.distance
    assert closest_reference(hypothesis, references[::-1]) == before


@given(corpus=CORPUS)
def test_a_match_is_a_distance_of_0(corpus):
    hypotheses, references = zip(*corpus, strict=True)
    distances = edit_distances(hypotheses, references).distances
    assert exact_matches(hypotheses, references).tolist() == (distances == 0).tolist()


@given(corpus=CORPUS)
def test_a_reference_as_output_is_perfect(corpus):
    references = [each for _, each in corpus]
    outputs = [each[-1] for each in references]
    assert sequence_accuracy(exact_matches(outputs, references)) == 1
    distances = edit_distances(outputs, references)
    assume(distances.lengths.sum() > 0)
    assert symbol_error_rate(distances) == 0


@given(figures=FIGURES)
def test_an_interval_is_in_order_and_within_the_extremes(figures):
    tops, bottoms = np.array(figures).T
    interval = ratio_interval(tops, bottoms, resamples=50)
    each = tops / bottoms
    assert each.min() - 1e-9 <= interval.low <= interval.high <= each.max() + 1e-9


@given(figures=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_swapping_the_models_turns_the_difference_round(figures):
    a, b = np.array(figures).T
    each = np.ones(len(figures))
    one = paired_ratios((a, each), (b, each), resamples=50)
    other = paired_ratios((b, each), (a, each), resamples=50)
    assert one.p_value == other.p_value
    assert one.difference.value == pytest.approx(-other.difference.value)
    assert one.difference.low == pytest.approx(-other.difference.high)
    assert 0 < one.p_value <= 1


@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_mcnemar_does_not_mind_what_both_get_right_or_wrong(pairs):
    right_a, right_b = np.array(pairs, bool).reshape(-1, 2).T
    differ = right_a != right_b
    assert mcnemar(right_a, right_b) == mcnemar(right_a[differ], right_b[differ])
