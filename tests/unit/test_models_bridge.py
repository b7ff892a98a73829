from __future__ import annotations

import pytest

from freerun.models.bridge import Bridge
from freerun.models.recurrent_state import State
from tests.networks import architecture, close, draw, randomise


def bridge_of(cell, bidirectional):
    return Bridge(architecture(5, hidden_size=4, num_layers=3, cell=cell, bidirectional=bidirectional))


@pytest.mark.parametrize("has_cell_state", [True, False])
def test_where_sizes_agree_the_very_state_is_handed_over(has_cell_state):
    bridge = bridge_of("lstm" if has_cell_state else "gru", bidirectional=False)
    state = State(draw(3, 2, 4), draw(3, 2, 4, seed=1) if has_cell_state else None)
    assert list(bridge.parameters()) == []
    assert bridge(state) is state


def test_where_sizes_differ_h_and_c_of_each_layer_have_a_projection_of_their_own():
    bridge = randomise(bridge_of("lstm", bidirectional=True))
    state = State(draw(3, 2, 8), draw(3, 2, 8, seed=1))
    found = bridge(state)
    for number in range(3):
        for value, given, projections in (
            (found.h_LBH, state.h_LBH, bridge.h),
            (found.c_LBH, state.c_LBH, bridge.c),
        ):
            weights = projections[number]
            close(value[number], given[number] @ weights.weight.t() + weights.bias)


def test_without_a_cell_state_there_is_none_to_project():
    bridge = randomise(bridge_of("gru", bidirectional=True))
    assert (len(bridge.h), len(bridge.c)) == (3, 0)
    assert bridge(State(draw(3, 2, 8))).c_LBH is None
