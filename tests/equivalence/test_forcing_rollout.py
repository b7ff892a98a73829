"""Rollout and replay against the oracle, which draws the tokens itself in one loop, one at a time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from freerun.forcing.draw import Draw
from freerun.forcing.free_running import FreeRunning
from freerun.forcing.replay import encode
from freerun.forcing.rollout import aligned_in_passes, aligned_rollout, free_rollout, uniforms
from freerun.forcing.scheduled_sampling import ScheduledSampling
from freerun.forcing.strategy import Objective
from freerun.forcing.training_batch import Update
from freerun.models.decoder import Decoded
from freerun.models.recurrent_state import State
from freerun.symbols import BOS, EOS, NEVER_WRITTEN, PAD
from tests import oracle
from tests import oracle_losses as by_the_book
from tests.networks import (
    BACKENDS,
    CELLS,
    SOME_OF_ALL,
    book,
    dropout_generators,
    network,
    random_rows,
    recorded,
    rows_of,
    same_fed,
    same_losses,
    training_batch,
)

BATCH = training_batch(random_rows([4, 1, 6, 4]), random_rows([4, 6, 1, 2], size=9, seed=1))
UPDATE = Update(number=7, seed=3)
SMOOTHED, PLAIN = by_the_book.Objective(0.1), by_the_book.Objective()
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
    return network(**SOME_OF_ALL, scale=scale, backend=backend, bidirectional=True, **sizes)


def strategies(draw):
    """Each with its function in the oracle, given what was drawn."""
    objective, drawn = Objective(label_smoothing=0.1), by_the_book.Draw(draw, 1.0, (*NEVER_WRITTEN, EOS))

    def scheduled(model, rows, record):
        numbers = record.numbers
        return by_the_book.scheduled_sampling(model, rows, SMOOTHED, 0.5, numbers["coins"], numbers["draws"], drawn)

    def free(model, rows, record):
        return by_the_book.free_running(model, rows, SMOOTHED, record.numbers["draws"], drawn)

    yield ScheduledSampling(ScheduledSampling.Settings(schedule=HALF, draw=draw), objective), scheduled
    yield ScheduledSampling(ScheduledSampling.Settings(schedule=HALF, draw=draw, passes=9), objective), scheduled
    yield FreeRunning(FreeRunning.Settings(draw=draw), objective), free


@pytest.mark.parametrize("backend", BACKENDS)
@each_draw
@each_architecture
def test_losses_and_gradients_are_those_of_a_loop_that_draws_its_tokens(cell, context, attention, draw, backend):
    model = a_network(cell=cell, context=context, attention=attention, backend=backend)
    for strategy, definition in strategies(draw):
        losses, record = recorded(strategy, model, BATCH, UPDATE)
        expected = definition(book(model), record.rows(BATCH), record)
        same_fed(record.fed[-1], expected.fed)
        same_losses(losses, expected, model)
        assert losses.metrics["effective_rate"][0] > 0


@pytest.mark.parametrize("coin", ["token", "sequence", "batch"])
@pytest.mark.parametrize(
    ("position", "by_position"),
    [
        (None, None),
        ({"kind": "constant", "teacher_prob": 0.4}, by_the_book.constant(0.4)),
        ({"kind": "linear", "k": 0.9, "c": 0.3, "minimum": 0.2}, by_the_book.linear(0.9, 0.3, 0.2)),
        ({"kind": "exponential", "k": 0.6}, by_the_book.exponential(0.6)),
        ({"kind": "inverse_sigmoid", "k": 1.5}, by_the_book.inverse_sigmoid(1.5)),
    ],
)
def test_coins_and_positions_decide_what_is_drawn(coin, position, by_position):
    model, fed = a_network(), set()
    settings = ScheduledSampling.Settings(schedule=HALF, coin=coin, position=position)
    for number in range(1, 7):
        update = Update(number=number, seed=3)
        losses, record = recorded(ScheduledSampling(settings, Objective()), model, BATCH, update)
        numbers = record.numbers["coins"], record.numbers["draws"]
        draw = by_the_book.Draw(banned=(*NEVER_WRITTEN, EOS))
        expected = by_the_book.scheduled_sampling(
            book(model), record.rows(BATCH), PLAIN, 0.5, *numbers, draw, coin, by_position
        )
        same_fed(record.fed[-1], expected.fed)
        same_losses(losses, expected, model)
        fed.add(str(expected.fed))
    assert len(fed) > 1


@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_temperature_and_drawn_eos(temperature):
    model, found = a_network(), []
    with torch.no_grad():
        model.decoder.output_bias[EOS] += 2.0  # likely enough to be drawn
    for draw_eos in (False, True):
        banned = NEVER_WRITTEN if draw_eos else (*NEVER_WRITTEN, EOS)
        draw = by_the_book.Draw("sample", temperature, banned)
        free = FreeRunning(FreeRunning.Settings(temperature=temperature, draw_eos=draw_eos), Objective())
        settings = ScheduledSampling.Settings(schedule=HALF, temperature=temperature, draw_eos=draw_eos)
        losses, record = recorded(free, model, BATCH, UPDATE)
        expected = by_the_book.free_running(book(model), record.rows(BATCH), PLAIN, record.numbers["draws"], draw)
        same_fed(record.fed[-1], expected.fed)
        same_losses(losses, expected, model)
        found.append(expected.fed)
        losses, record = recorded(ScheduledSampling(settings, Objective()), model, BATCH, UPDATE)
        numbers = record.numbers["coins"], record.numbers["draws"]
        expected = by_the_book.scheduled_sampling(book(model), record.rows(BATCH), PLAIN, 0.5, *numbers, draw)
        same_fed(record.fed[-1], expected.fed)
        same_losses(losses, expected, model)
    assert not any(EOS in tokens for tokens in found[0])
    assert any(EOS in tokens for tokens in found[1])


def test_passes_certify_what_is_exact():
    model = a_network()
    encoded, masks = encode(model, BATCH, UPDATE)
    draw, draws = Draw(banned=(*NEVER_WRITTEN, EOS)), BATCH.replaceable_BT
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
    masks = model.draw_masks(BATCH.source_BS.shape[1], 12, 4, *dropout_generators(UPDATE))
    encoded = model.encode(BATCH.source_BS, BATCH.source_lengths_B, masks)
    run = free_rollout(model.decoder, encoded, bounds, numbers, Draw(draw, banned=NEVER_WRITTEN), masks)
    drawn = by_the_book.Draw(draw)
    for n, (row, bound) in enumerate(zip(rows_of(BATCH, masks), bounds.tolist(), strict=True)):
        with torch.no_grad():
            start = oracle.encode(book(model), row.source, row.masks)
            steps, written = oracle.free_run(
                book(model), start, bound, lambda t, logits, n=n: drawn(logits, numbers[n, t]), row.masks
            )
        length = len(written)
        assert run.lengths_B[n] == length
        assert run.written_BT[n, :length].tolist() == written
        assert run.fed_BT[n, :length].tolist() == [step.fed for step in steps]
        assert (run.written_BT[n, length:] == PAD).all() and (run.fed_BT[n, length:] == PAD).all()


def test_a_free_rollout_ends_with_its_longest_row():
    model = network()
    with torch.no_grad():
        model.decoder.output_bias[EOS] = 50.0
    encoded = model.encode(BATCH.source_BS, BATCH.source_lengths_B)
    run = free_rollout(model.decoder, encoded, torch.full((4,), 9), torch.zeros(4, 9), Draw("argmax"))
    assert run.written_BT.tolist() == [[EOS]] * 4
    assert run.fed_BT.tolist() == [[BOS]] * 4


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("given", [torch.bfloat16, torch.float64])
def test_a_rollout_steps_in_fp32_at_least(monkeypatch, cell, given):
    model = network(cell=cell, dtype=torch.float64 if given == torch.float64 else torch.float32)
    encoded, _ = encode(model, BATCH, UPDATE)
    states, step = [], model.decoder.step
    monkeypatch.setattr(model.decoder, "step", lambda *how: states.append(how[1].state) or step(*how))
    rounded = replace(encoded, state=State(*(each if each is None else each.to(given) for each in state_of(encoded))))
    numbers, draw = torch.zeros(4, 9), Draw("argmax")
    free_rollout(model.decoder, rounded, torch.full((4,), 9), numbers, draw)
    aligned_rollout(model.decoder, rounded, BATCH.target_in_BT, BATCH.replaceable_BT, numbers, draw)
    expected = torch.float64 if given == torch.float64 else torch.float32
    assert {each.dtype for state in states for each in (state.h_LBH, state.c_LBH) if each is not None} == {expected}
    assert (states[0].c_LBH is not None) == (cell == "lstm")


def state_of(encoded):
    return encoded.state.h_LBH, encoded.state.c_LBH
