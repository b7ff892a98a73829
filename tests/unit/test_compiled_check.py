"""The C library rejects structures that cannot be decoded by itself: other programs than freerun call it, too."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from freerun.runtime.compiled import BeamSettings, Layer, Linear, Model, Outputs
from freerun.runtime.compiled_model import CompiledModel
from freerun.symbols import EOS
from tests.compiled import KINDS, build, needs_compiler
from tests.exported import ArraysOf
from tests.networks import network

pytestmark = needs_compiler

OK, NO_MEMORY, BAD_SOURCE, BAD_MODEL, STOPPED = range(5)
LEAST, MOST = -(2**63), 2**63 - 1
SIZES = (0, -1, LEAST, 2**31, 2**62, MOST)  # of no model
NAN, INF = np.nan, np.inf
TYPES = {
    "ids": ctypes.c_int64,
    "lengths": ctypes.c_int64,
    "feature_ids": ctypes.c_int64,
    "feature_counts": ctypes.c_int64,
    "bounds": ctypes.c_int64,
    "tokens": ctypes.c_int32,
    "scores": ctypes.c_float,
    "written": ctypes.c_int64,
}
MODELS = {
    "lstm": {"cell": "lstm", "bidirectional": True, "context": "every_step", "tied_output": True},
    "gru": {"cell": "gru", "embedding_size": 13},  # the source's tokens have a table
    "rnn": {"cell": "rnn", "context": "every_step"},
    "features": {
        "cell": "gru",
        "bidirectional": True,
        "context": "every_step",
        "feature_vocabulary": 7,
        "feature_encoder": "summary",
    },
    "within": {"cell": "lstm", "bidirectional": True, "attention": "bahdanau"},
    "fed": {"cell": "gru", "bidirectional": True, "attention": "general", "input_feeding": True},
    "entries": {"cell": "rnn", "attention": "dot", "feature_vocabulary": 7, "feature_encoder": "sequence"},
}
ATTENTION = ("within", "fed", "entries")
FEATURES = ("feature_ids", "feature_counts")


class Call:
    """A model, and a call with two sources whose arguments can be exchanged."""

    def __init__(self, decode, name, precision="fp32"):
        self._decode = decode
        self._read = CompiledModel(ArraysOf(network(1, torch.float32, **MODELS[name]), precision), precision)
        self._read()
        self.model = self._read.memory[0]
        values = {"ids": [4, EOS, 5, 6, EOS], "lengths": [2, 3], "bounds": [3, 4]}
        if "feature_vocabulary" in MODELS[name]:
            values |= {"feature_ids": [4, 3, 6], "feature_counts": [1, 2]}
        sizes = {"tokens": 9, "scores": 9, "written": 2}
        arrays = {name: (TYPES[name] * len(of))(*of) for name, of in values.items()}
        self.arrays = arrays | {name: (TYPES[name] * size)() for name, size in sizes.items()}

    def __call__(self, count=2, model=None, stop=None, **changes):
        """The code of decoding."""
        model = ctypes.pointer(self.model) if model is None else model
        return self._decode(model, count, *({**self.arrays, **changes}.get(name) for name in TYPES), stop)

    def is_rejected(self, structure, **values):
        """Whether the model is none with these fields; nothing is decoded, so what is overlooked does no harm."""
        before = bytes(structure)
        for name, value in values.items():
            setattr(structure, name, value)
        code = self(0)
        ctypes.memmove(ctypes.addressof(structure), before, len(before))
        assert self(0) == OK
        return code == BAD_MODEL

    def linears(self):
        """Every product of the model that is used."""
        model = self.model
        layers = [model.encoder[n] for n in range(model.layers * model.directions)]
        layers += [model.decoder[n] for n in range(model.layers)]
        bridges = [each for each in (model.bridge_h, model.bridge_c) if each]
        features = [model.feature_encoder[n] for n in range(model.directions)] if model.feature_encoder else []
        found = [layer.recurrent for layer in layers] + [layer.input for layer in layers if not layer.table]
        found += [bridge[n] for bridge in bridges for n in range(model.layers)]
        single = [model.context_gates, model.context_output, model.tied, model.feature_decoder]
        for each in [model.attention[0]] if model.attention else []:
            found += [each.values, each.state]
            single += [each.keys, each.query, each.fed]
        return [*found, *features, model.output, *(each[0] for each in single if each)]


def moved(pointer, by=4):
    """The same pointer, misaligned."""
    return ctypes.cast(ctypes.cast(pointer, ctypes.c_void_p).value + by, type(pointer))


@pytest.fixture(params=KINDS)
def library(request, build):
    return build(request.param)


@pytest.fixture
def decode(library):
    return library.freerun_greedy


@pytest.fixture(params=MODELS)
def call(request, decode):
    return Call(decode, request.param)


# ----------------------------------------------------------------------------------------------------------------- stop


def test_a_call_that_is_to_stop_stops(call):
    assert call(stop=ctypes.c_int32(0)) == OK
    assert call(stop=ctypes.c_int32(1)) == STOPPED
    assert call(stop=moved(ctypes.pointer(ctypes.c_int32(1)), 1)) == BAD_SOURCE


# --------------------------------------------------------------------------------------------------------------- sizes


def test_whole_structures_are_decoded(call):
    assert call() == OK
    assert list(call.arrays["written"]) != [0, 0]


@pytest.mark.parametrize(
    "name", ["layers", "directions", "hidden", "embedding", "source_vocabulary", "target_vocabulary"]
)
def test_a_size_out_of_range_is_rejected(call, name):
    assert [value for value in SIZES if not call.is_rejected(call.model, **{name: value})] == []


def test_a_cell_and_directions_that_there_are_not_are_rejected(call):
    assert [cell for cell in (-1, 3, *SIZES[2:]) if not call.is_rejected(call.model, cell=cell)] == []
    assert call.is_rejected(call.model, directions=3)


def test_sizes_that_disagree_are_rejected(call):
    model = call.model
    sizes = [{name: getattr(model, name) + by} for name in ("hidden", "target_vocabulary") for by in (-1, 1)]
    assert [size for size in sizes if not call.is_rejected(model, **size)] == []
    assert [cell for cell in range(3) if cell != model.cell and not call.is_rejected(model, cell=cell)] == []
    assert call.is_rejected(model, directions=3 - model.directions)
    read = bool(model.source_embedding or model.feature_table)
    assert call.is_rejected(model, embedding=model.embedding + 1) == read


def test_a_vocabulary_without_its_special_tokens_is_rejected(decode):
    call = Call(decode, "gru")
    for size, expected in ((4, OK), (3, BAD_MODEL)):
        call.model.target_vocabulary = call.model.output.outputs = size
        assert call(0) == expected


def grown(call, size):
    """An RNN of one layer with so many units; its arrays are as before."""
    model = call.model
    model.layers, model.hidden, model.embedding = 1, size, 5
    for linear in call.linears():
        linear.inputs, linear.outputs = size, size
    model.encoder[0].input.inputs = model.embedding
    model.output.outputs = model.context_output[0].outputs = model.target_vocabulary
    return call(0)


def test_arrays_that_no_memory_can_hold_are_rejected(decode):
    assert grown(Call(decode, "rnn"), 2**30) == OK
    assert grown(Call(decode, "rnn"), 2**31 - 64) == BAD_MODEL  # 4 x 2^31 x 2^31 bytes


def test_a_layer_without_units_is_rejected_even_if_all_sizes_agree(decode):
    assert [grown(Call(decode, "rnn"), size) for size in (1, 0, -1)] == [OK, BAD_MODEL, BAD_MODEL]


def test_three_directions_are_rejected_even_if_all_sizes_agree(decode):
    call = Call(decode, "gru")
    model = call.model
    bridge = Linear.from_buffer_copy(model.output)
    bridge.inputs, bridge.outputs = 3 * model.hidden, model.hidden
    layers, bridges = (Layer * 3)(*[model.encoder[0]] * 3), (Linear * 1)(bridge)
    model.layers, model.directions, model.encoder, model.bridge_h = 1, 3, layers, bridges
    assert call(0) == BAD_MODEL
    bridges[0].inputs, model.directions = 2 * model.hidden, 2
    assert call(0) == OK


def test_products_of_bytes_whose_sums_do_not_fit_are_rejected(decode):
    assert grown(Call(decode, "rnn", "int8"), 2**16) == OK
    assert grown(Call(decode, "rnn", "int8"), 2**16 + 1) == BAD_MODEL
    assert grown(Call(decode, "rnn"), 2**16 + 1) == OK


# ------------------------------------------------------------------------------------------------------------ pointers


def test_a_model_that_is_null_or_misaligned_is_rejected(call):
    assert call(2, ctypes.POINTER(Model)()) == BAD_MODEL
    assert call(2, moved(ctypes.pointer(call.model))) == BAD_MODEL


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_a_product_that_is_not_of_the_models_sizes_or_incomplete_is_rejected(decode, name, precision):
    call = Call(decode, name, precision)
    for number, linear in enumerate(call.linears()):
        broken = [{size: getattr(linear, size) + by} for size in ("inputs", "outputs") for by in (-1, 1, 2**40)]
        broken += [{"weight": None}, {"weight": linear.weight + 4}, {"bias": (linear.bias or 0) + 4}]
        if linear.scale:
            broken += [{array: None} for array in ("scale", "correction")]
            broken += [{array: getattr(linear, array) + 4} for array in ("scale", "correction")]
            broken += [{"step": step} for step in (0, -1, np.inf, -np.inf, np.nan)]
        else:
            broken += [{"scale": linear.weight}, {"correction": linear.weight}]
            broken += [{"step": step} for step in (1, np.nan)]
        assert (number, [each for each in broken if not call.is_rejected(linear, **each)]) == (number, [])


def test_structures_that_are_null_or_misaligned_are_rejected(call):
    model = call.model
    optional = ("context_gates", "context_output", "tied", "feature_encoder", "feature_decoder")
    bridges = ("bridge_h", "bridge_c")
    names = ["encoder", "decoder", *(name for name in (*optional, *bridges) if getattr(model, name))]
    for name in names:
        assert call.is_rejected(model, **{name: None}), name
        assert call.is_rejected(model, **{name: moved(getattr(model, name))}), name


def test_tables_are_where_they_have_to_be_and_nowhere_else(call):
    model = call.model
    table = model.decoder[0].table
    for first in (model.decoder[0], *(model.encoder[n] for n in range(model.directions) if model.encoder[n].table)):
        assert call.is_rejected(first, table=None)
        assert call.is_rejected(first, table=first.table + 4)
    # not even if it has all that it would need without
    assert call.is_rejected(model.decoder[0], table=None, input=model.decoder[1].input)
    for later in (model.decoder[1], model.encoder[model.directions]):
        assert call.is_rejected(later, table=table)
    if model.source_embedding:
        assert call.is_rejected(model, source_embedding=None)
    assert call.is_rejected(model, source_embedding=(model.source_embedding or 0) + 4)


def test_a_model_has_all_that_features_need_or_nothing(decode):
    call = Call(decode, "features")
    names = ("vocabulary", "table", "bias", "encoder", "decoder")
    parts = {f"feature_{name}": getattr(call.model, f"feature_{name}") for name in names}
    wrong = [value for value in SIZES if not call.is_rejected(call.model, feature_vocabulary=value)]
    assert wrong == []
    for name in ("feature_table", "feature_bias"):
        assert call.is_rejected(call.model, **{name: parts[name] + 4})
        assert call.is_rejected(call.model, **{name: None})
    other = Call(decode, "gru")
    for name, part in parts.items():
        assert other.is_rejected(other.model, **{name: part}), name


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_has_all_that_its_kind_needs_and_nothing_else(decode, name):
    call = Call(decode, name)
    model, attention = call.model, call.model.attention[0]
    within = bool(attention.is_within)
    assert call.is_rejected(model, attention=moved(model.attention))
    wrong = [value for value in (-1, 2, 1 - within, LEAST, MOST) if not call.is_rejected(attention, is_within=value)]
    assert wrong == []
    for part in ("keys", "query", "fed"):
        if getattr(attention, part):
            assert call.is_rejected(attention, **{part: moved(getattr(attention, part))}), part
    for part in ("vector", "tokens", "entries"):
        assert call.is_rejected(attention, **{part: (getattr(attention, part) or 0) + 4}), part
    assert call.is_rejected(attention, tokens=None if within else model.decoder[0].table)
    # whole products of the right sizes, where this kind must have none
    gates = ctypes.pointer(model.decoder[0].recurrent)
    assert call.is_rejected(attention, fed=gates) == within
    # the memory is twice as wide as a query, so it cannot be the keys
    assert call.is_rejected(attention, keys=None) == (model.directions == 2)
    assert [part for part in ("query", "vector") if call.is_rejected(attention, **{part: None})] == []


def test_features_are_entries_of_the_memory_or_read_by_the_encoder_or_both(decode):
    call = Call(decode, "entries")
    model, attention, other = call.model, call.model.attention[0], Call(decode, "features").model
    assert call.is_rejected(attention, entries=None)  # nothing reads them
    assert call.is_rejected(model, feature_vocabulary=0)  # a table of nothing
    assert call.is_rejected(model, attention=None)
    names = ("feature_table", "feature_bias", "feature_encoder", "feature_decoder")
    for name in names:
        assert call.is_rejected(model, **{name: getattr(other, name)}), name
    gates = ctypes.pointer(Linear.from_buffer_copy(model.decoder[0].recurrent))
    gates[0].inputs, model.embedding = model.embedding, model.embedding
    both = {"feature_table": other.feature_table, "feature_bias": other.feature_bias}
    both |= {"feature_encoder": gates, "feature_decoder": gates}
    assert not call.is_rejected(model, **both)
    for name in names:
        assert call.is_rejected(model, **{**both, name: None}), name
    without = Call(decode, "fed")
    assert without.is_rejected(without.model.attention[0], entries=attention.entries)


def test_states_of_one_direction_may_be_copied_or_projected(decode):
    call = Call(decode, "gru")
    bridge = (Linear * 2)(*(call.model.output for _ in range(2)))
    for each in bridge:
        each.outputs = each.inputs
    assert call.is_rejected(call.model, bridge_c=bridge)  # a GRU has no c
    call.model.bridge_h = bridge
    assert (call(0), call()) == (OK, OK)
    for each in bridge:
        assert call.is_rejected(each, outputs=each.outputs + 1)


def test_what_a_layer_with_a_table_does_not_use_may_be_anything(decode):
    call = Call(decode, "gru")
    for layer in (call.model.encoder[0], call.model.decoder[0]):
        assert isinstance(layer, Layer)
        layer.input.inputs = -1
    assert (call(0), call()) == (OK, OK)


# --------------------------------------------------------------------------------------------------------------- calls


def test_without_sources_nothing_is_asked_for(call):
    assert call(0, **dict.fromkeys(TYPES)) == OK


@pytest.mark.parametrize("name", TYPES)
def test_arrays_that_are_null_or_misaligned_are_rejected(call, name):
    if name not in call.arrays:
        assert call(**{name: call.arrays["ids"]}) == BAD_SOURCE  # a model without features
        return
    address = ctypes.addressof(call.arrays[name])
    assert [call(**{name: wrong}) for wrong in (None, address + 1, address + 2)] == [BAD_SOURCE] * 3


@pytest.mark.parametrize(
    ("count", "code"), [(-1, BAD_SOURCE), (LEAST, BAD_SOURCE), (2**62, NO_MEMORY), (MOST, NO_MEMORY)]
)
def test_numbers_of_sources_that_cannot_be_are_rejected(call, count, code):
    assert call(count) == code


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(("lengths", [2, wrong]) for wrong in (0, -1, LEAST, MOST, 2**60)),
        ("lengths", [2, 2**60 - 1]),  # their sum
        *(("bounds", [wrong, 4]) for wrong in (-1, LEAST, MOST, 2**60)),
        ("bounds", [2**60 - 2, 1]),  # their sum
        *(("ids", [4, EOS, wrong, 6, EOS]) for wrong in (-1, LEAST, MOST, 11)),
    ],
)
def test_sources_that_cannot_be_are_rejected(call, name, values):
    assert call(**{name: (ctypes.c_int64 * len(values))(*values)}) == BAD_SOURCE


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(("feature_counts", [1, wrong]) for wrong in (-1, LEAST, MOST, 2**60)),
        ("feature_counts", [1, 2**60 - 1]),  # their sum
        *(("feature_ids", [4, wrong, 6]) for wrong in (0, -1, LEAST, MOST, 7)),
    ],
)
def test_features_that_cannot_be_are_rejected(decode, name, values):
    assert Call(decode, "features")(**{name: (ctypes.c_int64 * len(values))(*values)}) == BAD_SOURCE


def test_sources_may_have_no_features(decode):
    call = Call(decode, "features")
    assert call(feature_counts=(ctypes.c_int64 * 2)(0, 0)) == OK


# --------------------------------------------------------------------------------------------------------------- steps


class Steps:
    """A model, and its sources, steps and beam searches, whose arguments can be exchanged."""

    def __init__(self, library, name="within"):
        self.library, self.call = library, Call(library.freerun_greedy, name)
        self.steps = ctypes.c_void_p()
        self.vocabulary = self.call.model.target_vocabulary

    def start(self, count=2, model=None, steps=True, stop=None, **changes):
        """The code of starting; ``steps`` is True for an address of its own."""
        model = ctypes.pointer(self.call.model) if model is None else model
        arrays = {**self.call.arrays, **changes}
        address = ctypes.pointer(self.steps) if steps is True else steps
        names = ("ids", "lengths", *FEATURES)
        return self.library.freerun_start(model, count, *(arrays.get(name) for name in names), address, stop)

    def step(self, tokens=(1, 1), origins=(0, 1), rows=None, steps=True, addresses=()):
        """The code of a step, and its log-probabilities; ``addresses`` replace those of the arrays."""
        log_probs = np.full((len(tokens), self.vocabulary), np.nan, np.float32)
        given = {"tokens": np.array(tokens, np.int64), "origins": np.array(origins, np.int64), "log_probs": log_probs}
        arrays = ({name: each.ctypes.data for name, each in given.items()} | dict(addresses)).values()
        rows = len(tokens) if rows is None else rows
        return self.library.freerun_step(self.steps if steps is True else steps, rows, *arrays), log_probs

    def attended(self, rows=2, positions=6, steps=True, address=True):
        """The code of attention weights, and the weights."""
        weights = np.full((2, 6), np.nan, np.float32)
        steps, address = self.steps if steps is True else steps, weights.ctypes.data if address is True else address
        return self.library.freerun_attended(steps, rows, positions, address), weights

    def beam(self, count=2, how=(3, 2, 0, 0.0), model=None, stop=None, **changes):
        """The code of a beam search."""
        self.outputs = Outputs(ctypes.pointer(ctypes.c_int32(7)), ctypes.pointer(ctypes.c_float(7)))
        results = {"starts": (ctypes.c_int64 * 6)(), "written": (ctypes.c_int64 * 6)()}
        arrays = {**self.call.arrays, **results, "settings": ctypes.pointer(BeamSettings(*how))}
        arrays |= {"outputs": ctypes.pointer(self.outputs), **changes}
        self.starts, self.written = results["starts"], results["written"]
        names = ("ids", "lengths", *FEATURES, "bounds", "settings", "starts", "written", "outputs")
        model = ctypes.pointer(self.call.model) if model is None else model
        return self.library.freerun_beam_search(model, count, *(arrays.get(name) for name in names), stop)


def misaligned(array):
    """None, and addresses that the numbers of an array cannot have."""
    address = ctypes.addressof(array)
    return [None, address + 1, address + 2]


@pytest.fixture
def steps(library):
    made = Steps(library, "within")
    yield made
    library.freerun_end(made.steps)


@pytest.mark.parametrize("name", ["within", "entries"])
def test_sources_that_cannot_be_are_not_started(library, name):
    steps = Steps(library, name)
    arrays = steps.call.arrays
    counts = [(0, BAD_SOURCE), (-1, BAD_SOURCE), (LEAST, BAD_SOURCE), (2**62, NO_MEMORY), (MOST, NO_MEMORY)]
    assert [steps.start(count) for count, _ in counts] == [code for _, code in counts]
    for part in ("ids", "lengths", *FEATURES):
        wrong = misaligned(arrays[part]) if part in arrays else [arrays["ids"]]
        assert [steps.start(**{part: each}) for each in wrong] == [BAD_SOURCE] * len(wrong), part
    for part, values in (("ids", [4, EOS, 11, 6, EOS]), ("ids", [4, EOS, 5, 6, -1]), ("lengths", [0, 3])):
        assert steps.start(**{part: (ctypes.c_int64 * len(values))(*values)}) == BAD_SOURCE
    if "feature_ids" in arrays:
        assert steps.start(feature_ids=(ctypes.c_int64 * 3)(4, 3, 7)) == BAD_SOURCE
    for wrong in (None, moved(ctypes.pointer(steps.steps))):
        assert steps.start(steps=wrong) == BAD_SOURCE
    assert steps.start(stop=moved(ctypes.pointer(ctypes.c_int32(1)), 1)) == BAD_SOURCE
    assert steps.start(stop=ctypes.c_int32(1)) == STOPPED
    assert steps.start(model=ctypes.POINTER(Model)()) == BAD_MODEL
    assert steps.steps.value is None  # left alone
    assert steps.start(stop=ctypes.c_int32(0)) == OK
    assert steps.steps.value is not None
    library.freerun_end(steps.steps)


def test_a_stop_is_of_the_sources_alone(steps):
    stop = ctypes.c_int32(0)
    assert steps.start(stop=stop) == OK
    stop.value = 1
    assert steps.step()[0] == OK


def test_steps_that_cannot_be_made_are_rejected_and_change_nothing(steps, library):
    assert steps.start() == OK
    assert steps.step((1, 1, 1), (1, 0, 1))[0] == OK
    for rows in (0, -1, LEAST):
        assert steps.step(rows=rows)[0] == BAD_SOURCE
    for wrong in (-1, steps.vocabulary, LEAST, MOST):
        assert steps.step(tokens=(4, wrong))[0] == BAD_SOURCE
    for wrong in (-1, 3, LEAST, MOST):
        assert steps.step(origins=(0, wrong))[0] == BAD_SOURCE
    space = (ctypes.c_int64 * 40)()
    for part in ("tokens", "origins", "log_probs"):
        assert [steps.step(addresses={part: each})[0] for each in misaligned(space)] == [BAD_SOURCE] * 3, part
    assert steps.step(steps=None)[0] == BAD_SOURCE
    code, found = steps.step((4, 5, 6), (2, 1, 0))
    other = Steps(library, "within")
    assert (other.start(), other.step((1, 1, 1), (1, 0, 1))[0]) == (OK, OK)
    expected = other.step((4, 5, 6), (2, 1, 0))
    library.freerun_end(other.steps)
    assert (code, found.tolist()) == (OK, expected[1].tolist())


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_weights_that_cannot_be_are_rejected_and_change_nothing(library, name):
    steps = Steps(library, name)
    largest = 5 if name == "entries" else 3  # of the second source
    assert (steps.attended(steps=None)[0], steps.start(), steps.attended()[0]) == (BAD_SOURCE, OK, BAD_SOURCE)
    assert steps.step()[0] == OK
    for rows in (LEAST, -1, 0, 1, 3, MOST):
        assert steps.attended(rows)[0] == BAD_SOURCE, rows
    for positions in (LEAST, -1, 0, largest - 1, 2**60, MOST):
        assert steps.attended(positions=positions)[0] == BAD_SOURCE, positions
    for address in misaligned((ctypes.c_float * 12)()):
        assert steps.attended(address=address)[0] == BAD_SOURCE
    assert [steps.attended(positions=positions)[0] for positions in (largest, 6)] == [OK, OK]
    code, weights = steps.attended()
    assert (code, weights.sum(1).tolist()) == (OK, pytest.approx([1, 1], abs=1e-6))
    assert not weights[0, largest - 1 - (name == "entries") :].any()
    assert not weights[1, largest:].any()
    expected = steps.step((4, 5), (1, 0))[1]
    library.freerun_end(steps.steps)
    other = Steps(library, name)
    assert (other.start(), other.step()[0]) == (OK, OK)
    assert other.step((4, 5), (1, 0))[1].tolist() == expected.tolist()
    library.freerun_end(other.steps)


def test_a_step_that_is_rejected_leaves_the_weights_of_the_one_before(steps):
    assert (steps.start(), steps.step()[0]) == (OK, OK)
    before = steps.attended()[1]
    assert steps.step((4, 5, 6), (0, 1, 2))[0] == BAD_SOURCE
    assert steps.attended()[1].tolist() == before.tolist()


def test_a_model_without_attention_has_no_weights(library):
    steps = Steps(library, "gru")
    assert (steps.start(), steps.step()[0], steps.attended()[0]) == (OK, OK, BAD_SOURCE)
    library.freerun_end(steps.steps)


def best_of(library, log_probs, k, rows=None, vocabulary=None, addresses=()):
    """The code, ids and values of ``freerun_best``; ``addresses`` replace those of the arrays."""
    log_probs = np.array(log_probs, np.float32)
    number = max(k, 1)
    given = {"log_probs": log_probs, "ids": np.full((len(log_probs), number), -1), "best": np.zeros((9, number), "f4")}
    arrays = {name: each.ctypes.data for name, each in given.items()} | dict(addresses)
    rows = len(log_probs) if rows is None else rows
    size = log_probs.shape[1] if vocabulary is None else vocabulary
    code = library.freerun_best(rows, size, arrays["log_probs"], k, arrays["ids"], arrays["best"])
    return code, given["ids"].tolist(), given["best"][: len(log_probs)].tolist()


def test_the_best_tokens_of_sizes_that_cannot_be_are_rejected(library):
    row = [[-1.0, -2, -3, -4, -5, -6]]
    assert [best_of(library, row, k)[0] for k in (-1, 0, 1, 3, 4)] == [BAD_SOURCE, BAD_SOURCE, OK, OK, BAD_SOURCE]
    assert [best_of(library, row, 1, vocabulary=size)[0] for size in (LEAST, 0, 3, 4)] == [BAD_SOURCE] * 3 + [OK]
    assert [best_of(library, row, 1, rows=rows)[0] for rows in (LEAST, -1, 0)] == [BAD_SOURCE] * 2 + [OK]
    space = (ctypes.c_int64 * 40)()
    for part in ("log_probs", "ids", "best"):
        assert [best_of(library, row, 1, addresses={part: each})[0] for each in misaligned(space)] == [
            BAD_SOURCE
        ] * 3, part


def test_the_best_of_equal_tokens_is_the_lowest_and_some_are_never_written(library):
    rows = [[0, 0, -1, 0, -1, -2, -1], [0, 0, -9, 0, -INF, -8, -INF]]
    assert best_of(library, rows, 4) == (OK, [[2, 4, 6, 5], [5, 2, 4, 6]], [[-1, -1, -1, -2], [-8, -9, -INF, -INF]])
    assert best_of(library, rows, 2)[1] == [[2, 4], [5, 2]]
    code, ids, values = best_of(library, [[0, 0, NAN, 0, NAN, NAN, NAN]], 4)
    assert (code, ids, np.isnan(values).all()) == (OK, [[2, 4, 5, 6]], True)


# ---------------------------------------------------------------------------------------------------------------- beams


@pytest.mark.parametrize("name", ["gru", "within", "entries"])
def test_beams_that_cannot_be_are_rejected_and_leave_no_outputs(library, name):
    steps = Steps(library, name)
    arrays = steps.call.arrays

    def rejected(code=BAD_SOURCE, **changes):
        found = steps.beam(**changes)
        return found == code and not (steps.outputs.tokens or steps.outputs.scores)

    for count, code in ((-1, BAD_SOURCE), (LEAST, BAD_SOURCE), (2**62, NO_MEMORY), (MOST, NO_MEMORY)):
        assert rejected(code, count=count)
    for part in ("ids", "lengths", "bounds", *FEATURES):
        for each in misaligned(arrays[part]) if part in arrays else [arrays["ids"]]:
            assert rejected(**{part: each}), part
    for part in ("starts", "written"):
        for each in misaligned((ctypes.c_int64 * 7)()):
            assert rejected(**{part: each}), part
    for part, values in (("ids", [4, EOS, 11, 6, EOS]), ("lengths", [0, 3]), ("bounds", [3, -1])):
        assert rejected(**{part: (ctypes.c_int64 * len(values))(*values)})
    assert rejected(stop=moved(ctypes.pointer(ctypes.c_int32(1)), 1))
    assert rejected(STOPPED, stop=ctypes.c_int32(1))
    # here the outputs are not touched
    for how in ((0, 1), (-1, 1), (2**16 + 1, 1), (3, 0), (3, -1), (3, 4), (MOST, MOST), (3, 2, 0, NAN)):
        assert steps.beam(how=how) == BAD_SOURCE, how
    for wrong in (None, moved(ctypes.pointer(BeamSettings(3, 2)))):
        assert steps.beam(settings=wrong) == BAD_SOURCE
    for wrong in (None, moved(ctypes.pointer(Outputs()))):
        assert steps.beam(outputs=wrong) == BAD_SOURCE
    assert steps.beam(model=ctypes.POINTER(Model)()) == BAD_MODEL
    assert steps.beam() == OK
    library.freerun_release(steps.outputs)
    assert not (steps.outputs.tokens or steps.outputs.scores)


def test_a_beam_search_without_sources_writes_nothing(steps):
    assert steps.beam(0, ids=None, lengths=None, bounds=None, starts=None, written=None) == OK
    assert not (steps.outputs.tokens or steps.outputs.scores)


def test_a_source_with_fewer_hypotheses_than_wanted_says_so(library):
    steps = Steps(library, "gru")
    assert steps.beam(how=(3, 3), bounds=(ctypes.c_int64 * 2)(0, 0)) == OK
    found = list(steps.written)
    library.freerun_release(steps.outputs)
    # a bound of 0: EOS, or nothing at all
    assert found == [found[0], -1, -1, found[3], -1, -1]
    assert {found[0], found[3]} <= {0, 1}


# ------------------------------------------------------------------------------------------------------------- numbers


@contextmanager
def biased(call, values):
    """The output's bias; every weight in front of it is 0."""
    output = call.model.output
    ctypes.memset(output.weight, 0, 4 * 64 * output.inputs)
    bias = (ctypes.c_float * 64).from_address(output.bias)
    for column, value in values.items():
        bias[column] = value
    yield [call(1), *call.arrays["tokens"][: call.arrays["written"][0]]]


