from __future__ import annotations

import pytest

from freerun.forcing.strategy import Objective, Strategy, StrategySettings
from freerun.forcing.teacher import Teacher
from freerun.forcing.training_batch import Update
from tests.networks import network, random_rows, training_batch

BATCH = training_batch(random_rows([3, 5]), random_rows([2, 4], size=9, seed=1))


def losses(update=None, model=None, **objective):
    teacher = Teacher(StrategySettings(), Objective(**objective))
    return teacher.losses(model or network(), BATCH, update or Update(1, 1))


@pytest.mark.parametrize(("normalise", "count"), [("tokens", 6), ("sequences", 2)])
def test_the_loss_is_a_sum_beside_its_count(normalise, count):
    (term,) = losses(normalise=normalise).terms.values()
    assert (term.count, term.weight) == (count, 1.0)
    assert term.sum.item() == losses().terms["nll"].sum.item()


def test_the_journal_gets_the_nll_of_tokens_never_smoothed():
    plain, smoothed = losses(), losses(label_smoothing=0.5, normalise="sequences")
    assert smoothed.metrics == plain.metrics == {"nll.teacher": (plain.terms["nll"].sum.item(), 6)}
    assert smoothed.terms["nll"].sum.item() != pytest.approx(plain.terms["nll"].sum.item())


def test_dropout_is_drawn_anew_for_each_update_and_the_same_again():
    model = network(dropout=0.5)
    found = [
        losses(Update(*keys), model).terms["nll"].sum.item() for keys in ((1, 1), (2, 1), (1, 2), (1, 1, 1), (1, 1))
    ]
    assert found[0] == found[-1]
    assert len(set(found)) == 4


def test_what_is_no_strategy_cannot_be_made():
    with pytest.raises(TypeError, match="losses"):
        Strategy(StrategySettings(), Objective())
