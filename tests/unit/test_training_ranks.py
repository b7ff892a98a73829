"""One mathematics: an update that several processes share is the update of one process with all the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freerun.build import _check_own_sums
from freerun.data.batching import make_batch
from freerun.errors import ConfigError, TrainingError
from freerun.forcing.loss import Losses
from freerun.forcing.phases import Phases
from freerun.forcing.professor import Professor, ProfessorSettings
from freerun.forcing.strategy import Objective, StrategySettings
from freerun.forcing.teacher import Teacher
from tests.devices import PAIRS, PROFESSOR, WAITING, WITHOUT_WAITING, learner
from tests.ranks import in_threads

# the model has one term as long as its gate is closed, and the discriminator learns
CLOSED = {"professor, its gate closed": ("professor", {**PROFESSOR, "model_gate": 1.0})}
SETTINGS = WITHOUT_WAITING | WAITING | CLOSED
NETWORKS = {
    "plain": {},
    "bahdanau": {"cell": "gru", "attention": "bahdanau"},
}
DROPOUT = {"dropout": 0.3, "embedding_dropout": 0.2}
UPDATES = 3


def parts_of(number, parts):
    """The batches of an update: other pairs in each, and of different sizes, so that means of means would differ."""
    order = np.random.default_rng(number).permutation(len(PAIRS))
    return [make_batch(PAIRS, rows) for rows in np.array_split(order, parts)]


def trained(name, parts, ranks=None, **options):
    """A learner after some updates of so many parts, of which a rank computes its own; and the steps."""
    kind, settings = SETTINGS[name]
    one = learner(kind, settings, rate=0.1, **({"ranks": ranks} if ranks else {}), **options)
    first, step = (0, 1) if ranks is None else (ranks.rank, ranks.size)
    return one, [one.update(number, parts_of(number, parts)[first::step]) for number in range(1, UPDATES + 1)]


def assert_equal(found, expected):
    """All numbers of two learners and their steps agree to 1e-12."""
    (one, steps), (other, expected_steps) = found, expected
    for tensors, expected_tensors in zip(one.state(), other.state(), strict=True):
        assert tensors.keys() == expected_tensors.keys()
        for key, tensor in tensors.items():
            torch.testing.assert_close(tensor, expected_tensors[key], rtol=1e-12, atol=1e-12, msg=key)
    for step, wanted in zip(steps, expected_steps, strict=True):
        assert step.loss == pytest.approx(wanted.loss, rel=1e-12, abs=1e-12)
        assert step.gradient_norm == pytest.approx(wanted.gradient_norm, rel=1e-12, abs=1e-12)
        assert [list(metrics) for metrics in step.metrics] == [list(metrics) for metrics in wanted.metrics]
        for metrics, wanted_metrics in zip(step.metrics, wanted.metrics, strict=True):
            for metric, pair in metrics.items():
                assert pair == pytest.approx(wanted_metrics[metric], rel=1e-11, abs=1e-11), metric


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("size", "each", "network"), [(3, 1, "plain"), (2, 2, "bahdanau")])
def test_processes_compute_what_one_computes(name, network, size, each):
    options = {**NETWORKS[network], **DROPOUT}
    expected = trained(name, size * each, **options)
    for found in in_threads(size, lambda ranks: trained(name, size * each, ranks, **options)):
        assert_equal(found, expected)


class Disagreeing(Teacher):
    """Returns a metric for some batches only."""

    def losses(self, model, batch, update):
        losses = super().losses(model, batch, update)
        return Losses(losses.terms, {**losses.metrics, **({"own": (1.0, 1)} if update.part == 1 else {})})


class Learning(Teacher):
    """Has a loss of its own, and does not say what has to be added up."""

    def own_loss(self, inputs, update):
        return None


def test_metrics_of_some_batches_only_are_an_error_and_no_deadlock():
    def work(ranks):
        one = learner("teacher", {}, ranks=ranks)
        one.strategy = Disagreeing(one.strategy.settings, one.strategy.objective)
        one.update(1, parts_of(1, 2)[ranks.rank :: 2])

    for end in in_threads(2, work):
        assert isinstance(end, TrainingError)
        assert "its terms, weights or metrics differ between the batches of an update" in str(end)


@pytest.mark.parametrize("in_phases", [False, True])
def test_a_strategy_that_learns_has_to_say_what_is_added_up(in_phases):
    objective = Objective()
    strategy = Learning(StrategySettings(), objective)
    _check_own_sums(Teacher(StrategySettings(), objective))
    _check_own_sums(Professor(ProfessorSettings(), objective))
    with pytest.raises(ConfigError, match="Learning has a loss of its own"):
        _check_own_sums(Phases([strategy], ["own"], [None], objective) if in_phases else strategy)
