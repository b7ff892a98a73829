"""Every strategy learns to reverse from nothing, and does so by what it is named for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freerun.data.batching import make_batch, plan_epoch
from freerun.forcing.registry import STRATEGIES
from freerun.forcing.strategy import Objective
from freerun.models.dropout import DropoutRates
from freerun.models.initialise import initialise
from freerun.models.seq2seq import Seq2Seq
from freerun.symbols import EOS
from freerun.training.learner import Learner
from freerun.training.schedules import cosine
from tests.learning.test_learning import SYMBOLS, share_right, sources
from tests.networks import architecture, corpus

UPDATES = 400
WARMUP = 50
SETTINGS = {
    "teacher": {},
    "scheduled_sampling": {"schedule": {"kind": "linear", "k": 1.0, "c": 1 / UPDATES}},
    "free_running": {},
    "optimal_completion": {},
    "minimum_risk": {"samples": 4},
    "self_critical": {},
    "input_corruption": {"kind": "replacement"},
    # the model learns faster here than the discriminator does, so it is not spared until that one is ahead
    "professor": {"hidden_size": 32, "learning_rate": 0.01, "warmup": WARMUP, "model_gate": 0.5},
}


def train(strategy, **sizes):
    """A model after ``UPDATES`` updates, and the sums and counts of all figures."""
    rows = sources()
    pairs = corpus([[*row, EOS] for row in rows[150:]], [[*row[::-1], EOS] for row in rows[150:]])
    size = 4 + SYMBOLS
    model = Seq2Seq(architecture(size, **sizes), DropoutRates(dropout=0.1))
    initialise(model, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    learner = Learner(model=model, strategy=strategy, optimizer=optimizer, schedule=cosine(UPDATES), seed=1)
    lengths = pairs.sources.lengths, pairs.targets.lengths
    figures, number, epoch = [], 0, 0
    while number < UPDATES:
        plan = plan_epoch(*lengths, batch_size=64, batch_tokens=None, seed=1, epoch=epoch)
        for batch in plan[: UPDATES - number]:
            number += 1
            figures.append(
                {k: v for each in learner.update(number, [make_batch(pairs, batch)]).metrics for k, v in each.items()}
            )
        epoch += 1
    return model, figures, rows[:150]


def mean(figures, name):
    found = [each[name] for each in figures if name in each]
    return sum(total for total, _ in found) / sum(count for _, count in found)


BAHDANAU = {"attention": "bahdanau", "bidirectional": True}
# with attention the accuracy stays at chance: at a gate of 0.5, the last bits of a machine's sums would decide
WITH_BAHDANAU = {**SETTINGS, "professor": {**SETTINGS["professor"], "model_gate": 0.4}}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        *((name, {}) for name in STRATEGIES),
        # their rollouts are their passes
        *(
            pytest.param(name, BAHDANAU, marks=pytest.mark.slow)
            for name in ("scheduled_sampling", "free_running", "professor")
        ),
    ],
)
def test_a_strategy_learns_to_reverse(name, sizes):
    kind = STRATEGIES[name]
    settings = (WITH_BAHDANAU if sizes else SETTINGS)[name]
    model, figures, held_out = train(kind(kind.Settings(**settings), Objective()), **sizes)
    assert share_right(model, held_out, lambda row: row[::-1]) >= 0.95
    if name in ("scheduled_sampling", "free_running"):
        # with attention the model soon predicts what it would have been fed
        assert mean(figures, "effective_rate") > (0.001 if sizes else 0.01)
    if name == "professor":
        acted = [each["model_gate_closed"][0] == 0.0 for each in figures[WARMUP:]]
        assert np.mean(acted) >= 0.2
        assert -1.0 <= mean(figures, "gradient_cosine") <= 1.0
