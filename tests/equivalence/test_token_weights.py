"""Every token of the corpus has the same weight in an epoch, whatever batch it is in."""

from __future__ import annotations

import numpy as np
import pytest

from freerun.build import objective_of, order_of, strategy_of, updates_per_epoch
from freerun.config import parse_config
from freerun.data.batching import make_batch
from freerun.forcing.registry import settings_of
from freerun.forcing.strategy import Objective
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.training.progress import Progress
from tests.networks import close, corpus, gradients_of, network, random_rows

LENGTHS = [2, 2, 2, 3, 3, 5, 5, 8, 8, 9, 4]
PAIRS = corpus(random_rows(LENGTHS), random_rows(LENGTHS[::-1], size=9, seed=1))
BUDGETS = [{"batch_size": 4}, {"batch_size": 3}, {"batch_tokens": 40}]


def both_gradients(normalise, budget, per_pair):
    """The mean of the gradients of an epoch's batches at fixed weights, and the gradient of the corpus' mean loss."""
    training = {"normalise": normalise, "label_smoothing": 0.1, **budget}
    config = parse_config({"data": {"train": "x"}, "training": training}, "c.toml", settings_of)
    order, model, progress = order_of(config.training, PAIRS), network(), Progress()
    strategy = strategy_of(config, objective_of(config.training, order))
    batches = [order.take(progress) for _ in range(order.batches_per_epoch)]
    assert updates_per_epoch(config.training, order) == len(batches) > 2
    total = sum(_loss(strategy, model, batch) for batch in batches)
    everything = TrainingBatch.of(make_batch(PAIRS, np.arange(len(PAIRS))))
    (term,) = strategy.losses(model, everything, Update(1, 1)).terms.values()
    units = len(PAIRS) if per_pair else PAIRS.targets.lengths.sum()
    return gradients_of(total / len(batches), model), gradients_of(term.sum / units, model)


def _loss(strategy, model, batch):
    (term,) = strategy.losses(model, TrainingBatch.of(batch), Update(1, 1)).terms.values()
    return term.sum / term.count


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize(("normalise", "per_pair"), [("tokens", False), ("sequences", True)])
def test_an_epoch_has_the_gradient_of_the_corpus(normalise, per_pair, budget):
    found, expected = both_gradients(normalise, budget, per_pair)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        close(found[name], value)


def test_a_batch_alone_is_divided_by_its_own_number():
    batch = TrainingBatch.of(make_batch(PAIRS, np.arange(3)))
    assert Objective().count(batch) == batch.num_tokens
    assert Objective(normalise="sequences").count(batch) == batch.num_pairs == 3
