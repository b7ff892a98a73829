"""The decoder: a stack of torch's layers, whose steps are its whole-sequence pass, for every combination of options."""

from __future__ import annotations

import itertools

import pytest
import torch

from freerun.models.decoder import Decoder
from freerun.models.encoded import Encoded
from freerun.models.recurrent_state import State
from tests.networks import (
    BACKENDS,
    CELLS,
    TORCH,
    architecture,
    close,
    draw,
    gradients,
    gradients_of,
    network,
    padded,
    random_rows,
    randomise,
    some_of,
)

FED = torch.tensor([[1, 4, 8, 5, 5], [1, 6, 7, 4, 0], [1, 8, 0, 0, 0]])
SOURCES, SOURCE_LENGTHS = padded(random_rows([4, 6, 1]))
each_architecture = pytest.mark.parametrize(
    ("cell", "num_layers", "context", "attention", "tied_output"),
    [*itertools.product(CELLS, [1, 3], ["init", "every_step"], ["none", "dot", "general", "concat"], [False, True])],
)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", TORCH)
def test_a_decoder_is_a_stack_of_torch(cell, backend):
    ours = randomise(Decoder(architecture(9, embedding_size=3, hidden_size=4, num_layers=3, cell=cell), backend))
    theirs = TORCH[cell](3, 4, 3, dtype=torch.float64)
    names = {f"{name}_l{n}": f"layers.{n}.{name}" for n in range(3) for name in ours.layers[0].state_dict()}
    theirs.load_state_dict({name: ours.state_dict()[mine] for name, mine in names.items()})
    state = State(draw(3, 3, 4, seed=1), draw(3, 3, 4, seed=2) if cell == "lstm" else None)
    given = [value for value in (state.h_LBH, state.c_LBH) if value is not None]
    outputs, last = theirs(ours.embedding(FED.t()), tuple(given) if cell == "lstm" else given[0])
    expected = [outputs, *(last if cell == "lstm" else [last])]
    decoded = ours.sequence(FED, Encoded(state))
    features, after = decoded.features_TBF, decoded.state
    found = [features, *(value for value in (after.h_LBH, after.c_LBH) if value is not None)]
    close(found, expected)
    close(gradients(some_of(*found), *given), gradients(some_of(*expected), *given))
    by_name, wanted = gradients_of(some_of(*found), ours), gradients_of(some_of(*expected), theirs)
    close({name: by_name[mine] for name, mine in names.items()}, wanted)


def stepped(model, encoded):
    """Features [T, B, F] and the state after, a token at a time."""
    tables, features = model.decoder.tables(), []
    for tokens in FED.t():
        each, encoded = model.decoder.step(tokens, encoded, tables)
        features.append(each)
    return torch.stack(features), encoded.state


@pytest.mark.parametrize("lengths", [None, SOURCE_LENGTHS])
@each_architecture
def test_steps_are_the_sequence(cell, num_layers, context, attention, tied_output, lengths):
    model = network(cell=cell, num_layers=num_layers, context=context, attention=attention, tied_output=tied_output)
    encoded = model.encode(SOURCES, lengths)
    (features, after), whole = stepped(model, encoded), model.decoder.sequence(FED, encoded)
    expected, last = whole.features_TBF, whole.state
    close(features, expected)
    close([after.h_LBH, after.c_LBH], [last.h_LBH, last.c_LBH])
    logits = model.decoder.logits(features), model.decoder.logits(expected)
    close(*(gradients_of(some_of(each), model) for each in logits))


STEPWISE = [{"attention": "bahdanau"}, *({"attention": s, "input_feeding": True} for s in ("general", "concat"))]


@pytest.mark.parametrize("sizes", STEPWISE)
@pytest.mark.parametrize("context", ["init", "every_step"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("backend", "tolerance"), [("auto", 1e-12), ("reference", 0.0)])
def test_a_decoder_with_attention_in_the_recurrence_is_stepped(cell, context, sizes, backend, tolerance):
    model = network(cell=cell, bidirectional=True, context=context, backend=backend, **sizes)
    encoded = model.encode(SOURCES, SOURCE_LENGTHS)
    whole, (features, after) = model.decoder.sequence(FED, encoded), stepped(model, encoded)
    assert not model.decoder.replays
    close(features, whole.features_TBF, tolerance)
    close(after.h_LBH, whole.state.h_LBH, tolerance)


@pytest.mark.parametrize("sizes", STEPWISE)
def test_rows_can_be_selected_between_steps(sizes):
    model, origins = network(**sizes), torch.tensor([2, 2, 0])
    tables, encoded = model.decoder.tables(), model.encode(SOURCES, SOURCE_LENGTHS)
    _, one = model.decoder.step(FED[:, 0], encoded, tables)
    both, _ = model.decoder.step(FED[:, 1], one, tables)
    some, _ = model.decoder.step(FED[origins, 1], one.select(origins), tables)
    close(some, both[origins])
    parts = [one.detach().state.h_LBH, one.detach().carried_BH]
    assert not any(part.requires_grad for part in parts if part is not None)


@pytest.mark.parametrize("embedding_size", [3, 4])
def test_a_tied_output_is_the_embedding_behind_a_projection_where_sizes_differ(embedding_size):
    decoder = randomise(Decoder(architecture(9, embedding_size=embedding_size, hidden_size=4, tied_output=True)))
    features = draw(2, 4)
    through = features if decoder.projection is None else features @ decoder.projection.weight.t()
    assert (decoder.projection is None) == (embedding_size == 4)
    assert decoder.output_weight is None
    close(decoder.logits(features), through @ decoder.embedding.weight.t() + decoder.output_bias)


def test_encoded_rows_can_be_selected():
    model = network(context="every_step", attention="general")
    encoded, origins = model.encode(SOURCES, SOURCE_LENGTHS), torch.tensor([2, 2, 0])
    some = model.decoder.sequence(FED[origins], encoded.select(origins)).features_TBF
    close(some, model.decoder.sequence(FED, encoded).features_TBF[:, origins])
