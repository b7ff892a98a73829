"""Rollout and replay against a loop over the cell equations that draws the tokens itself, one at a time."""

from __future__ import annotations

import bisect
import itertools

import pytest
import torch

from freerun.forcing.batch import Update
from freerun.forcing.draw import Draw
from freerun.forcing.free_running import FreeRunning
from freerun.forcing.replay import encode
from freerun.forcing.rollout import aligned_in_passes, aligned_rollout, free_rollout, uniforms
from freerun.forcing.scheduled_sampling import ScheduledSampling
from freerun.forcing.strategy import Objective
from freerun.models.decoder import Decoded
from freerun.symbols import BOS, EOS, NEVER_WRITTEN, PAD
from tests.networks import BACKENDS, CELLS, close, gradients_of, naive_logits, network, random_rows, training_batch

BATCH = training_batch(random_rows([4, 1, 6, 4]), random_rows([4, 6, 1, 2], size=9, seed=1))
UPDATE = Update(number=7, seed=3)
HALF = {"kind": "constant", "teacher_prob": 0.5}
each_architecture = pytest.mark.parametrize(
    ("cell", "context", "attention"),
    [
        *itertools.product(CELLS, ["init", "every_step"], ["none"]),
        *itertools.product(CELLS, ["init"], ["general", "bahdanau", "input feeding"]),
    ],
)
each_draw = pytest.mark.parametrize("draw", ["sample", "argmax"])


def a_network(backend="auto", scale=1.5, attention="none", **sizes):
    if attention == "input feeding":
        attention, sizes["input_feeding"] = "general", True
    sizes["attention"] = attention
    return network(dropout=0.4, embedding_dropout=0.3, scale=scale, backend=backend, bidirectional=True, **sizes)


def masks_of(model, steps=None):
    steps = steps or BATCH.target_in_BT.shape[1]
    return model.draw_masks(BATCH.source_BS.shape[1], steps, BATCH.num_pairs, UPDATE.generator("dropout"))


def source(row):
    return BATCH.source_BS[row, : BATCH.origin.source_lengths[row]]


def drawn_by_hand(logits, number, kind, temperature, banned):
    """The token that ``number`` points at when all tokens stand side by side, each as wide as it is probable."""
    scores = [-float("inf") if token in banned else score / temperature for token, score in enumerate(logits.tolist())]
    if kind == "argmax":
        return max(range(len(scores)), key=lambda token: scores[token])
    widths = [torch.tensor(score, dtype=torch.float64).exp().item() for score in scores]
    edges = list(itertools.accumulate(widths))
    return bisect.bisect_right(edges, number * edges[-1])


def looped_tokens(model, draws, numbers, kind="sample", temperature=1.0, banned=(*NEVER_WRITTEN, EOS), masks=None):
    """What is fed to each row when position t is drawn where ``draws`` says so."""
    fed = BATCH.target_in_BT.tolist()
    for row, tokens in enumerate(fed):
        for t in range(len(tokens)):
            if draws[row, t]:
                logits = naive_logits(model, source(row), tokens[:t], masks, row)[-1]
                tokens[t] = drawn_by_hand(logits, numbers[row, t].item(), kind, temperature, banned)
    return torch.tensor(fed)


def fed_to(model, strategy, monkeypatch):
    """The losses of a strategy, and the tokens that its last whole-sequence pass was fed."""
    fed = []
    sequence = model.decoder.sequence

    def spy(tokens, *others):
        fed.append(tokens)
        return sequence(tokens, *others)

    monkeypatch.setattr(model.decoder, "sequence", spy)
    return strategy.losses(model, BATCH, UPDATE), fed[-1]


def looped_nll(model, fed, smoothing=0.0):
    masks, total = masks_of(model), 0
    for row, length in enumerate(BATCH.origin.target_lengths):
        logits = naive_logits(model, source(row), fed[row, :length], masks, row)
        for each, right in zip(logits, BATCH.target_out_BT[row], strict=False):
            log_probs = each - each.exp().sum().log()
            total = total - (1 - smoothing) * log_probs[right] - smoothing / len(each) * log_probs.sum()
    return total


def strategies(draw):
    objective = Objective(label_smoothing=0.1)
    yield ScheduledSampling(ScheduledSampling.Settings(schedule=HALF, draw=draw), objective)
    yield ScheduledSampling(ScheduledSampling.Settings(schedule=HALF, draw=draw, passes=9), objective)
    yield FreeRunning(FreeRunning.Settings(draw=draw), objective)


@pytest.mark.parametrize("backend", BACKENDS)
@each_draw
@each_architecture
def test_losses_and_gradients_are_those_of_a_loop_that_is_fed_the_same(
    cell, context, attention, draw, backend, monkeypatch
):
    model = a_network(cell=cell, context=context, attention=attention, backend=backend)
    for strategy in strategies(draw):
        losses, fed = fed_to(model, strategy, monkeypatch)
        expected = looped_nll(model, fed, 0.1)
        assert not torch.equal(fed, BATCH.target_in_BT)
        close(losses.terms["nll"].sum, expected)
        close(gradients_of(losses.terms["nll"].sum, model), gradients_of(expected, model))


