"""Minimum risk and self-critical training against their sums, written as loops over rows, outputs and tokens."""

from __future__ import annotations

import math

import pytest
import torch

from freerun.config import parse_config
from freerun.errors import ConfigError
from freerun.forcing.batch import Update
from freerun.forcing.costs import COSTS
from freerun.forcing.minimum_risk import MinimumRisk, expected_cost
from freerun.forcing.registry import settings_of
from freerun.forcing.rollout import uniforms
from freerun.forcing.self_critical import SelfCritical
from freerun.forcing.strategy import Objective
from freerun.forcing.teacher import Teacher
from freerun.symbols import BOS, EOS, NEVER_WRITTEN, UNK
from tests.equivalence.test_forcing_rollout import drawn_by_hand
from tests.networks import CELLS, close, gradients_of, naive_logits, network, random_rows, training_batch

# the first source stands on two lines: two references
SOURCES = random_rows([4, 1, 6])
BATCH = training_batch([SOURCES[0], *SOURCES], random_rows([3, 2, 3, 4], size=9, seed=1))
# the same with unknown tokens in the first row's reference and in the last one's
UNKNOWN = training_batch(
    [SOURCES[0], *SOURCES],
    [[5, UNK, EOS], *(row[: row.index(EOS) + 1] for row in BATCH.target_out_BT[1:3].tolist()), [UNK, 4, UNK, EOS]],
)
UPDATE = Update(number=7, seed=3)
BOUNDS = [2 * int(length) + 10 for length in BATCH.origin.target_lengths]
each_model = pytest.mark.parametrize(
    ("cell", "attention"), [*((cell, "none") for cell in CELLS), ("lstm", "general"), ("gru", "bahdanau")]
)


def a_model(**sizes):
    model = network(scale=1.2, dropout=0.3, embedding_dropout=0.2, **sizes)
    with torch.no_grad():
        model.decoder.output_bias[EOS] += 1.0  # short outputs, some of them equal
    return model


def source(row):
    return BATCH.source_BS[row, : BATCH.origin.source_lengths[row]]


def output_of(model, row, numbers, kind, masks=None, temperature=1.0):
    """A free run of one row, with EOS if it came to it."""
    written = []
    while len(written) < BOUNDS[row] and EOS not in written:
        logits = naive_logits(model, source(row), [BOS, *written], masks, row)[-1]
        number = 0.0 if numbers is None else numbers[len(written)].item()
        written.append(drawn_by_hand(logits, number, kind, temperature, NEVER_WRITTEN))
    return tuple(written)


def log_prob(model, row, output, masks, mask_row):
    logits = naive_logits(model, source(row), [BOS, *output[:-1]], masks, mask_row)
    return sum(each[token] - each.exp().sum().log() for each, token in zip(logits, output, strict=True))


def cost_of(name, output, row, batch):
    references = [reference[:-1].tolist() for reference in batch.references[row]]
    return COSTS[name]([token for token in output if token != EOS], references)


@pytest.mark.parametrize("batch", [BATCH, UNKNOWN], ids=["known", "unknown"])
@pytest.mark.parametrize("cost", COSTS)
@each_model
def test_minimum_risk_is_the_sum_over_candidates(cell, attention, cost, batch):
    model = a_model(cell=cell, attention=attention)
    settings = MinimumRisk.Settings(samples=5, alpha=0.7, cost=cost, weight=0.3, nll_weight=0.4, temperature=0.8)
    losses = MinimumRisk(settings, Objective(label_smoothing=0.1)).losses(model, batch, UPDATE)
    numbers = uniforms(UPDATE, "samples", 4 * 5, max(BOUNDS))
    candidates = [
        (row, tuple(t[: batch.origin.target_lengths[row]].tolist())) for row, t in enumerate(batch.target_out_BT)
    ]
    for row in range(4):
        for number in range(5):
            output = output_of(model, row, numbers[5 * row + number], "sample", temperature=0.8)
            if output[-1] == EOS and (row, output) not in candidates:
                candidates.append((row, output))
    assert 4 < len(candidates) < 24
    longest = max(len(output) for _, output in candidates)
    masks = model.draw_masks(BATCH.source_BS.shape[1], longest, 4, UPDATE.generator("dropout"))
    risk = 0
    for row in range(4):
        mine = [output for owner, output in candidates if owner == row and UNK not in output]
        shares = [(0.7 * log_prob(model, row, output, masks, row)).exp() for output in mine]
        costs = [cost_of(cost, output, row, batch) for output in mine]
        risk = risk + sum(share * each for share, each in zip(shares, costs, strict=True)) / sum(shares)
    term = losses.terms["risk"]
    assert (term.count, term.weight) == (4, 0.3)
    close(term.sum, risk)
    close(gradients_of(term.sum, model), gradients_of(risk, model))
    assert losses.figures["risk"] == (pytest.approx(risk.item()), 4)
    assert losses.figures["distinct"] == (len(candidates) - 4, 20)


