"""Attention weights along given targets: of which rows and steps, and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from freerun.search.attended import attention_weights, in_reading_order
from freerun.search.ensemble import EnsembleStepper
from freerun.search.searcher import DirectSearcher, StepperSearcher
from freerun.search.stepper import AttendingStepper
from freerun.symbols import BOS, EOS
from tests.steppers import TableStepper

SOURCES = [[4, 5, EOS], [EOS, 7, 8], [5, 5, 5, EOS, 9]]
TARGETS = [[4, 4, 5, EOS], [EOS], [5, 4]]  # the last one is truncated


class AttendingTable(TableStepper):
    """Its weights say what they are of: the sum of the row's source ids, the token fed, then zeros."""

    attends = attends_features = True

    def start(self, source_ids, lengths):
        super().start(source_ids, lengths)
        self.sums, self.width, self.batches = source_ids.sum(1), source_ids.shape[1], [*self.batches, len(lengths)]

    def step(self, tokens, origins, *rest):
        self.sums, self.fed = self.sums[origins], tokens
        return super().step(tokens, origins, *rest)

    def attention(self):
        weights = np.zeros((len(self.fed), self.width), np.float32)
        weights[:, 0] = 100 * self.sums + self.fed
        return weights

    batches = ()


@pytest.mark.parametrize("batch_size", [1, 2, 512])
def test_each_token_has_the_weights_after_those_before_it(batch_size):
    stepper = AttendingTable()
    found = attention_weights(stepper, SOURCES, TARGETS, batch_size)
    for weights, source, target in zip(found, SOURCES, TARGETS, strict=True):
        assert weights.shape == (len(target), len(source))
        assert weights[:, 0].tolist() == [100 * sum(source) + token for token in [BOS, *target[:-1]]]
        assert not weights[:, 1:].any()
    assert max(stepper.batches) == min(batch_size, 3)


def test_features_that_are_not_in_the_memory_have_no_columns():
    stepper = AttendingTable()
    stepper.attends_features = False
    assert [each.shape for each in attention_weights(stepper, SOURCES, TARGETS)] == [(4, 3), (1, 1), (2, 4)]


def test_rows_leave_with_their_last_token():
    stepper = AttendingTable()
    attention_weights(stepper, SOURCES, TARGETS)
    assert stepper.rows_fed == [3, 2, 1, 1]


def test_targets_may_be_empty():
    found = attention_weights(AttendingTable(), SOURCES, [[], [4], []])
    assert [each.shape for each in found] == [(0, 3), (1, 3), (0, 5)]
    stepper = AttendingTable()
    assert [each.shape for each in attention_weights(stepper, [[4, EOS]], [[]])] == [(0, 2)]
    assert attention_weights(stepper, [], []) == []
    assert stepper.batches == ()


def test_sources_and_targets_are_equally_many():
    with pytest.raises(ValueError, match="2 targets for 3 sources"):
        attention_weights(AttendingTable(), SOURCES, TARGETS[:2])


def test_there_are_none_without_attention_or_a_stepper_that_has_it():
    without = AttendingTable()
    without.attends = False
    ensemble = EnsembleStepper([AttendingTable(), AttendingTable()])
    assert [attention_weights(each, SOURCES, TARGETS) for each in (without, ensemble, TableStepper())] == [None] * 3
    assert isinstance(AttendingTable(), AttendingStepper)


def test_every_searcher_has_those_of_its_stepper():
    searcher = StepperSearcher(AttendingTable)
    expected = attention_weights(AttendingTable(), SOURCES, TARGETS)
    for each in (searcher, DirectSearcher(lambda *_: [], searcher)):
        found = each.attention(SOURCES, TARGETS)
        assert [weights.tolist() for weights in found] == [weights.tolist() for weights in expected]
    assert StepperSearcher(TableStepper).attention(SOURCES, TARGETS) is None


def test_in_reading_order_only_tokens_change_places():
    weights = np.arange(10, dtype=np.float32).reshape(2, 5)
    assert in_reading_order(weights, 3, False) is weights
    assert in_reading_order(weights, 3, True).tolist() == [[1, 0, 2, 3, 4], [6, 5, 7, 8, 9]]
    assert in_reading_order(weights, 5, True).tolist() == [[3, 2, 1, 0, 4], [8, 7, 6, 5, 9]]
    assert in_reading_order(weights, 1, True).tolist() == weights.tolist()
