"""Optimal completion against the oracle, which rolls out, judges and learns a row and a token at a time."""

from __future__ import annotations

import pytest
import torch

from freerun.config import parse_config
from freerun.errors import ConfigError
from freerun.forcing.optimal_completion import OptimalCompletion, kl_to_optimal
from freerun.forcing.registry import settings_of
from freerun.forcing.strategy import Objective
from freerun.forcing.training_batch import Update
from freerun.symbols import BOS, EOS, UNK
from tests import oracle_losses as by_the_book
from tests import oracle_outputs
from tests.networks import (
    CELLS,
    SOME_OF_ALL,
    book,
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
BATCH = training_batch([SOURCES[0], *SOURCES], random_rows([4, 2, 3, 5], size=9, seed=1))
# unknown tokens in one of two references, in the only one, and nothing else
UNKNOWN = training_batch(
    [SOURCES[0], *SOURCES], [[4, UNK, 5, EOS], [4, 6, EOS], [UNK, 7, UNK, 8, EOS], [UNK, UNK, EOS]]
)
UPDATE = Update(number=7, seed=3)


def completed(model, record, teacher_prob, draw, objective, longest_ratio=1.5, batch=BATCH):
    """The oracle's losses, given what was drawn."""
    numbers, coins, right = (record.numbers[name] for name in ("draws", "coins", "right draws"))
    rows = record.rows(batch)
    return oracle_outputs.optimal_completion(
        book(model), rows, objective, numbers, draw, teacher_prob, coins, right, longest_ratio
    )


@pytest.mark.parametrize("teacher_prob", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("draw", ["sample", "argmax"])
@pytest.mark.parametrize(
    ("cell", "attention"), [*((cell, "none") for cell in CELLS), ("lstm", "general"), ("gru", "bahdanau")]
)
def test_losses_and_gradients_are_those_of_a_loop(cell, attention, draw, teacher_prob):
    model = network(cell=cell, attention=attention, scale=1.2, **SOME_OF_ALL)
    settings = OptimalCompletion.Settings(draw=draw, teacher_prob=teacher_prob, temperature=0.6, longest_ratio=1.2)
    strategy = OptimalCompletion(settings, Objective(label_smoothing=0.1))
    losses, record = recorded(strategy, model, BATCH, UPDATE)
    drawn = by_the_book.Draw(draw, 0.6)
    expected = completed(model, record, teacher_prob, drawn, by_the_book.Objective(0.1), longest_ratio=1.2)
    same_fed(record.fed[-1], expected.fed)
    same_losses(losses, expected, model)
    assert expected.terms["kl"].count == expected.metrics["kl.optimal_completion"][1]


@pytest.mark.parametrize("normalise", ["tokens", "sequences"])
@pytest.mark.parametrize(("temperature", "longest_ratio"), [(0.3, 1.0), (3.0, 1.5), (1.0, 2.6)])
def test_temperature_and_bounds(temperature, longest_ratio, normalise):
    model = network(scale=1.2)
    with torch.no_grad():
        model.decoder.output_bias[EOS] -= 20.0  # the model itself never ends
    settings = OptimalCompletion.Settings(temperature=temperature, longest_ratio=longest_ratio)
    losses, record = recorded(OptimalCompletion(settings, Objective(0.0, normalise)), model, BATCH, UPDATE)
    objective = by_the_book.Objective(0.0, normalise)
    expected = completed(model, record, 0.0, by_the_book.Draw("sample", temperature), objective, longest_ratio)
    same_fed(record.fed[-1], expected.fed)
    same_losses(losses, expected, model)
    assert expected.metrics["rollout_cut_off"] == (4, 4)
    assert [len(tokens) for tokens in expected.fed] == [int(n * longest_ratio) + 3 for n in (4, 2, 3, 5)]


@pytest.mark.parametrize("teacher_prob", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("normalise", ["tokens", "sequences"])
def test_unknown_tokens_are_neither_learned_nor_fed(teacher_prob, normalise):
    model = network(scale=1.2, dropout=0.3)
    strategy = OptimalCompletion(OptimalCompletion.Settings(teacher_prob=teacher_prob), Objective(0.1, normalise))
    losses, record = recorded(strategy, model, UNKNOWN, UPDATE)
    objective = by_the_book.Objective(0.1, normalise)
    expected = completed(model, record, teacher_prob, by_the_book.Draw(), objective, batch=UNKNOWN)
    same_fed(record.fed[-1], expected.fed)
    same_losses(losses, expected, model)
    steps = sum(map(len, expected.fed))
    assert expected.metrics["kl.optimal_completion"][1] < steps  # some are not counted, whatever is written
    assert not torch.isin(record.fed[-1][:, 1:], torch.tensor([BOS, UNK])).any()


@pytest.mark.parametrize("normalise", ["tokens", "sequences"])
def test_a_batch_with_nothing_to_learn_has_no_loss_and_no_count(normalise):
    model = network()
    with torch.no_grad():
        model.decoder.output_bias[EOS] = 50.0  # it ends at once, where the reference has an unknown token
    batch = training_batch([[5, EOS]], [[UNK, EOS]])
    losses = OptimalCompletion(OptimalCompletion.Settings(), Objective(0.1, normalise)).losses(model, batch, UPDATE)
    assert (losses.terms["kl"].sum.item(), losses.terms["kl"].count) == (0.0, 0)
    assert losses.metrics["kl.optimal_completion"] == (0.0, 0)
    assert losses.metrics["rollout_edits"] == (1, 1)
    assert all((gradient == 0).all() for gradient in gradients_of(losses.terms["kl"].sum, model).values())


@pytest.mark.parametrize("longest_ratio", [1.0, 1.5, 4.0])
def test_a_rollout_without_an_end_is_cut_off_at_its_own_bound(longest_ratio):
    model = network()
    with torch.no_grad():
        model.decoder.output_bias[EOS] = -99.0
    strategy = OptimalCompletion(OptimalCompletion.Settings(longest_ratio=longest_ratio), Objective())
    losses = strategy.losses(model, BATCH, UPDATE)
    assert losses.terms["kl"].count == sum(int(longest_ratio * length) + 3 for length in (4, 2, 3, 5))
    assert losses.metrics["rollout_cut_off"] == (4, 4)
    assert losses.metrics["rollout_edits"] == (0, 0)


def test_right_continuations_alone_write_a_reference():
    model = network()
    losses = OptimalCompletion(OptimalCompletion.Settings(teacher_prob=1.0), Objective()).losses(model, BATCH, UPDATE)
    assert losses.metrics["rollout_edits"] == (0, 4)


def test_sums_may_be_divided_by_sequences():
    strategy = OptimalCompletion(OptimalCompletion.Settings(), Objective(normalise="sequences"))
    assert strategy.losses(network(), BATCH, UPDATE).terms["kl"].count == 4


def test_a_model_that_is_right_in_all_it_may_write_has_no_loss():
    """One reference of two equal tokens' choice: with all the probability on optimal tokens, evenly, KL is 0."""
    optimal_NV = torch.tensor([[True, False, True, False], [False, False, False, True]])
    logits = torch.tensor([[3.0, -80.0, 3.0, -80.0], [-80.0, -80.0, -80.0, 1.0]], dtype=torch.float64)
    assert kl_to_optimal(logits, optimal_NV)[0].item() == pytest.approx(0.0, abs=1e-12)
    uneven = torch.tensor([[3.0, -80.0, 2.0, -80.0], [-80.0, -80.0, -80.0, 1.0]], dtype=torch.float64)
    assert kl_to_optimal(uneven, optimal_NV)[0].item() > 0.1


@pytest.mark.parametrize(
    ("key", "value"), [("teacher_prob", 1.5), ("temperature", 0.0), ("longest_ratio", 0.5), ("draw", "best")]
)
def test_bad_settings_are_told(key, value):
    with pytest.raises(ConfigError, match=f"forcing.{key}: the value is"):
        parse_config(
            {"data": {"train": "x"}, "forcing": {"strategy": "optimal_completion", key: value}}, "c", settings_of
        )
