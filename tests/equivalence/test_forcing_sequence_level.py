"""Minimum risk and self-critical training against the oracle's sums over rows, outputs and tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from freerun.config import parse_config
from freerun.errors import ConfigError
from freerun.forcing.costs import COSTS
from freerun.forcing.minimum_risk import MinimumRisk, expected_cost
from freerun.forcing.registry import settings_of
from freerun.forcing.self_critical import SelfCritical
from freerun.forcing.strategy import Objective
from freerun.forcing.teacher import Teacher
from freerun.forcing.training_batch import Update
from freerun.symbols import EOS, UNK
from tests import oracle_losses as by_the_book
from tests import oracle_outputs
from tests.networks import (
    CELLS,
    RATES,
    SOME_OF_ALL,
    book,
    close,
    gradients_of,
    network,
    random_rows,
    recorded,
    same_fed,
    same_losses,
    training_batch,
)

# the first source stands on two lines: two references
SOURCES = random_rows([4, 1, 6])
BATCH = training_batch([SOURCES[0], *SOURCES], random_rows([3, 2, 3, 4], size=9, seed=1))
# the same with unknown tokens in the first row's reference and in the last one's
UNKNOWN = training_batch(
    [SOURCES[0], *SOURCES],
    [[5, UNK, EOS], *(row[: row.index(EOS) + 1] for row in BATCH.target_out_BT[1:3].tolist()), [UNK, 4, UNK, EOS]],
)
UPDATE = Update(number=7, seed=3)
SMOOTHED = by_the_book.Objective(0.1)
each_model = pytest.mark.parametrize(
    ("cell", "attention"), [*((cell, "none") for cell in CELLS), ("lstm", "general"), ("gru", "bahdanau")]
)


def a_model(**options):
    model = network(**{"scale": 1.2, **SOME_OF_ALL, **options})
    with torch.no_grad():
        model.decoder.output_bias[EOS] += 1.0  # short outputs, some of them equal
    return model


def risk_by_the_book(model, record, draw, batch=BATCH, **settings):
    numbers, rows = record.numbers["samples"], record.rows(batch)
    return oracle_outputs.minimum_risk(book(model), rows, SMOOTHED, numbers, draw, **settings)


@pytest.mark.parametrize("batch", [BATCH, UNKNOWN], ids=["known", "unknown"])
@pytest.mark.parametrize("cost", COSTS)
@each_model
def test_minimum_risk_is_the_sum_over_candidates(cell, attention, cost, batch):
    model = a_model(cell=cell, attention=attention)
    settings = {"samples": 5, "alpha": 0.7, "cost": cost, "weight": 0.3, "nll_weight": 0.4}
    strategy = MinimumRisk(MinimumRisk.Settings(**settings, temperature=0.8), Objective(label_smoothing=0.1))
    losses, record = recorded(strategy, model, batch, UPDATE)
    expected = risk_by_the_book(model, record, by_the_book.Draw("sample", 0.8), batch, **settings)
    same_fed(record.fed[-1], expected.fed)
    same_losses(losses, expected, model)
    assert 0 < expected.metrics["distinct"][0] < 20


@pytest.mark.parametrize("batch", [BATCH, UNKNOWN], ids=["known", "unknown"])
@pytest.mark.parametrize("cost", COSTS)
@each_model
def test_self_critical_is_the_excess_over_greedy(cell, attention, cost, batch):
    # so much dropout that under it the baseline would be another
    model = a_model(cell=cell, attention=attention, **dict.fromkeys(RATES, 0.6))
    settings = {"cost": cost, "weight": 0.3, "nll_weight": 0.4}
    strategy = SelfCritical(SelfCritical.Settings(**settings, temperature=1.5), Objective(label_smoothing=0.1))
    losses, record = recorded(strategy, model, batch, UPDATE)
    rows, numbers, draw = record.rows(batch), record.numbers["samples"], by_the_book.Draw("sample", 1.5)
    expected = oracle_outputs.self_critical(book(model), rows, SMOOTHED, numbers, draw, **settings)
    same_fed(record.fed[-1], expected.fed)
    same_losses(losses, expected, model)


@pytest.mark.parametrize("bias", [0.0, -40.0])  # with the second no run ends by itself
@pytest.mark.parametrize("temperature", [0.3, 3.0])
def test_temperature_and_bounds(temperature, bias):
    model, draw = a_model(), by_the_book.Draw("sample", temperature)
    with torch.no_grad():
        model.decoder.output_bias[EOS] += bias
    objective = Objective(label_smoothing=0.1)
    settings = MinimumRisk.Settings(samples=3, temperature=temperature)
    losses, record = recorded(MinimumRisk(settings, objective), model, BATCH, UPDATE)
    expected = risk_by_the_book(model, record, draw, samples=3, alpha=1.0, cost="symbol_error_rate")
    same_fed(record.fed[-1], expected.fed)
    same_losses(losses, expected, model)
    settings = SelfCritical.Settings(temperature=temperature)
    losses, record = recorded(SelfCritical(settings, objective), model, BATCH, UPDATE)
    rows, numbers = record.rows(BATCH), record.numbers["samples"]
    expected = oracle_outputs.self_critical(book(model), rows, SMOOTHED, numbers, draw, "symbol_error_rate")
    same_fed(record.fed[-1], expected.fed)
    same_losses(losses, expected, model)
    if bias:
        assert [len(tokens) for tokens in expected.fed] == [16, 14, 16, 18]


def test_sources_without_candidates_have_no_risk():
    model = network()
    with torch.no_grad():
        model.decoder.output_bias[EOS] = -99.0  # no sample ends
    strategy = MinimumRisk(MinimumRisk.Settings(samples=3), Objective())
    term = strategy.losses(model, UNKNOWN, UPDATE).terms["risk"]
    assert (term.sum.item(), term.count) == (0.0, 2)  # the references without unknown tokens are right
    found = strategy.losses(model, training_batch([[5, EOS]], [[UNK, EOS]]), UPDATE)
    assert (found.terms["risk"].sum.item(), found.terms["risk"].count) == (0.0, 0)
    assert (found.metrics["risk"], found.metrics["distinct"]) == ((0.0, 0), (0, 3))
    assert all((gradient == 0).all() for gradient in gradients_of(found.terms["risk"].sum, model).values())


def test_the_baseline_of_self_critical_training_is_the_output_in_use():
    """Without dropout in any part of it, it is the same at every update."""
    model = network(scale=2.0, attention="general", **dict.fromkeys(RATES, 0.6))
    strategy = SelfCritical(SelfCritical.Settings(), Objective())
    found = [strategy.losses(model, BATCH, Update(number, 3)).metrics for number in range(1, 11)]
    assert len({figures["cost.greedy"] for figures in found}) == 1
    assert len({figures["cost.sample"] for figures in found}) > 1


@pytest.mark.parametrize("kind", [MinimumRisk, SelfCritical])
def test_the_token_loss_stands_beside_it(kind):
    model = network()
    losses = kind(kind.Settings(nll_weight=0.4), Objective(label_smoothing=0.1)).losses(model, BATCH, UPDATE)
    teacher = Teacher(Teacher.Settings(), Objective(label_smoothing=0.1)).losses(model, BATCH, UPDATE)
    close(losses.terms["nll"].sum, teacher.terms["nll"].sum)
    assert (losses.terms["nll"].count, losses.terms["nll"].weight) == (12, 0.4)
    assert losses.metrics["nll.teacher"] == (pytest.approx(teacher.metrics["nll.teacher"][0]), 12)


def test_very_improbable_candidates_do_not_underflow():
    scores = torch.tensor([-5000.0, -5001.0, -9000.0, -1e4], dtype=torch.float64)
    owners, costs = torch.tensor([0, 0, 1, 1]), torch.tensor([0.0, 1.0, 0.5, 0.25], dtype=torch.float64)
    close(expected_cost(scores, costs, owners, 2), torch.tensor([1 / (1 + math.e), 0.5], dtype=torch.float64))


TOKENS = st.lists(st.integers(4, 6), max_size=6)


@pytest.mark.parametrize("name", COSTS)
@given(output=TOKENS, references=st.lists(TOKENS, min_size=1, max_size=3))
def test_costs_are_their_definitions(name, output, references):
    assert COSTS[name](output, references) == pytest.approx(oracle_outputs.COSTS[name](output, references), abs=1e-12)


@pytest.mark.parametrize(
    ("strategy", "key", "value"),
    [
        ("minimum_risk", "cost", "wer"),
        ("minimum_risk", "samples", 0),
        ("minimum_risk", "alpha", 0.0),
        ("minimum_risk", "weight", -1.0),
        ("self_critical", "nll_weight", -0.5),
        ("self_critical", "temperature", 0.0),
    ],
)
def test_bad_settings_are_told(strategy, key, value):
    raw = {"data": {"train": "x"}, "forcing": {"strategy": strategy, key: value}}
    with pytest.raises(ConfigError, match=f"forcing.{key}: the value is"):
        parse_config(raw, "c", settings_of)