@each_draw
@each_architecture
def test_what_is_fed_is_what_a_loop_draws(cell, context, attention, draw, monkeypatch):
    model = a_network(cell=cell, context=context, attention=attention)
    shape = BATCH.target_in_BT.shape
    numbers = uniforms(UPDATE, "draws", *shape)
    coins = (uniforms(UPDATE, "coins", *shape) >= 0.5) & BATCH.drawable_BT
    wanted = [coins, coins, BATCH.drawable_BT]
    assert coins.any() and not torch.equal(coins, BATCH.drawable_BT)
    for strategy, draws in zip(strategies(draw), wanted, strict=True):
        _, fed = fed_to(model, strategy, monkeypatch)
        assert torch.equal(fed, looped_tokens(model, draws, numbers, draw, masks=masks_of(model)))


@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_temperature_and_drawn_eos(temperature, monkeypatch):
    model, found = a_network(), []
    with torch.no_grad():
        model.decoder.output_bias[EOS] += 2.0  # likely enough to be drawn
    numbers = uniforms(UPDATE, "draws", *BATCH.target_in_BT.shape)
    for draw_eos in (False, True):
        settings = FreeRunning.Settings(temperature=temperature, draw_eos=draw_eos)
        _, fed = fed_to(model, FreeRunning(settings, Objective()), monkeypatch)
        banned = NEVER_WRITTEN if draw_eos else (*NEVER_WRITTEN, EOS)
        loop = looped_tokens(model, BATCH.drawable_BT, numbers, "sample", temperature, banned, masks_of(model))
        assert torch.equal(fed, loop)
        found.append(fed)
    assert not (found[0] == EOS).any()
    assert (found[1] == EOS).any()


def test_passes_certify_what_is_exact():
    model = a_network()
    encoded, masks = encode(model, BATCH, UPDATE)
    draw, draws = Draw(banned=(*NEVER_WRITTEN, EOS)), BATCH.drawable_BT
    given = (model.decoder, encoded, BATCH.target_in_BT, draws, uniforms(UPDATE, "draws", *draws.shape), draw)
    exact = aligned_rollout(*given, masks)
    certified = []
    for passes in range(1, 8):
        fed, sure = aligned_in_passes(*given, passes, masks)
        assert torch.equal(fed[sure], exact[sure])
        # pass k makes the first k drawn positions right, whatever the ones after them
        assert torch.equal(fed[:, : passes + 1], exact[:, : passes + 1])
        certified.append(int(sure.sum()))
    assert certified == sorted(certified)
    assert certified[0] < certified[-1] == BATCH.num_pairs


class Scripted:
    """A decoder that predicts the tokens of a script, a pass at a time, whatever it is fed; not a causal one."""

    def __init__(self, *passes):
        self.passes, self.fed = list(passes), []

    def sequence(self, fed_BT, encoded, masks):
        self.fed.append(fed_BT.tolist())
        ids_TB = torch.tensor(self.passes[len(self.fed) - 1]).t()
        return Decoded(torch.nn.functional.one_hot(ids_TB, 9).double(), [], encoded)

    def logits(self, features):
        return features


def test_only_what_a_pass_reproduced_is_certified():
    """A row that has become equal to the target is not: it was another one that was fed."""
    target, own = [[BOS, 4, 5]] * 3, [[4, 5, EOS], [4, 6, EOS], [6, 5, EOS]]
    draws = torch.tensor([[False, True, True]] * 3)
    given = (None, torch.tensor(target), draws, torch.zeros(3, 3), Draw("argmax"))
    # first all rows are changed; then the first comes back to the target, the second is reproduced
    decoder = Scripted([own[1]] * 3, [own[0], own[1], own[2]], own)
    for passes, certified in [(1, [False] * 3), (2, [False, True, False]), (3, [True] * 3)]:
        decoder.fed.clear()
        fed, exact = aligned_in_passes(decoder, *given, passes)
        assert exact.tolist() == certified
        assert fed.tolist() == [[BOS, *each[:2]] for each in ([own[1]] * 3 if passes == 1 else own)]
    assert decoder.fed[:2] == [target, [[BOS, 4, 6]] * 3]


@each_draw
@each_architecture
def test_a_free_rollout_is_a_loop_until_eos_or_the_bound(cell, context, attention, draw):
    model = a_network(cell=cell, context=context, attention=attention)
    bounds, numbers = torch.tensor([12, 3, 7, 12]), uniforms(UPDATE, "free", 4, 12)
    masks = masks_of(model, steps=12)
    encoded = model.encode(BATCH.source_BS, BATCH.source_lengths_B, masks)
    run = free_rollout(model.decoder, encoded, bounds, numbers, Draw(draw, banned=NEVER_WRITTEN), masks)
    for row, bound in enumerate(bounds.tolist()):
        fed, written = [BOS], []
        while len(written) < bound and written[-1:] != [EOS]:
            logits = naive_logits(model, source(row), fed, masks, row)[-1]
            written.append(drawn_by_hand(logits, numbers[row, len(written)].item(), draw, 1.0, NEVER_WRITTEN))
            fed.append(written[-1])
        length = len(written)
        assert run.lengths_B[row] == length
        assert run.written_BT[row, :length].tolist() == written
        assert run.fed_BT[row, :length].tolist() == fed[:length]
        assert (run.written_BT[row, length:] == PAD).all() and (run.fed_BT[row, length:] == PAD).all()


def test_a_free_rollout_ends_with_its_longest_row():
    model = network()
    with torch.no_grad():
        model.decoder.output_bias[EOS] = 50.0
    encoded = model.encode(BATCH.source_BS, BATCH.source_lengths_B)
    run = free_rollout(model.decoder, encoded, torch.full((4,), 9), torch.zeros(4, 9), Draw("argmax"))
    assert run.written_BT.tolist() == [[EOS]] * 4
    assert run.fed_BT.tolist() == [[BOS]] * 4
