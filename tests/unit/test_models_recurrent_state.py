from __future__ import annotations

import pytest
import torch

from freerun.models.recurrent_state import State
from tests.networks import draw


@pytest.fixture(params=[True, False], ids=["lstm", "gru"])
def state(request):
    return State(draw(2, 3, 4, seed=1), draw(2, 3, 4, seed=2) if request.param else None)


def tensors(state):
    return [value for value in (state.h_LBH, state.c_LBH) if value is not None]


def test_rows_are_selected_in_their_order_with_repeats(state):
    found = state.select(torch.tensor([2, 0, 0, 2]))
    for new, old in zip(tensors(found), tensors(state), strict=True):
        assert new.equal(old[:, [2, 0, 0, 2]])


def test_copies_of_a_row_stand_side_by_side(state):
    found = state.repeat(2)
    for new, old in zip(tensors(found), tensors(state), strict=True):
        assert new.equal(old[:, [0, 0, 1, 1, 2, 2]])


def test_detached_values_are_cut_off_from_the_graph(state):
    found = state.detach()
    for new, old in zip(tensors(found), tensors(state), strict=True):
        assert new.equal(old)
        assert not new.requires_grad
        assert old.requires_grad


def test_selection_and_repetition_keep_the_graph(state):
    moved = state.select(torch.tensor([1, 1])).repeat(2)
    for new, old in zip(tensors(moved), tensors(state), strict=True):
        assert torch.autograd.grad(new.sum(), old)[0][0, :, 0].tolist() == [0.0, 4.0, 0.0]


def test_a_state_is_its_layers(state):
    layers = [state.layer(0), state.layer(1)]
    assert layers[1][0].equal(state.h_LBH[1])
    assert layers[1][1] is None or layers[1][1].equal(state.c_LBH[1])
    again = State.stack(layers)
    assert len(tensors(again)) == len(tensors(state))
    assert all(new.equal(old) for new, old in zip(tensors(again), tensors(state), strict=True))
