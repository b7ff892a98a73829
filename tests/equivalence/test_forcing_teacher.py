"""Teacher forcing in one fused pass is a step-by-step loop over the cell equations, dropout included."""

from __future__ import annotations

import itertools

import pytest
import torch

from freerun.forcing.replay import encode, replay
from freerun.forcing.strategy import Objective, StrategySettings
from freerun.forcing.teacher import Teacher
from freerun.forcing.training_batch import Update
from tests import oracle
from tests import oracle_losses as by_the_book
from tests.networks import (
    BACKENDS,
    CELLS,
    SOME_OF_ALL,
    book,
    close,
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
each_architecture = pytest.mark.parametrize(
    ("cell", "bidirectional", "context", "attention", "tied_output"),
    [
        *itertools.product(CELLS, [False, True], ["init", "every_step"], ["none"], [False, True]),
        *itertools.product(CELLS, [False, True], ["init"], ["general", "concat", "bahdanau"], [False]),
    ],
)


@pytest.mark.parametrize("backend", BACKENDS)
@each_architecture
def test_losses_and_gradients_are_those_of_a_loop(cell, bidirectional, context, attention, tied_output, backend):
    sizes = {"cell": cell, "bidirectional": bidirectional, "context": context, "attention": attention}
    model = network(**sizes, tied_output=tied_output, **SOME_OF_ALL, backend=backend)
    for normalise in ("tokens", "sequences"):
        teacher = Teacher(StrategySettings(), Objective(0.1, normalise))
        losses, record = recorded(teacher, model, BATCH, UPDATE)
        expected = by_the_book.teacher(book(model), record.rows(BATCH), by_the_book.Objective(0.1, normalise))
        same_losses(losses, expected, model)
        same_fed(record.fed[-1], expected.fed)


def test_replay_gives_the_logits_of_real_positions_only():
    model = network(attention="dot", scale=1.5)
    logits = model.decoder.logits(replay(model, BATCH, encode(model, BATCH, UPDATE)[0], BATCH.target_in_BT, None))
    alone = []
    for row in rows_of(BATCH):
        steps = oracle.forced(book(model), oracle.encode(book(model), row.source), row.target)
        alone.append([step.logits_V for step in steps])
    # row by row of a [T, B] array: all first tokens, then all second ones
    expected = [each[t] for t in range(5) for each in alone if t < len(each)]
    close(logits, torch.stack(expected))


def test_a_batch_without_padding_is_the_same():
    rows = random_rows([4, 4], seed=5), random_rows([3, 3], size=9, seed=6)
    full, model = training_batch(*rows), network()
    alone = [training_batch([source], [target]) for source, target in zip(*rows, strict=True)]
    teacher = Teacher(StrategySettings(), Objective())
    total = sum(teacher.losses(model, each, UPDATE).terms["nll"].sum for each in alone)
    assert full.source_lengths_B is full.real_N is None
    close(teacher.losses(model, full, UPDATE).terms["nll"].sum, total)
