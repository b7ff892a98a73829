"""Attention against the oracle's formulas, a vector at a time."""

from __future__ import annotations

import pytest
import torch

from freerun.architecture import attention_scores
from freerun.models.attention import BahdanauAttention, LuongAttention
from tests.networks import architecture, close, draw, gradients, gradients_of, randomise, some_of
from tests.oracle import bahdanau, luong, maxout

each_score = pytest.mark.parametrize("score", attention_scores())
LENGTHS = [5, 2, 1]
MASK = torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)


def attention(score):
    """Over a memory of other size than the decoder where that is possible."""
    size = 4 if score == "dot" else 8
    sizes = architecture(5, hidden_size=4, bidirectional=size == 8, attention=score)
    return randomise(LuongAttention(sizes)), draw(3, 5, size, seed=1), draw(3, 2, 4, seed=2)


@each_score
def test_attention_is_its_formulas(score):
    module, values, outputs = attention(score)
    found, weights = module(outputs, module.prepare(values, MASK))
    weights_by_name = {f"attention.{name}": parameter for name, parameter in module.named_parameters()}
    by_the_book = [
        [luong(weights_by_name, "attention", score, outputs[row, t], values[row, :length]) for t in range(2)]
        for row, length in enumerate(LENGTHS)
    ]
    expected = torch.stack([torch.stack([one for one, _ in row]) for row in by_the_book])
    close(found, expected)
    for row, length in enumerate(LENGTHS):
        close(weights[row, :, :length], torch.stack([torch.stack(each) for _, each in by_the_book[row]]))
    close(gradients(some_of(found), values, outputs), gradients(some_of(expected), values, outputs))
    close(gradients_of(some_of(found), module), gradients_of(some_of(expected), module))


def test_bahdanaus_attention_is_its_formulas():
    sizes = architecture(5, embedding_size=3, hidden_size=4, bidirectional=True, attention="bahdanau")
    module, values = randomise(BahdanauAttention(sizes)), draw(3, 5, 8, seed=1)
    states, embedded = draw(3, 4, seed=2), draw(3, 3, seed=3)
    named = {f"attention.{name}": parameter for name, parameter in module.named_parameters()}
    contexts, weights = module.context(states, module.prepare(values, MASK))
    found = [contexts, module.output(states, module.token_output(embedded), contexts)]
    expected = [[], []]
    for row, length in enumerate(LENGTHS):
        context, shares = bahdanau(named, "attention", states[row], values[row, :length])
        close(weights[row, :length], torch.stack(shares))
        expected[0].append(context)
        expected[1].append(maxout(named, "attention", states[row], embedded[row], context))
    expected = [torch.stack(each) for each in expected]
    close(found, expected)
    wanted = values, states, embedded
    close(gradients(some_of(*found), *wanted), gradients(some_of(*expected), *wanted))
    close(gradients_of(some_of(*found), module), gradients_of(some_of(*expected), module))


@each_score
def test_padding_gets_no_weight_and_no_gradient(score):
    module, values, outputs = attention(score)
    found, weights = module(outputs, module.prepare(values, MASK))
    assert weights.masked_select(~MASK.unsqueeze(1)).eq(0).all()
    close(weights.sum(2), torch.ones(3, 2, dtype=torch.float64))
    assert gradients(some_of(found), values)[0][~MASK].eq(0).all()
    wild = values.masked_fill(~MASK.unsqueeze(2), 1e6)
    assert module(outputs, module.prepare(wild, MASK))[0].equal(found)


@each_score
def test_without_a_mask_all_is_real(score):
    module, values, outputs = attention(score)
    everything = torch.ones_like(MASK)
    close(module(outputs, module.prepare(values, None)), module(outputs, module.prepare(values, everything)))


@each_score
@pytest.mark.parametrize("mask", [None, MASK])
def test_rows_of_a_memory_can_be_selected(score, mask):
    module, values, outputs = attention(score)
    origins = torch.tensor([2, 0, 0, 1])
    whole = module(outputs, module.prepare(values, mask))
    some = module(outputs[origins], module.prepare(values, mask).select(origins))
    close(some, tuple(value[origins] for value in whole))
