"""Forcing targets upon a model."""

from __future__ import annotations

import numpy as np
import pytest

from freerun.search.forced_scoring import counted_tokens, score_targets
from freerun.symbols import BOS, EOS, PAD, UNK
from tests.searching import beam_search
from tests.steppers import TableStepper, batch, bounds

SOURCES = [[4, 5, 2], [2], [5, 5, 5, 2]]
TARGETS = [[4, 4, 5, EOS], [EOS], [UNK, 5, EOS]]


def test_each_token_is_scored_after_the_right_ones_before_it():
    stepper = TableStepper(seed=3)
    forced = score_targets(stepper, *batch(SOURCES), TARGETS)
    for source, target, log_probs in zip(SOURCES, TARGETS, forced.log_probs, strict=True):
        expected = [stepper.distribution(source, target[:n])[token] for n, token in enumerate(target)]
        assert log_probs.tolist() == pytest.approx(expected)


def test_rows_leave_with_their_eos():
    stepper = TableStepper()
    score_targets(stepper, *batch(SOURCES), TARGETS)
    assert stepper.rows_fed == [3, 2, 2, 1]


def test_the_output_of_greedy_search_is_correct_everywhere():
    stepper = TableStepper(seed=5, bias={UNK: 3.0, PAD: 3.0, BOS: 3.0})
    found = beam_search(stepper, *batch(SOURCES), max_lengths=bounds(30, 30, 30))
    targets = [[*hypotheses[0].ids, EOS] for hypotheses in found]
    assert all(correct.all() for correct in score_targets(stepper, *batch(SOURCES), targets).correct)


def test_a_token_that_greedy_search_would_not_write_is_not_correct():
    stepper = TableStepper(bias={UNK: 30.0, 4: 10.0})
    forced = score_targets(stepper, *batch([[5]]), [[4, 5, UNK, EOS]])
    assert forced.correct[0].tolist() == [True, False, False, False]
    assert forced.argmax[0].tolist() == [4, 4, 4, 4]


def test_targets_may_be_arrays():
    forced = score_targets(TableStepper(), *batch(SOURCES), [np.array(target) for target in TARGETS])
    plain = score_targets(TableStepper(), *batch(SOURCES), TARGETS)
    assert [scores.tolist() for scores in forced.log_probs] == [scores.tolist() for scores in plain.log_probs]


def test_no_targets_give_no_scores():
    assert score_targets(TableStepper(), *batch([]), []) == ([], [], [])


def test_sources_and_targets_are_equally_many():
    with pytest.raises(ValueError, match="2 targets for 3 sources"):
        score_targets(TableStepper(), *batch(SOURCES), TARGETS[:2])


@pytest.mark.parametrize(
    ("target", "counted"),
    [
        ([EOS], [True]),
        ([4, EOS], [True, True]),
        ([UNK, EOS], [False, False]),
        ([UNK, UNK, EOS], [False, False, False]),
        ([UNK, 4, EOS], [False, True, True]),
        ([4, UNK, UNK, EOS], [True, False, False, True]),
    ],
)
def test_which_tokens_count_in_teacher_forced_figures(target, counted):
    assert counted_tokens(target).tolist() == counted
    assert counted_tokens(np.array(target)).tolist() == counted
