"""The encoder is torch.nn's stack of layers, and padding changes neither its values nor its gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from freerun.models.encoder import Encoder, reversal_within
from tests import oracle
from tests.networks import (
    BACKENDS,
    CELLS,
    TORCH,
    architecture,
    book,
    close,
    gradients,
    gradients_of,
    network,
    padded,
    random_rows,
    randomise,
    some_of,
)

each_kind = pytest.mark.parametrize(("cell", "bidirectional"), [*itertools.product(CELLS, [False, True])])
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_type = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
LENGTHS = [7, 1, 4, 7, 2]
SOURCES, SOURCE_LENGTHS = padded(random_rows(LENGTHS))
PADDING = torch.arange(7).unsqueeze(1) >= SOURCE_LENGTHS


def encoder(cell, bidirectional, backend="auto", num_layers=3, dtype=torch.float64):
    sizes = architecture(
        11, embedding_size=3, hidden_size=4, num_layers=num_layers, cell=cell, bidirectional=bidirectional
    )
    return randomise(Encoder(sizes, backend), dtype=dtype)


def torch_stack(ours, cell):
    """torch.nn's module with our weights, and how its parameters are called here."""
    both = len(ours.backward_layers) > 0
    theirs = TORCH[cell](3, 4, len(ours.forward_layers), bidirectional=both, dtype=torch.float64)
    names = {}
    for name in ours.state_dict():
        direction, *rest = name.split(".")
        if rest and direction != "embedding":
            number, weight = rest
            names[f"{weight}_l{number}{'_reverse' if direction == 'backward_layers' else ''}"] = name
    theirs.load_state_dict({name: ours.state_dict()[mine] for name, mine in names.items()})
    return theirs, names


def results_of(memory, state, real=None):
    last = [state.h_LBH, *([] if state.c_LBH is None else [state.c_LBH])]
    return [memory if real is None else memory[real], *last]


@pytest.mark.parametrize("lengths", [None, SOURCE_LENGTHS])
@each_backend
@pytest.mark.parametrize(("cell", "bidirectional"), [*itertools.product(TORCH, [False, True])])
def test_an_encoder_is_a_stack_of_torch_over_packed_sequences(cell, bidirectional, backend, lengths):
    ours = encoder(cell, bidirectional, backend)
    theirs, names = torch_stack(ours, cell)
    values = ours.embedding(SOURCES.t())
    packed = values if lengths is None else pack_padded_sequence(values, lengths, enforce_sorted=False)
    outputs, last = theirs(packed)
    outputs = outputs if lengths is None else pad_packed_sequence(outputs)[0]
    real = None if lengths is None else ~PADDING
    # torch numbers states by layer, then direction
    last = [v.unflatten(0, (3, -1)).transpose(1, 2).flatten(2) for v in (last if cell == "lstm" else [last])]
    expected = [outputs if real is None else outputs[real], *last]
    found = results_of(*ours(SOURCES, lengths), real)
    close(found, expected)
    ours_by_name = gradients_of(some_of(*found), ours)
    theirs_by_name = gradients_of(some_of(*expected), theirs)
    close({name: ours_by_name[mine] for name, mine in names.items()}, theirs_by_name)
    close(ours_by_name["embedding.weight"], gradients(some_of(*expected), ours.embedding.weight)[0])


@each_backend
@each_type
@each_kind
def test_a_padded_encoder_gives_the_states_of_an_unpadded_one(cell, bidirectional, dtype, tolerance, backend):
    ours = encoder(cell, bidirectional, backend, dtype=dtype)
    memory, state = ours(SOURCES, SOURCE_LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone_memory, alone = ours(SOURCES[[row], :length], None)
        close(memory[:length, [row]], alone_memory, tolerance)
        close(results_of(memory, state.select(torch.tensor([row])))[1:], results_of(memory, alone)[1:], tolerance)


@each_backend
@each_type
@each_kind
def test_what_stands_on_padding_is_without_effect(cell, bidirectional, dtype, tolerance, backend):
    ours = encoder(cell, bidirectional, backend, dtype=dtype)
    results = []
    for token in (0, 5):
        found = results_of(*ours(SOURCES.masked_fill(PADDING.t(), token), SOURCE_LENGTHS), ~PADDING)
        results.append((found, gradients_of(some_of(*found), ours)))
    close(results[1], results[0], 10 * tolerance)
    assert results[0][1]["embedding.weight"][0].eq(0).all()


@each_kind
def test_gradients_with_padding_are_the_sum_of_those_without(cell, bidirectional):
    ours = encoder(cell, bidirectional)
    state = ours(SOURCES, SOURCE_LENGTHS)[1]
    alone = [ours(SOURCES[[row], :length], None)[1] for row, length in enumerate(LENGTHS)]
    together = torch.cat([each.h_LBH for each in alone], 1)
    close(gradients_of(some_of(state.h_LBH), ours), gradients_of(some_of(together), ours))


@each_kind
def test_an_encoder_is_the_equations(cell, bidirectional):
    model = network(cell=cell, bidirectional=bidirectional)
    memory, state = model.encoder(SOURCES, SOURCE_LENGTHS)
    found, expected = [], []
    for row, length in enumerate(LENGTHS[:3]):
        encoded = oracle.encode(book(model), SOURCES[row, :length].tolist())
        found.append(memory[:length, row])
        expected.append(torch.stack(encoded.memory))
        for number, states in enumerate(encoded.final):
            found += [value[row] for value in state.layer(number) if value is not None]
            expected += [value for value in states if value is not None]
    close(found, expected)
    close(gradients_of(some_of(*found), model.encoder), gradients_of(some_of(*expected), model.encoder))


def test_rows_are_turned_within_their_lengths():
    assert reversal_within(torch.tensor([3, 1, 4]), 4).t().tolist() == [[2, 1, 0, 3], [0, 1, 2, 3], [3, 2, 1, 0]]
