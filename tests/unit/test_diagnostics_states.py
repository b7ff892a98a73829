"""Which states are compared, and what two clouds of states must give."""

from __future__ import annotations

import numpy as np
import pytest

from freerun.diagnostics.state_divergence import States, mmd_test, state_divergence, states_after_errors
from freerun.symbols import BOS
from tests.planted import JUNK, derails, errs_at_random, never_errs, recorded, words


def clouds(difference, size=80, dimensions=3, seed=0):
    generator = np.random.default_rng(seed)
    one, other = generator.normal(size=(2, size, dimensions))
    other[:, 0] += difference
    return States(np.arange(size), one, other)


def test_mmd_is_the_mean_over_all_pairs_of_sources():
    one, other = clouds(0.5, size=6)[1:]
    points = np.concatenate([one, other])
    squares = [[float(((a - b) ** 2).sum()) for b in points] for a in points]
    bandwidth = np.median([squares[i][j] for i in range(12) for j in range(i)])

    def kernel(i, j):
        return np.exp(-squares[i][j] / (2 * bandwidth))

    terms = [
        kernel(i, j) + kernel(6 + i, 6 + j) - kernel(i, 6 + j) - kernel(6 + i, j)
        for i in range(6)
        for j in range(6)
        if i != j
    ]
    assert mmd_test(one, other)[0] == pytest.approx(np.mean(terms))


def test_p_is_spread_evenly_where_there_is_no_difference():
    values = [mmd_test(*clouds(0.0, size=30, seed=seed)[1:], permutations=99) for seed in range(200)]
    p = np.array([each[1] for each in values])
    assert 0.02 <= (p <= 0.1).mean() <= 0.19
    assert 0.4 <= (p <= 0.5).mean() <= 0.6
    # unbiased: with the diagonal it would be about 0.03
    assert abs(np.mean([each[0] for each in values])) < 0.01


def test_a_difference_is_found_and_none_is_not():
    same, apart = state_divergence(clouds(0.0)), state_divergence(clouds(4.0))
    assert apart.p_value < 0.01
    assert apart.classifier_accuracy.value > 0.95
    assert same.p_value > 0.05
    assert 0.35 < same.classifier_accuracy.value < 0.65
    assert apart.classifier_accuracy.n == 40


def test_a_classifier_finds_its_direction_wherever_the_states_are():
    rows, one, other = clouds(2.0, size=200)
    expected = state_divergence(States(rows, one, other)).classifier_accuracy.value
    far = np.array([100.0, -50.0, 10.0])
    moved = state_divergence(States(rows, one + far, other + far)).classifier_accuracy.value
    assert expected > 0.8
    assert moved == pytest.approx(expected, abs=0.02)


def test_the_classifier_is_tried_on_other_sources_than_it_was_made_from():
    # twice as many dimensions as sources: on its own sources it could tell anything apart
    found = state_divergence(clouds(0.0, size=60, dimensions=120))
    assert 0.3 < found.classifier_accuracy.value < 0.7


def test_a_few_sources_say_nothing():
    assert state_divergence(clouds(1.0, size=19)) is None
    assert state_divergence(clouds(1.0, size=20)) is not None


def history(sources, lengths, fed):
    """In place of states: (first source id, number of tokens fed, those of them that are junk)."""
    steps = np.arange(1, fed.shape[1] + 1)
    junk = (fed == JUNK).cumsum(1)
    return np.stack([np.broadcast_to(sources[:, :1], fed.shape), np.broadcast_to(steps, fed.shape), junk], 2)


def test_states_are_read_after_the_first_error_at_the_same_place_of_both_runs():
    found, _ = recorded(derails, *words(80))
    states = states_after_errors(found, history)
    tau = found.first_errors[states.rows]
    teacher, free = states.teacher_MH, states.free_MH
    assert len(states.rows) > 60
    assert (teacher[:, :2] == free[:, :2]).all()
    assert (teacher[:, 2] == 0).all()
    # BOS and tau right tokens were fed before the first junk
    assert (free[:, 2] == free[:, 1] - 1 - tau).all() and (free[:, 2] >= 1).all()
    right = found.forced.errors.lengths[found.followed][states.rows]
    assert (free[:, 1] <= right).all() and (free[:, 1] == right).any()
    assert len(set(free[:, 1] - tau)) > 3


def test_sources_whose_reference_ends_with_the_error_are_left_out():
    found, _ = recorded(derails, *words(60, longest=2, shortest=1))
    lengths = found.forced.errors.lengths[found.followed]
    states = states_after_errors(found, history)
    assert states.rows.tolist() == np.flatnonzero(found.first_errors + 1 < lengths).tolist()
    assert 0 < len(states.rows) < 60


def test_at_most_so_many_sources_are_read():
    found, _ = recorded(errs_at_random(0.4), *words(80))
    assert len(states_after_errors(found, history, limit=10).rows) == 10
    assert state_divergence(states_after_errors(recorded(never_errs, *words(9))[0], history)) is None


def test_bos_is_fed_first():
    def looks(sources, lengths, fed):
        assert (fed[:, 0] == BOS).all()
        return history(sources, lengths, fed)

    states_after_errors(recorded(derails, *words(5))[0], looks)
