from __future__ import annotations

import pytest
import torch

from tests.networks import close, network, padded, random_rows

SOURCES, LENGTHS = padded(random_rows([3, 5]))


def test_parameters_are_counted():
    # LSTMs: 4 gates of 4 from 3 or 4 inputs, 4 recurrent ones and two biases
    first, second = 16 * (3 + 4 + 2), 16 * (4 + 4 + 2)
    assert network().num_parameters() == 11 * 3 + 9 * 3 + 2 * (first + second) + 9 * 4 + 9
    assert network(tied_output=True).num_parameters() == 11 * 3 + 9 * 3 + 2 * (first + second) + 4 * 3 + 9


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_context_is_the_top_of_the_state_that_is_handed_over(bidirectional):
    encoded = network(context="every_step", bidirectional=bidirectional).encode(SOURCES, LENGTHS)
    assert encoded.context_BH.equal(encoded.state.h_LBH[-1])
    assert encoded.context_BH.shape == (2, 4)
    assert encoded.memory is None


def test_by_default_the_state_is_all_the_decoder_gets():
    encoded = network().encode(SOURCES, LENGTHS)
    assert encoded.context_BH is encoded.memory is None


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_attention_sees_the_memory_with_real_positions_marked(lengths):
    model = network(attention="general", bidirectional=True)
    memory, seen_BSM = model.encode(SOURCES, lengths).memory, model.encoder(SOURCES, lengths)[0].transpose(0, 1)
    layer = model.decoder.attention
    assert memory.keys_BSH.equal(layer.keys(seen_BSM))
    of_context_HM = layer.combine.weight[:, : seen_BSM.shape[2]]
    close(memory.values_BSM, seen_BSM @ of_context_HM.t())
    if lengths is None:
        assert memory.mask_BS is None
    else:
        assert memory.mask_BS.tolist() == [[True, True, True, False, False], [True] * 5]


def test_every_parameter_gets_a_gradient():
    model = network(attention="concat", bidirectional=True, context="every_step")
    model.decoder.logits(model(SOURCES, LENGTHS, torch.tensor([[1, 4], [1, 5]]))).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []
