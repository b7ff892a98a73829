"""States read along given tokens are those of a decoder that is stepped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freerun.models.states import StateReader
from freerun.symbols import BOS
from tests.networks import CELLS, network


@pytest.mark.parametrize("attention", ["none", "general", "bahdanau"])
@pytest.mark.parametrize("cell", CELLS)
def test_states_are_those_of_steps(cell, attention):
    model = network(cell=cell, attention=attention, dtype=torch.float32)
    sources, lengths = np.array([[5, 6, 3], [7, 3, 0]]), np.array([3, 2])
    fed = np.array([[BOS, 5, 6, 7], [BOS, 4, 4, 8]])
    found = StateReader(model)(sources, lengths, fed)
    for row in range(2):
        encoded = model.encode(torch.tensor(sources[row : row + 1, : lengths[row]]), None)
        for t in range(4):
            _, encoded = model.decoder.step(torch.tensor(fed[row : row + 1, t]), encoded, model.decoder.tables())
            assert found[row, t] == pytest.approx(encoded.state.h_LBH[-1, 0].detach().numpy(), abs=1e-6)
