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
from freerun.symbols import BOS, EOS, NEVER_WRITTEN, UNK
from tests.equivalence.test_forcing_rollout import drawn_by_hand
from tests.networks import CELLS, close, gradients_of, naive_logits, network, random_rows, training_batch

# the first source stands on two lines: two references
SOURCES = random_rows([4, 1, 6])
BATCH = training_batch([SOURCES[0], *SOURCES], random_rows([4, 2, 3, 5], size=9, seed=1))
# unknown tokens in one of two references, in the only one, and nothing else
UNKNOWN = training_batch(
    [SOURCES[0], *SOURCES], [[4, UNK, 5, EOS], [4, 6, EOS], [UNK, 7, UNK, 8, EOS], [UNK, UNK, EOS]]
)
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


def looped(model, settings, smoothing, batch=BATCH):
    """(loss, KL, steps of each row, edits, rollouts that came to EOS)."""
    bounds = [int(length * settings.longest_ratio) + 3 for length in batch.origin.target_lengths]
    shape = len(bounds), max(bounds)
    masks = model.draw_masks(batch.source_BS.shape[1], max(bounds), len(bounds), UPDATE.generator("dropout"))
    numbers, coins, right = (uniforms(UPDATE, name, *shape) for name in ("draws", "coins", "right draws"))
    loss = kl = edits = ended = 0
    steps = [0] * len(bounds)
    for row, bound in enumerate(bounds):
        source = batch.source_BS[row, : batch.origin.source_lengths[row]]
        references = [reference[:-1].tolist() for reference in batch.references[row]]
        fed, written = [BOS], []
        while len(written) < bound and EOS not in written:
            t = len(written)
            logits = naive_logits(model, source, fed, masks, row)[-1]
            log_probs = logits - logits.exp().sum().log()
            tokens = sorted(optimal(written, references))
            if tokens:
                each = -np.log(len(tokens)) - sum(log_probs[token] for token in tokens) / len(tokens)
                kl, loss = kl + each, loss + (1 - smoothing) * each - smoothing * log_probs.mean()
                steps[row] += 1
            token = drawn_by_hand(logits, numbers[row, t].item(), settings.draw, settings.temperature, NEVER_WRITTEN)
            if tokens and coins[row, t] < settings.teacher_prob:
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
    settings = OptimalCompletion.Settings(draw=draw, teacher_prob=teacher_prob, temperature=0.6, longest_ratio=1.2)
    losses = OptimalCompletion(settings, Objective(label_smoothing=0.1)).losses(model, BATCH, UPDATE)
    loss, kl, steps, edits, ended = looped(model, settings, 0.1)
    term = losses.terms["kl"]
    assert term.count == sum(steps)
    close(term.sum, loss)
    close(gradients_of(term.sum, model), gradients_of(loss, model))
    assert losses.figures["kl.optimal_completion"] == (pytest.approx(kl.item(), abs=1e-9), sum(steps))
    assert losses.figures["rollout_edits"] == (edits, ended)
    assert losses.figures["rollout_cut_off"] == (4 - ended, 4)


@pytest.mark.parametrize("teacher_prob", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("normalise", ["tokens", "sequences"])
def test_unknown_tokens_are_neither_learned_nor_fed(teacher_prob, normalise, monkeypatch):
    model, fed = network(scale=1.2, dropout=0.3), []
    sequence = model.decoder.sequence
    monkeypatch.setattr(
        model.decoder, "sequence", lambda tokens, *more: (fed.append(tokens), sequence(tokens, *more))[1]
    )
    settings = OptimalCompletion.Settings(teacher_prob=teacher_prob)
    losses = OptimalCompletion(settings, Objective(0.1, normalise)).losses(model, UNKNOWN, UPDATE)
    loss, kl, steps, edits, ended = looped(model, settings, 0.1, UNKNOWN)
    assert sum(steps) < sum(UNKNOWN.origin.target_lengths) + 12  # some steps are not counted, whatever is written
    term = losses.terms["kl"]
    assert term.count == (sum(steps) if normalise == "tokens" else sum(each > 0 for each in steps))
    close(term.sum, loss)
    close(gradients_of(term.sum, model), gradients_of(loss, model))
    assert losses.figures["kl.optimal_completion"] == (pytest.approx(kl.item(), abs=1e-9), sum(steps))
    assert losses.figures["rollout_edits"] == (edits, ended)
    assert not torch.isin(fed[0][:, 1:], torch.tensor([BOS, UNK])).any()


@pytest.mark.parametrize("normalise", ["tokens", "sequences"])
def test_a_batch_with_nothing_to_learn_has_no_loss_and_no_count(normalise):
    model = network()
    with torch.no_grad():
        model.decoder.output_bias[EOS] = 50.0  # it ends at once, where the reference has an unknown token
    batch = training_batch([[5, EOS]], [[UNK, EOS]])
    losses = OptimalCompletion(OptimalCompletion.Settings(), Objective(0.1, normalise)).losses(model, batch, UPDATE)
    assert (losses.terms["kl"].sum.item(), losses.terms["kl"].count) == (0.0, 0)
    assert losses.figures["kl.optimal_completion"] == (0.0, 0)
    assert losses.figures["rollout_edits"] == (1, 1)
    assert all((gradient == 0).all() for gradient in gradients_of(losses.terms["kl"].sum, model).values())


@pytest.mark.parametrize("longest_ratio", [1.0, 1.5, 4.0])
def test_a_rollout_without_an_end_is_cut_off_at_its_own_bound(longest_ratio):
    model = network()
    with torch.no_grad():
        model.decoder.output_bias[EOS] = -99.0
    strategy = OptimalCompletion(OptimalCompletion.Settings(longest_ratio=longest_ratio), Objective())
    losses = strategy.losses(model, BATCH, UPDATE)
    assert losses.terms["kl"].count == sum(int(longest_ratio * length) + 3 for length in (4, 2, 3, 5))
    assert losses.figures["rollout_cut_off"] == (4, 4)
    assert losses.figures["rollout_edits"] == (0, 0)


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
