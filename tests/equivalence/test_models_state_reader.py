"""States read along given tokens are those of a decoder that is stepped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freerun.models.state_reader import StateReader
from freerun.symbols import BOS
from tests.networks import CELLS, network


@pytest.mark.parametrize("attention", ["none", "general", "bahdanau"])
@pytest.mark.parametrize("cell", CELLS)
def test_states_are_those_of_steps(cell, attention):
    model = network(cell=cell, attention=attention, dtype=torch.float32)
    sources, lengths = np.array([[5, 6, 3], [7, 3, 0]]), np.array([3, 2])
    fed = np.array([[BOS, 5, 6, 7], [BOS, 4, 4, 8]])
    reader = StateReader(model)
    found = reader.states(sources, lengths, fed)
    for row in range(2):
        encoded = model.encode(torch.tensor(sources[row : row + 1, : lengths[row]]), None)
        context = reader.contexts(sources, lengths)[row]
        assert context == pytest.approx(encoded.state.h_LBH[-1, 0].detach().numpy(), abs=1e-6)
        for t in range(4):
            _, encoded = model.decoder.step(torch.tensor(fed[row : row + 1, t]), encoded, model.decoder.tables())
            assert found[row, t] == pytest.approx(encoded.state.h_LBH[-1, 0].detach().numpy(), abs=1e-6)


@pytest.mark.parametrize("attention", ["dot", "general", "concat", "bahdanau"])
def test_attention_weights_are_those_that_make_the_features(attention):
    model = network(attention=attention, dtype=torch.float32)
    sources, lengths = np.array([[5, 6, 3], [7, 3, 0]]), np.array([3, 2])
    fed = np.array([[BOS, 5, 6, 7], [BOS, 4, 4, 8]])
    weights = torch.from_numpy(StateReader(model).attention(sources, lengths, fed))
    assert weights.shape == (2, 4, 3)
    assert torch.allclose(weights.sum(2), torch.ones(2, 4)) and (weights[1, :, 2] == 0).all()
    encoded = model.encode(torch.tensor(sources), torch.tensor(lengths))
    decoded = model.decoder.sequence(torch.tensor(fed), encoded)
    read_BTM = torch.bmm(weights, model.encoder(torch.tensor(sources), torch.tensor(lengths))[0].transpose(0, 1))
    layer = model.decoder.attention
    outputs_BTH = decoded.layers_TBH[-1].transpose(0, 1)
    if attention == "bahdanau":
        tokens = layer.token_output(model.decoder.embedding(torch.tensor(fed)))
        expected = torch.stack([layer.output(outputs_BTH[:, t], tokens[:, t], read_BTM[:, t]) for t in range(4)], 1)
    else:
        expected = torch.tanh(layer.combine(torch.cat([read_BTM, outputs_BTH], 2)))
    assert torch.allclose(decoded.features_TBF.transpose(0, 1), expected, atol=1e-6)


def test_a_model_without_attention_says_so():
    assert not StateReader(network()).attends
    assert StateReader(network(attention="dot")).attends