@pytest.mark.parametrize(
    ("values", "token"),
    [
        (dict.fromkeys(range(9), NAN), EOS),
        (dict.fromkeys(range(9), -NAN), EOS),
        (dict.fromkeys(range(9), INF), EOS),
        (dict.fromkeys(range(9), -INF), EOS),
        ({**dict.fromkeys(range(9), 0), 0: NAN, 5: 7}, 5),
        ({**dict.fromkeys(range(9), 0), 2: NAN, 5: 7}, EOS),
        ({**dict.fromkeys(range(9), 0), 3: NAN, 6: INF}, 6),
        ({**dict.fromkeys(range(9), 0), 1: INF, 8: 1}, 8),
    ],
)
def test_numbers_that_are_not_finite_give_a_token_all_the_same_and_a_score_that_is_not(decode, values, token):
    call = Call(decode, "gru")
    with biased(call, values) as (code, first, *_):
        assert (code, first) == (OK, token)
        assert not np.isfinite(call.arrays["scores"][0])


def test_the_columns_behind_the_vocabulary_are_never_written(decode):
    call = Call(decode, "gru")
    with biased(call, {**dict.fromkeys(range(9), 0), **dict.fromkeys(range(9, 64), 99), 8: 1}) as (code, first, *_):
        assert (code, first) == (OK, 8)
        assert call.arrays["scores"][0] == pytest.approx(1 - np.log(8 + np.e))


@pytest.mark.parametrize("half", [0, 1])
def test_the_larger_of_a_number_and_nan_is_nan(decode, half):
    call = Call(decode, "within")
    hidden, state = call.model.hidden, call.model.attention[0].state
    (ctypes.c_float * (2 * hidden)).from_address(state.bias)[half * hidden] = NAN
    assert call(1) == OK
    assert (call.arrays["tokens"][0], np.isnan(call.arrays["scores"][0])) == (EOS, True)


__all__ = ["build"]
