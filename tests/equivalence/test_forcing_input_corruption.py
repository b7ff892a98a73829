"""Input corruption against the oracle, given the coins, distances and draws: what is fed, and what is learned."""

from __future__ import annotations

import pytest

from freerun.forcing.input_corruption import InputCorruption
from freerun.forcing.strategy import Objective
from freerun.forcing.training_batch import Update
from freerun.symbols import EOS, UNK
from tests import oracle_losses as by_the_book
from tests.networks import (
    CELLS,
    SOME_OF_ALL,
    book,
    network,
    random_rows,
    recorded,
    same_fed,
    same_losses,
    training_batch,
)

TARGETS = random_rows([4, 6, 1, 2], size=9, seed=1)
BATCH = training_batch(random_rows([4, 1, 6, 4]), TARGETS)
UPDATE = Update(number=7, seed=3)
VOCABULARY = 9


def corrupted(batch, numbers, kind, amount):
    """What the oracle feeds: with ``amount`` the rate, or RAML's temperature."""
    fed = []
    for n, target in enumerate(row.target for row in batch):
        coins, draws = numbers["coins"][n].tolist(), numbers["draws"][n].tolist()
        if kind == "dropout":
            fed.append(by_the_book.word_dropout(target, coins, amount))
        elif kind == "replacement":
            fed.append(by_the_book.replacement(target, coins, draws, amount, VOCABULARY))
        else:
            number = numbers["distances"][n].item()
            fed.append(by_the_book.raml_sample(target, number, coins, draws, amount, VOCABULARY))
    return fed


def check(model, batch, update, kind, amount):
    key = "temperature" if kind == "raml" else "rate"
    settings = InputCorruption.Settings(kind=kind, **{key: amount})
    losses, record = recorded(InputCorruption(settings, Objective(0.1)), model, batch, update)
    rows = record.rows(batch)
    fed = corrupted(rows, record.numbers, kind, amount)
    expected = by_the_book.input_corruption(book(model), rows, by_the_book.Objective(0.1), fed, kind == "raml")
    same_fed(record.fed[-1], expected.fed)
    same_losses(losses, expected, model)
    return expected.metrics["effective_rate"][0]


each_kind = pytest.mark.parametrize(
    ("kind", "amount"), [("dropout", 0.4), ("replacement", 0.7), ("raml", 0.3), ("raml", 2.0)]
)


@each_kind
@pytest.mark.parametrize("attention", ["none", "general", "bahdanau"])
@pytest.mark.parametrize("cell", CELLS)
def test_losses_and_gradients_are_those_of_a_loop(cell, attention, kind, amount):
    model = network(cell=cell, attention=attention, **SOME_OF_ALL)
    assert check(model, BATCH, UPDATE, kind, amount) > 0


@each_kind
def test_what_is_fed_follows_from_the_numbers(kind, amount):
    """Over updates, so that every distance and every token comes up; unknown tokens among the targets."""
    targets = [target if len(target) < 3 else [target[0], UNK, *target[2:-1], EOS] for target in TARGETS]
    batch, model = training_batch(random_rows([4, 1, 6, 4]), targets), network(num_layers=1)
    changes = {check(model, batch, Update(number, 5), kind, amount) for number in range(1, 21)}
    assert len(changes) > 2
