"""A model learns: a threshold on held-out sources, free running, within seconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freerun.data.batching import make_batch, plan_epoch
from freerun.forcing.strategy import Objective, StrategySettings
from freerun.forcing.teacher import Teacher
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.dropout import DropoutRates
from freerun.models.initialise import initialise
from freerun.models.seq2seq import Seq2Seq
from freerun.models.torch_stepper import TorchStepper
from freerun.search.batches import pad_sources
from freerun.symbols import EOS
from tests.networks import architecture, corpus, with_features
from tests.searching import beam_search
from tests.steppers import bounds

SYMBOLS = 6
TASKS = {"copy": lambda row: row, "reverse": lambda row: row[::-1]}
MODELS = {
    "lstm": {},
    "gru_every_step": {"cell": "gru", "context": "every_step"},
    "rnn_attention": {"cell": "rnn", "bidirectional": True, "attention": "general"},
    "gru_scaled_attention": {"cell": "gru", "bidirectional": True, "attention": "scaled_general"},
    "lstm_bahdanau": {"bidirectional": True, "attention": "bahdanau"},
    "gru_input_feeding": {"cell": "gru", "bidirectional": True, "attention": "concat", "input_feeding": True},
    "mingru_bahdanau": {"cell": "mingru", "bidirectional": True, "attention": "bahdanau"},
}


def sources():
    """Distinct sequences of 1 to 4 symbols, in random order."""
    random = np.random.default_rng(0)
    rows = {tuple(random.integers(4, 4 + SYMBOLS, random.integers(1, 5)).tolist()) for _ in range(3000)}
    return [list(row) for row in sorted(rows, key=lambda _: random.random())]


def train(model, pairs, updates, batch_size=64, learning_rate=0.01):
    """Losses of all updates."""
    teacher, parameters = Teacher(StrategySettings(), Objective()), list(model.parameters())
    optimizer, losses, epoch = torch.optim.Adam(parameters, learning_rate), [], 0
    lengths = pairs.sources.lengths, pairs.targets.lengths
    while len(losses) < updates:
        for rows in plan_epoch(*lengths, batch_size=batch_size, batch_tokens=None, seed=1, epoch=epoch):
            batch = TrainingBatch.of(make_batch(pairs, rows))
            term = teacher.losses(model, batch, Update(len(losses) + 1, 1)).terms["nll"]
            optimizer.param_groups[0]["lr"] = learning_rate * max(0.0, 1 - len(losses) / updates)
            optimizer.zero_grad()
            (term.sum / term.count).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(term.sum.item() / term.count)
        epoch += 1
    return losses[:updates]


def share_right(model, rows, solve, features=None):
    """The share of the rows, each with its ids of features if there are any, whose output is ``solve(row)``."""
    encoded = [[*row, EOS, *own] for row, own in zip(rows, features or [[]] * len(rows), strict=True)]
    found = beam_search(TorchStepper(model), *pad_sources(encoded), max_lengths=bounds(*[15] * len(rows)))
    return np.mean([list(best.ids) == solve(row) for row, (best,) in zip(rows, found, strict=True)])


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("lstm", "copy"),
        ("lstm", "reverse"),
        ("gru_every_step", "reverse"),
        ("rnn_attention", "copy"),
        ("gru_scaled_attention", "reverse"),
        ("lstm_bahdanau", "reverse"),
        ("gru_input_feeding", "reverse"),
        ("mingru_bahdanau", "reverse"),
    ],
)
def test_a_small_model_learns(name, task):
    solve, rows = TASKS[task], sources()
    train_rows, held_out = rows[150:], rows[:150]
    pairs = corpus([[*row, EOS] for row in train_rows], [[*solve(row), EOS] for row in train_rows])
    size = 4 + SYMBOLS
    model = Seq2Seq(architecture(size, **MODELS[name]), DropoutRates(dropout=0.1))
    initialise(model, 1)
    assert share_right(model, held_out, solve) < 0.05
    losses = train(model, pairs, 250)
    assert np.mean(losses[-20:]) < 0.1 < 1.5 < losses[0]
    assert share_right(model, held_out, solve) >= 0.9


REVERSED, UPPER = 4, 5
"""Ids of features."""
WITH_FEATURES = {
    "lstm": with_features("summary"),
    "rnn_bahdanau": {"cell": "rnn", "attention": "bahdanau", "bidirectional": True, **with_features("sequence")},
    "gru_luong": {"cell": "gru", "attention": "general", "bidirectional": True, **with_features("both")},
}


def featured(rows):
    """Each row with four sets of features (their ids), and its target for each."""
    sets = [[], [REVERSED], [UPPER], [REVERSED, UPPER]]
    return [(row, own, inflected(row, own)) for row in rows for own in sets]


def inflected(row, features):
    """What only the features tell: the row, reversed or not, in one of two alphabets."""
    return [token + SYMBOLS * (UPPER in features) for token in (row[::-1] if REVERSED in features else row)]


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_a_small_model_learns_what_features_mean(name):
    train_rows, held_out = featured(sources()[150:800]), featured(sources()[:150])
    pairs = corpus(*zip(*(([*row, EOS], [*target, EOS], own) for row, own, target in train_rows), strict=True))
    sizes = architecture(4 + SYMBOLS, 4 + 2 * SYMBOLS, **WITH_FEATURES[name])
    model = Seq2Seq(sizes, DropoutRates(embedding_dropout=0.02))
    initialise(model, 1)
    train(model, pairs, 500)
    for n, own in enumerate([[], [REVERSED], [UPPER], [REVERSED, UPPER]]):
        rows = [row for row, _, _ in held_out[n::4]]
        assert share_right(model, rows, lambda row, own=own: inflected(row, own), [own] * len(rows)) >= 0.85, own


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_the_first_losses_are_those_they_have_always_been(backend):
    """A change of structure does not move them. One that moves them on purpose changes what a seed means."""
    rows = [[4 + (3 * row + place) % SYMBOLS for place in range(1 + row % 3)] for row in range(24)]
    pairs = corpus([[*row, EOS] for row in rows], [[*row[::-1], EOS] for row in rows])
    sizes = architecture(
        4 + SYMBOLS, embedding_size=5, hidden_size=6, num_layers=2, bidirectional=True, attention="general"
    )
    model = Seq2Seq(sizes, backend=backend).double()
    initialise(model, 1)
    assert train(model, pairs, 3, batch_size=10) == pytest.approx([2.3031415, 2.2937145, 2.2830538], abs=1e-6)
