"""Every strategy with features against the oracle: losses, gradients and fed tokens, for every cell and attention."""

from __future__ import annotations

import pytest
import torch

from freerun.forcing.registry import STRATEGIES
from freerun.forcing.strategy import Objective
from freerun.forcing.training_batch import Update
from freerun.symbols import EOS, NEVER_WRITTEN
from tests import oracle_losses as by_the_book
from tests import oracle_outputs, oracle_professor
from tests.networks import (
    CELLS,
    SOME_OF_ALL,
    book,
    close,
    gradients_of,
    network,
    random_features,
    random_rows,
    randomise,
    recorded,
    same_fed,
    same_losses,
    training_batch,
    with_features,
)

# twice one source with the same features, twice with others, and a source without features
SOURCES = random_rows([4, 1, 6])
FEATURES = random_features([2, 3, 0, 4])
BATCH = training_batch(
    [SOURCES[0], SOURCES[0], SOURCES[0], *SOURCES[1:]],
    random_rows([4, 2, 3, 1, 5], size=9, seed=1),
    [FEATURES[0], FEATURES[0], *FEATURES[1:]],
)
UPDATE = Update(number=7, seed=3)
SMOOTHED = by_the_book.Objective(0.1)
DRAW, WRITABLE = by_the_book.Draw("sample"), by_the_book.Draw("sample", banned=(*NEVER_WRITTEN, EOS))
SETTINGS = {
    "scheduled_sampling": {"schedule": {"kind": "constant", "teacher_prob": 0.5}},
    "optimal_completion": {"teacher_prob": 0.4},
    "minimum_risk": {"samples": 4, "weight": 0.3},
    "input_corruption": {"rate": 0.5},
    "professor": {"hidden_size": 5, "warmup": 0},
}


def by_the_oracle(name, model, numbers, rows):
    """The oracle's losses, given the numbers that were drawn."""
    if name == "teacher":
        return by_the_book.teacher(model, rows, SMOOTHED)
    if name == "scheduled_sampling":
        return by_the_book.scheduled_sampling(model, rows, SMOOTHED, 0.5, numbers["coins"], numbers["draws"], WRITABLE)
    if name == "free_running":
        return by_the_book.free_running(model, rows, SMOOTHED, numbers["draws"], WRITABLE)
    if name == "input_corruption":
        fed = [by_the_book.word_dropout(row.target, numbers["coins"][n], 0.5) for n, row in enumerate(rows)]
        return by_the_book.input_corruption(model, rows, SMOOTHED, fed, raml=False)
    if name == "optimal_completion":
        draws, coins, right = (numbers[each] for each in ("draws", "coins", "right draws"))
        return oracle_outputs.optimal_completion(model, rows, SMOOTHED, draws, DRAW, 0.4, coins, right, 1.5)
    if name == "minimum_risk":
        rules = {"samples": 4, "alpha": 1.0, "cost": "symbol_error_rate", "weight": 0.3}
        return oracle_outputs.minimum_risk(model, rows, SMOOTHED, numbers["samples"], DRAW, **rules)
    return oracle_outputs.self_critical(model, rows, SMOOTHED, numbers["samples"], DRAW, "symbol_error_rate")


def a_model(kind, seed=0, **sizes):
    model = network(seed, scale=1.2, **SOME_OF_ALL, bidirectional=True, **sizes, **with_features(kind))
    with torch.no_grad():
        model.decoder.output_bias[EOS] += 0.3
    return model


def made(name, model):
    kind = STRATEGIES[name]
    strategy = kind(kind.Settings(**SETTINGS.get(name, {})), Objective(label_smoothing=0.1))
    strategy.prepare(model, 1)
    return strategy


MODELS = [
    *((cell, "none", "summary") for cell in CELLS),
    *((cell, "general", "sequence") for cell in CELLS),
    ("lstm", "general", "summary"),
    ("gru", "concat", "sequence"),
    ("gru", "bahdanau", "summary"),
    ("gru", "bahdanau", "sequence"),
    ("lstm", "concat", "both"),
    ("gru", "bahdanau", "both"),
]


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "professor"])
@pytest.mark.parametrize(("cell", "attention", "kind"), MODELS)
def test_losses_and_gradients_are_those_of_a_loop(cell, attention, kind, name):
    model = a_model(kind, cell=cell, attention=attention)
    losses, record = recorded(made(name, model), model, BATCH, UPDATE)
    expected = by_the_oracle(name, book(model), record.numbers, record.rows(BATCH))
    same_fed(record.fed[-1], expected.fed)
    same_losses(losses, expected, model)
    gradients = gradients_of(sum(term.sum for term in losses.terms.values()), model)
    tables = [table for name, table in gradients.items() if name.startswith("feature_") and "embedding" in name]
    assert len(tables) == 1 + (kind == "both")
    for table in tables:
        assert table[3:].any() and not table[:3].any()  # ids below 3 are in no source, except as padding


@pytest.mark.parametrize(("cell", "attention", "kind"), [each for each in MODELS if each[1] != "bahdanau"])
def test_professor_forcing_is_that_of_a_loop(cell, attention, kind):
    """Its discriminator sees features only through the decoder's behaviour and the encoder's context."""
    model = a_model(kind, 3 if cell == "mingru" else 0, cell=cell, attention=attention)
    strategy = made("professor", model)
    randomise(strategy.discriminator, 5)
    strategy.accuracy = 0.8
    losses, record = recorded(strategy, model, BATCH, UPDATE)
    weights = dict(strategy.discriminator.named_parameters())
    numbers, rules = record.numbers["free run"], oracle_professor.Professor(weight=0.1)
    expected, own_loss = oracle_professor.professor(
        book(model), weights, record.rows(BATCH), SMOOTHED, numbers, DRAW, rules, 0.8
    )
    same_losses(losses, expected, model)
    found = {name: parameter.grad for name, parameter in strategy.discriminator.named_parameters()}
    close(found, gradients_of(own_loss, strategy.discriminator))
    assert losses.terms["free"].count > 0


def test_a_source_with_other_features_has_its_own_references():
    assert BATCH.origin.corpus.num_sources == 4
    assert [len(row) for row in BATCH.references] == [2, 2, 1, 1, 1]


@pytest.mark.parametrize("name", ["minimum_risk", "self_critical"])
def test_the_model_at_inference_time_reads_features_without_dropout(name, monkeypatch):
    model, seen = a_model("summary"), []
    encode_features = model.feature_encoder.forward

    def keep(feature_ids_BQ, *masks):
        seen.append((feature_ids_BQ.tolist(), len(masks) == 2 and all(mask is not None for mask in masks)))
        return encode_features(feature_ids_BQ, *masks)

    monkeypatch.setattr(model.feature_encoder, "forward", keep)
    made(name, model).losses(model, BATCH, UPDATE)
    assert sorted(has_dropout for _, has_dropout in seen) == [False, True]
    assert seen[0][0] == seen[1][0] == BATCH.feature_ids_BQ.tolist()
