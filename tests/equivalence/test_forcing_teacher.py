"""Teacher forcing in one fused pass is a step-by-step loop over the cell equations, dropout included."""

from __future__ import annotations

import itertools

import pytest
import torch

from freerun.forcing.batch import Update
from freerun.forcing.replay import encode, replay
from freerun.forcing.strategy import Objective, StrategySettings
from freerun.forcing.teacher import Teacher
from tests.networks import BACKENDS, CELLS, close, gradients_of, naive_logits, network, random_rows, training_batch

BATCH = training_batch(random_rows([4, 1, 6, 4]), random_rows([3, 5, 1, 2], size=9, seed=1))
UPDATE = Update(number=7, seed=3)
each_architecture = pytest.mark.parametrize(
    ("cell", "bidirectional", "context", "attention", "tied_output"),
    [
        *itertools.product(CELLS, [False, True], ["init", "every_step"], ["none"], [False, True]),
        *itertools.product(CELLS, [False, True], ["init"], ["general", "concat"], [False]),
    ],
)


def looped_nll(model, smoothing):
    """(smoothed, plain) NLL summed over BATCH, a pair and a token at a time, under the masks of UPDATE."""
    sizes = BATCH.source_BS.shape[1], BATCH.target_in_BT.shape[1], BATCH.num_pairs
    masks = model.draw_masks(*sizes, UPDATE.generator("dropout"))
    smoothed = plain = 0
    for row, (source_length, length) in enumerate(
        zip(BATCH.origin.source_lengths, BATCH.origin.target_lengths, strict=True)
    ):
        source, fed = BATCH.source_BS[row, :source_length], BATCH.target_in_BT[row, :length]
        for logits, right in zip(naive_logits(model, source, fed, masks, row), BATCH.target_out_BT[row], strict=False):
            log_probs = logits - logits.exp().sum().log()
            plain = plain - log_probs[right]
            smoothed = smoothed - (1 - smoothing) * log_probs[right] - smoothing / len(logits) * log_probs.sum()
    return smoothed, plain


@pytest.mark.parametrize("backend", BACKENDS)
@each_architecture
def test_losses_and_gradients_are_those_of_a_loop(cell, bidirectional, context, attention, tied_output, backend):
    sizes = {"cell": cell, "bidirectional": bidirectional, "context": context, "attention": attention}
    model = network(**sizes, tied_output=tied_output, dropout=0.4, embedding_dropout=0.3, backend=backend)
    losses = Teacher(StrategySettings(), Objective(label_smoothing=0.1)).losses(model, BATCH, UPDATE)
    expected, nll = looped_nll(model, 0.1)
    term = losses.terms["nll"]
    close(term.sum, expected)
    assert losses.figures["nll.teacher"] == (pytest.approx(nll.item(), abs=1e-10), 11)
    close(gradients_of(term.sum, model), gradients_of(expected, model))


def test_replay_gives_the_logits_of_real_positions_only():
    model = network(attention="dot", scale=1.5)
    logits = model.decoder.logits(replay(model, BATCH, encode(model, BATCH, UPDATE)[0], BATCH.target_in_BT, None))
    rows = zip(
        BATCH.source_BS, BATCH.origin.source_lengths, BATCH.target_in_BT, BATCH.origin.target_lengths, strict=True
    )
    alone = [naive_logits(model, source[:n], fed[:length]) for source, n, fed, length in rows]
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
