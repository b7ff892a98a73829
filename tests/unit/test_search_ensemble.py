"""Ensembles against their formulas."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from freerun.errors import ConfigError
from freerun.search.ensemble import EnsembleStepper
from freerun.search.forced_scoring import score_targets
from freerun.symbols import BOS, EOS
from tests.searching import beam_search
from tests.steppers import TableStepper, batch, bounds

SOURCES = [[4, 5, 2], [2]]


def members(count=3, **settings):
    return [TableStepper(seed=seed, **settings) for seed in range(count)]


def first_step(stepper, k=None, banned=()):
    stepper.start(*batch(SOURCES))
    return stepper.step(np.array([BOS, BOS]), np.array([0, 1]), k, banned)


def probabilities(steppers):
    return np.array([np.exp([stepper.distribution(source, []) for source in SOURCES]) for stepper in steppers])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_arithmetic_mean(dtype):
    steppers = members(dtype=dtype)
    ids, log_probs = first_step(EnsembleStepper(steppers))
    assert np.allclose(log_probs, np.log(probabilities(steppers).mean(axis=0)), atol=1e-6)
    assert log_probs.dtype == dtype
    assert (ids == np.arange(6)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_geometric_mean_is_normalised_again(dtype):
    steppers = members(dtype=dtype)
    _, log_probs = first_step(EnsembleStepper(steppers, "geometric"))
    product = probabilities(steppers).prod(axis=0) ** (1 / 3)
    assert np.allclose(log_probs, np.log(product / product.sum(axis=1, keepdims=True)), atol=1e-6)
    assert log_probs.dtype == dtype


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_no_log_probability_is_above_0(mean):
    for count in range(1, 8):
        _, log_probs = first_step(EnsembleStepper(members(count, bias={4: 60.0}), mean))
        assert log_probs[:, 4].tolist() == pytest.approx([0, 0], abs=1e-6)
        assert log_probs.max() <= 0


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_one_member_is_that_member(mean):
    (stepper,) = members(1)
    alone = beam_search(stepper, *batch(SOURCES), max_lengths=bounds(9, 9), beam_size=3, num_hypotheses=3)
    ensemble = EnsembleStepper([stepper], mean)
    found = beam_search(ensemble, *batch(SOURCES), max_lengths=bounds(9, 9), beam_size=3, num_hypotheses=3)
    for one, other in zip(chain(*alone), chain(*found), strict=True):
        assert one.ids == other.ids
        assert one.score == pytest.approx(other.score, abs=1e-5)


def test_banned_ids_are_left_out_after_normalisation():
    ensemble = EnsembleStepper(members())
    _, whole = first_step(ensemble)
    _, log_probs = first_step(ensemble, banned=(0, 4))
    assert (log_probs[:, [0, 4]] == -np.inf).all()
    assert (log_probs[:, [1, 2, 3, 5]] == whole[:, [1, 2, 3, 5]]).all()
    assert ensemble.log_prob_of(np.array([0, 4])) == pytest.approx([whole[0, 0], whole[1, 4]])
    ids, best = first_step(ensemble, k=4, banned=(0, 4))
    assert [sorted(row) for row in ids.tolist()] == [[1, 2, 3, 5]] * 2
    assert (best == np.take_along_axis(whole, ids, 1)).all()
    assert (np.diff(best) <= 0).all()


def test_the_best_tokens_are_told_apart_by_the_lowest_id():
    ids, _ = first_step(EnsembleStepper(members(levels=1)), k=2, banned=(0, 1, 3))
    assert ids.tolist() == [[2, 4], [2, 4]]


def test_scores_of_an_ensemble_are_those_of_its_search():
    ensemble = EnsembleStepper(members())
    found = beam_search(ensemble, *batch(SOURCES), max_lengths=bounds(40, 40))
    forced = score_targets(ensemble, *batch(SOURCES), [[*hypotheses[0].ids, EOS] for hypotheses in found])
    assert [h[0].score for h in found] == pytest.approx([scores.sum() for scores in forced.log_probs])


def test_different_vocabularies_are_refused():
    with pytest.raises(ConfigError, match=r"^ensemble: 2 models with target vocabularies of 6, 7 tokens\. Expected"):
        EnsembleStepper([TableStepper(6), TableStepper(7)])


def test_no_models_are_refused():
    with pytest.raises(ConfigError, match=r"^ensemble: 0 models"):
        EnsembleStepper([])


def test_an_unknown_mean_is_refused():
    with pytest.raises(ConfigError, match=r"^ensemble: unknown mean 'harmonic'\. Expected 'arithmetic' or 'geometric'"):
        EnsembleStepper(members(), "harmonic")
