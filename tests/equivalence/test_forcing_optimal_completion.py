"""Optimal completion against a loop that rolls out, judges and learns a row and a token at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rapidfuzz.distance import Levenshtein

from freerun.config import parse_config
from freerun.errors import ConfigError
from freerun.forcing.batch import Update
from freerun.forcing.optimal_completion import OptimalCompletion, kl_to_optimal
from freerun.forcing.registry import settings_of
from freerun.forcing.rollout import uniforms
from freerun.forcing.strategy import Objective
from freerun.symbols import BOS, EOS, NEVER_WRITTEN
from tests.equivalence.test_forcing_rollout import drawn_by_hand
from tests.networks import CELLS, close, gradients_of, naive_logits, network, random_rows, training_batch

# the first source stands on two lines: two references
SOURCES = random_rows([4, 1, 6])
BATCH = training_batch([SOURCES[0], *SOURCES], random_rows([4, 2, 3, 5], size=9, seed=1))
UPDATE = Update(number=7, seed=3)


def reachable(prefix, references):
    """Least distance of the prefix to any beginning of any reference: what is then still to come costs nothing."""
    return min(
        Levenshtein.distance(prefix, reference[:j]) for reference in references for j in range(len(reference) + 1)
    )


def optimal(prefix, references, size=9):
    best = reachable(prefix, references)
    found = {token for token in range(4, size) if reachable([*prefix, token], references) == best}
    return found | ({EOS} if min(Levenshtein.distance(prefix, each) for each in references) == best else set())


def looped(model, teacher_prob, draw, smoothing):
    """(loss, KL, steps, edits, rollouts that came to EOS)."""
    bounds = [int(length) * 3 // 2 + 3 for length in BATCH.origin.target_lengths]
    shape = len(bounds), max(bounds)
    masks = model.draw_masks(BATCH.source_BS.shape[1], max(bounds), len(bounds), UPDATE.generator("dropout"))
    numbers, coins, right = (uniforms(UPDATE, name, *shape) for name in ("draws", "coins", "right draws"))
    loss = kl = steps = edits = ended = 0
    for row, bound in enumerate(bounds):
        source = BATCH.source_BS[row, : BATCH.origin.source_lengths[row]]
        references = [reference[:-1].tolist() for reference in BATCH.references[row]]
        fed, written = [BOS], []
        while len(written) < bound and EOS not in written:
            t = len(written)
            logits = naive_logits(model, source, fed, masks, row)[-1]
            log_probs = logits - logits.exp().sum().log()
            tokens = sorted(optimal(written, references))
            each = -np.log(len(tokens)) - sum(log_probs[token] for token in tokens) / len(tokens)
            kl, steps = kl + each, steps + 1
            loss = loss + (1 - smoothing) * each - smoothing * log_probs.mean()
            token = drawn_by_hand(logits, numbers[row, t].item(), draw, 1.0, NEVER_WRITTEN)
            if coins[row, t] < teacher_prob:
                token = tokens[int(right[row, t].item() * len(tokens))]
            written.append(token)
            fed.append(token)
        if EOS in written:
            ended += 1
            edits += min(Levenshtein.distance(written[:-1], reference) for reference in references)
    return loss, kl, steps, edits, ended


@pytest.mark.parametrize("teacher_prob", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("draw", ["sample", "argmax"])
@pytest.mark.parametrize(
    ("cell", "attention"), [*((cell, "none") for cell in CELLS), ("lstm", "general"), ("gru", "bahdanau")]
)
def test_losses_and_gradients_are_those_of_a_loop(cell, attention, draw, teacher_prob):
    model = network(cell=cell, attention=attention, scale=1.2, dropout=0.3, embedding_dropout=0.2)
    settings = OptimalCompletion.Settings(draw=draw, teacher_prob=teacher_prob)
    losses = OptimalCompletion(settings, Objective(label_smoothing=0.1)).losses(model, BATCH, UPDATE)
    loss, kl, steps, edits, ended = looped(model, teacher_prob, draw, 0.1)
    term = losses.terms["kl"]
    assert term.count == steps
    close(term.sum, loss)
    close(gradients_of(term.sum, model), gradients_of(loss, model))
    assert losses.figures["kl.optimal_completion"] == (pytest.approx(kl.item(), abs=1e-9), steps)
    assert losses.figures["rollout_edits"] == (edits, ended)
    assert losses.figures["rollout_cut_off"] == (4 - ended, 4)


def test_right_continuations_alone_write_a_reference():
    model = network()
    losses = OptimalCompletion(OptimalCompletion.Settings(teacher_prob=1.0), Objective()).losses(model, BATCH, UPDATE)
    assert losses.figures["rollout_edits"] == (0, 4)


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
