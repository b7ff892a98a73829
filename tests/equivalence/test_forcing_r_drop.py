"""R-Drop against the oracle's sums over rows, tokens and words of the vocabulary."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from freerun.config import parse_config
from freerun.errors import ConfigError
from freerun.forcing import loss as loss_module
from freerun.forcing.r_drop import RDrop, symmetric_divergence
from freerun.forcing.registry import settings_of
from freerun.forcing.strategy import Objective, StrategySettings
from freerun.forcing.teacher import Teacher
from freerun.forcing.training_batch import Update
from tests import oracle_losses as by_the_book
from tests.networks import (
    CELLS,
    RATES,
    SOME_OF_ALL,
    book,
    close,
    draw,
    gradients,
    gradients_of,
    network,
    random_rows,
    recorded,
    rows_of,
    same_fed,
    same_losses,
    training_batch,
)

BATCH = training_batch(random_rows([4, 1, 6, 4]), random_rows([3, 5, 1, 2], size=9, seed=1))
UPDATE = Update(number=7, seed=3)


def r_drop(alpha=5.0, **objective):
    return RDrop(RDrop.Settings(alpha=alpha), Objective(**objective))


def by_the_oracle(model, record, alpha, normalise="tokens"):
    first, second = (rows_of(BATCH, masks) for masks in record.masks)
    return by_the_book.r_drop(book(model), first, second, by_the_book.Objective(0.1, normalise), alpha)


@pytest.mark.parametrize("normalise", ["tokens", "sequences"])
@pytest.mark.parametrize(
    ("cell", "attention"), [*((cell, "none") for cell in CELLS), ("lstm", "general"), ("gru", "bahdanau")]
)
def test_losses_and_gradients_are_those_of_a_loop(cell, attention, normalise):
    model = network(cell=cell, attention=attention, **SOME_OF_ALL)
    losses, record = recorded(r_drop(0.7, label_smoothing=0.1, normalise=normalise), model, BATCH, UPDATE)
    expected = by_the_oracle(model, record, 0.7, normalise)
    same_losses(losses, expected, model)
    for fed_BT in record.fed:
        same_fed(fed_BT, expected.fed)


def test_chunks_of_a_large_vocabulary_are_the_same(monkeypatch):
    model = network(tied_output=True, **SOME_OF_ALL)
    # two positions of two passes and nine tokens at a time
    monkeypatch.setattr(loss_module, "MAX_LOGITS", 36)
    sizes, strategy = [], r_drop(label_smoothing=0.1)
    whole = strategy._loss
    monkeypatch.setattr(strategy, "_loss", lambda logits, targets: sizes.append(logits.shape) or whole(logits, targets))
    losses, record = recorded(strategy, model, BATCH, UPDATE)
    same_losses(losses, by_the_oracle(model, record, 5.0), model)
    assert set(sizes) == {(2, 2, 9), (1, 2, 9)}


@pytest.mark.parametrize("rate", RATES)
def test_the_passes_differ_in_every_mask(rate):
    """So each kind of dropout alone makes them diverge."""
    model = network(attention="general", **{rate: 0.5})
    losses, record = recorded(r_drop(), model, BATCH, UPDATE)
    assert losses.metrics["divergence"][0] > 0
    assert len(record.masks) == 2


def test_the_first_pass_is_that_of_teacher_forcing():
    model = network(**SOME_OF_ALL)
    _, one = recorded(Teacher(StrategySettings(), Objective()), model, BATCH, UPDATE)
    _, two = recorded(r_drop(), model, BATCH, UPDATE)
    assert torch.equal(one.masks[0].output_TBF, two.masks[0].output_TBF)
    assert torch.equal(one.masks[0].source_embedding_VE, two.masks[0].source_embedding_VE)


def test_without_dropout_it_is_teacher_forcing():
    model, objective = network(), Objective(label_smoothing=0.1)
    (found,) = r_drop(label_smoothing=0.1).losses(model, BATCH, UPDATE).terms.values()
    (expected,) = Teacher(StrategySettings(), objective).losses(model, BATCH, UPDATE).terms.values()
    close(found.sum, expected.sum)
    close(gradients_of(found.sum, model), gradients_of(expected.sum, model))


def test_updates_and_seeds_draw_other_masks_and_the_same_again():
    model = network(dropout=0.5)
    found = [
        r_drop().losses(model, BATCH, Update(*keys)).metrics["divergence"][0]
        for keys in ((1, 1), (2, 1), (1, 2), (1, 1, 1), (1, 1))
    ]
    assert found[0] == found[-1]
    assert len(set(found)) == 4


# ------------------------------------------------------------------------------------------------------ the divergence


def test_the_divergence_is_torchs():
    logits = draw(5, 2, 7)
    first, second = torch.log_softmax(logits, 2).unbind(1)
    one, other = (
        functional.kl_div(b, a, log_target=True, reduction="sum") for a, b in ((first, second), (second, first))
    )
    expected = (one + other) / 2
    close(symmetric_divergence(logits), expected)
    close(gradients(symmetric_divergence(logits), logits), gradients(expected, logits))


def test_the_gradient_is_that_of_differences():
    assert torch.autograd.gradcheck(symmetric_divergence, draw(3, 2, 5))


def test_it_is_in_nats():
    even, sure = [0.0, 0.0], [2.0, 0.0]
    p = torch.softmax(torch.tensor(sure, dtype=torch.float64), 0)
    nats = (0.5 * (0.5 / p).log().sum() + (p * (p / 0.5).log()).sum()) / 2
    close(symmetric_divergence(torch.tensor([[even, sure]], dtype=torch.float64)), nats)


@given(st.lists(st.floats(-60.0, 60.0), min_size=6, max_size=6), st.floats(-1e3, 1e3))
def test_it_is_symmetric_never_negative_and_ignores_what_is_added_to_all_logits(numbers, added):
    logits = torch.tensor(numbers, dtype=torch.float64).reshape(1, 2, 3)
    found = symmetric_divergence(logits).item()
    assert found >= -1e-12
    assert symmetric_divergence(logits.flip(1)).item() == pytest.approx(found, abs=1e-9)
    moved = logits + torch.tensor([added, 0.0], dtype=torch.float64).reshape(1, 2, 1)
    assert symmetric_divergence(moved).item() == pytest.approx(found, rel=1e-9, abs=1e-9)


def test_bf16_logits_are_compared_in_fp32():
    logits = draw(5, 2, 7).to(torch.bfloat16)
    found = symmetric_divergence(logits)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(symmetric_divergence(logits.double()).item(), rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- its setting


def test_a_negative_alpha_is_refused():
    raw = {"data": {"train": "x"}, "model": {"dropout": 0.1}, "forcing": {"strategy": "r_drop", "alpha": -1.0}}
    with pytest.raises(ConfigError, match=r"forcing\.alpha: the value is -1\.0"):
        parse_config(raw, "c", settings_of)


@pytest.mark.parametrize("phases", [False, True])
def test_without_any_dropout_it_is_an_error(phases):
    forcing = {"phases": [{"strategy": "r_drop"}]} if phases else {"strategy": "r_drop"}
    raw = {"data": {"train": "x"}, "forcing": forcing, "model": {"dropout": 0.0}}
    where = r"forcing\.phases\[1\]" if phases else "forcing"
    message = where + r'\.strategy: "r_drop" compares two draws of dropout, but nothing is dropped\. .*model\.dropout'
    with pytest.raises(ConfigError, match=message):
        parse_config(raw, "c", settings_of)
    raw["model"] = {"dropout": 0.0, "embedding_unit_dropout": 0.1}
    parse_config(raw, "c", settings_of)
