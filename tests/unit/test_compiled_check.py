"""The C library rejects structures that cannot be decoded by itself: other programs than freerun call it, too."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from freerun.runtime.compiled import Layer, Linear, Model
from freerun.runtime.compiled_model import CompiledModel
from freerun.symbols import EOS
from tests.compiled import KINDS, build, needs_compiler
from tests.exported import ArraysOf
from tests.networks import network

pytestmark = needs_compiler

OK, NO_MEMORY, BAD_SOURCE, BAD_MODEL, STOPPED = range(5)
LEAST, MOST = -(2**63), 2**63 - 1
SIZES = (0, -1, LEAST, 2**31, 2**62, MOST)  # of no model
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
}
FEATURES = ("feature_ids", "feature_counts")


class Call:
    """A model, and a call with two sources whose arguments can be exchanged."""

    def __init__(self, decode, name, precision="fp32"):
        self._decode = decode
        self._read = CompiledModel(ArraysOf(network(1, torch.float32, **MODELS[name]), precision), precision)
        self._read()
        self.model = self._read.memory[0]
        values = {"ids": [4, EOS, 5, 6, EOS], "lengths": [2, 3], "bounds": [3, 4]}
        if name == "features":
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
        single = (
            model.context_gates,
            model.context_output,
            model.tied,
            model.feature_decoder,
        )
        return [*found, *features, model.output, *(each[0] for each in single if each)]


def moved(pointer, by=4):
    """The same pointer, misaligned."""
    return ctypes.cast(ctypes.cast(pointer, ctypes.c_void_p).value + by, type(pointer))


@pytest.fixture(params=KINDS)
def decode(request, build):
    return build(request.param).freerun_greedy


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


NAN, INF = np.nan, np.inf


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


__all__ = ["build"]