@pytest.mark.parametrize("batch", [BATCH, UNKNOWN], ids=["known", "unknown"])
@pytest.mark.parametrize("cost", COSTS)
@each_model
def test_self_critical_is_the_excess_over_greedy(cell, attention, cost, batch):
    model = a_model(cell=cell, attention=attention)
    settings = SelfCritical.Settings(cost=cost, weight=0.3, nll_weight=0.4, temperature=1.5)
    losses = SelfCritical(settings, Objective(label_smoothing=0.1)).losses(model, batch, UPDATE)
    numbers = uniforms(UPDATE, "samples", 4, max(BOUNDS))
    masks = model.draw_masks(BATCH.source_BS.shape[1], max(BOUNDS), 4, UPDATE.generator("dropout"))
    expected, costs = 0, [0.0, 0.0]
    for row in range(4):
        sample = output_of(model, row, numbers[row], "sample", masks, 1.5)
        greedy = output_of(model, row, None, "argmax")
        found = [cost_of(cost, output, row, batch) for output in (sample, greedy)]
        costs = [total + one for total, one in zip(costs, found, strict=True)]
        expected = expected + (found[0] - found[1]) * log_prob(model, row, sample, masks, row)
    term = losses.terms["self_critical"]
    assert (term.count, term.weight) == (4, 0.3)
    close(term.sum, expected)
    close(gradients_of(term.sum, model), gradients_of(expected, model))
    assert losses.figures["cost.sample"] == (pytest.approx(costs[0]), 4)
    assert losses.figures["cost.greedy"] == (pytest.approx(costs[1]), 4)


def test_sources_without_candidates_have_no_risk():
    model = network()
    with torch.no_grad():
        model.decoder.output_bias[EOS] = -99.0  # no sample ends
    strategy = MinimumRisk(MinimumRisk.Settings(samples=3), Objective())
    term = strategy.losses(model, UNKNOWN, UPDATE).terms["risk"]
    assert (term.sum.item(), term.count) == (0.0, 2)  # the references without unknown tokens are right
    found = strategy.losses(model, training_batch([[5, EOS]], [[UNK, EOS]]), UPDATE)
    assert (found.terms["risk"].sum.item(), found.terms["risk"].count) == (0.0, 0)
    assert (found.figures["risk"], found.figures["distinct"]) == ((0.0, 0), (0, 3))
    assert all((gradient == 0).all() for gradient in gradients_of(found.terms["risk"].sum, model).values())


def test_the_baseline_of_self_critical_training_is_the_output_in_use():
    """Without dropout in any part of it, it is the same at every update."""
    model = network(scale=2.0, attention="general", dropout=0.6, embedding_dropout=0.6)
    strategy = SelfCritical(SelfCritical.Settings(), Objective())
    found = [strategy.losses(model, BATCH, Update(number, 3)).figures for number in range(1, 11)]
    assert len({figures["cost.greedy"] for figures in found}) == 1
    assert len({figures["cost.sample"] for figures in found}) > 1


@pytest.mark.parametrize("kind", [MinimumRisk, SelfCritical])
def test_the_token_loss_stands_beside_it(kind):
    model = network()
    losses = kind(kind.Settings(nll_weight=0.4), Objective(label_smoothing=0.1)).losses(model, BATCH, UPDATE)
    teacher = Teacher(Teacher.Settings(), Objective(label_smoothing=0.1)).losses(model, BATCH, UPDATE)
    close(losses.terms["nll"].sum, teacher.terms["nll"].sum)
    assert (losses.terms["nll"].count, losses.terms["nll"].weight) == (12, 0.4)
    assert losses.figures["nll.teacher"] == (pytest.approx(teacher.figures["nll.teacher"][0]), 12)


def test_very_improbable_candidates_do_not_underflow():
    scores = torch.tensor([-5000.0, -5001.0, -9000.0, -1e4], dtype=torch.float64)
    owners, costs = torch.tensor([0, 0, 1, 1]), torch.tensor([0.0, 1.0, 0.5, 0.25], dtype=torch.float64)
    close(expected_cost(scores, costs, owners, 2), torch.tensor([1 / (1 + math.e), 0.5], dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "output", "cost"),
    [
        ("symbol_error_rate", [4, 5], 0.0),
        ("symbol_error_rate", [4, 5, 6, 7], 0.25),  # the closer of the two references, of length 4
        ("symbol_error_rate", [], 1.0),
        ("sequence_error", [4, 5, 6, 8], 0.0),
        ("sequence_error", [4], 1.0),
        ("bleu", [4, 5, 6, 8], 0.0),
        ("bleu", [7, 7], 1.0),
    ],
)
def test_costs_by_hand(name, output, cost):
    assert COSTS[name](output, [[4, 5], [4, 5, 6, 8]]) == pytest.approx(cost, abs=1e-12)


@pytest.mark.parametrize(("name", "cost"), [("symbol_error_rate", 0.5), ("sequence_error", 1.0)])
def test_no_output_is_right_by_a_reference_that_cannot_be_written(name, cost):
    assert min(COSTS[name](output, [[4, UNK]]) for output in ([4], [4, 4], [4, 5], [])) == cost


def test_what_costs_nothing_to_begin_with_stays_so():
    assert COSTS["symbol_error_rate"]([], [[]]) == 0.0
    assert COSTS["symbol_error_rate"]([4, 5], [[]]) == 2.0


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
