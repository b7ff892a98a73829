"""Features in the compiled greedy search: a constant input of the first layers, and the arrays that it is read from."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from freerun.errors import BundleError
from freerun.models.seq2seq import Seq2Seq
from freerun.models.torch_stepper import TorchStepper
from freerun.runtime.compiled_greedy import CompiledGreedy
from freerun.runtime.compiled_model import CompiledModel
from freerun.search.batches import pad_sources
from freerun.symbols import EOS, UNK
from tests.compiled import needs_compiler
from tests.exported import ArraysOf
from tests.networks import COMPILED_CELLS, network
from tests.searching import beam_search

pytestmark = needs_compiler
AGAIN = "Expected a file as freerun export wrote it. Export again: freerun export MODEL."
SOURCES = [[4, EOS], [5, 6, EOS], [9, 8, 7, EOS]]
BOUNDS = [9, 9, 9]


def model_with_features(vocabulary=9, **options):
    options = {"cell": "gru", "feature_vocabulary": vocabulary, "feature_encoder": "summary", **options}
    return network(1, torch.float32, scale=1.2, **options)


def greedy_of(model, precision="fp32"):
    return CompiledGreedy(CompiledModel(ArraysOf(model, precision, 1.5), precision))


def first_layers(model):
    """The names of the layers that read features."""
    directions = ("forward", "backward")[: model.sizes.num_directions]
    return ["decoder.layers.0", *(f"encoder.{direction}_layers.0" for direction in directions)]


def folded(model, features):
    """The model without features that computes the same for sources that all have these features, by its biases."""
    width, weights = model.sizes.embedding_size, {**model.state_dict()}
    embedding, weight, bias = (
        weights.pop(f"feature_encoder.{name}") for name in ("embedding.weight", "projection.weight", "projection.bias")
    )
    summary = torch.tanh(weight @ embedding[features].sum(0) + bias)
    for layer in first_layers(model):
        weight = weights[f"{layer}.weight_ih"]
        weights[f"{layer}.bias_ih"] = weights[f"{layer}.bias_ih"] + weight[:, width : 2 * width] @ summary
        weights[f"{layer}.weight_ih"] = torch.cat([weight[:, :width], weight[:, 2 * width :]], 1)
    made = Seq2Seq(replace(model.sizes, feature_vocabulary=0, feature_encoder=""))
    made.load_state_dict(weights)
    return made


def on_levels(model):
    """Change the weights of features and context to values that 8 bits hold exactly, together and apart."""
    generator, width = torch.Generator().manual_seed(1), model.sizes.embedding_size
    weights = model.state_dict()
    for layer in first_layers(model):
        part = weights[f"{layer}.weight_ih"][:, width:]
        part[:] = torch.randint(-127, 128, part.shape, generator=generator) / 128
        part[:, ::width] = 127 / 128
    # each row of the table, their product, is a column of the projection
    embedding, projection = (weights[f"feature_encoder.{name}.weight"] for name in ("embedding", "projection"))
    embedding[:] = torch.eye(width)[torch.arange(len(embedding)) % width]
    projection[:] = torch.randint(-127, 128, projection.shape, generator=generator) / 128
    projection[0] = 127 / 128
    return model


# -------------------------------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize("context", ["init", "every_step"])
@pytest.mark.parametrize("embedding_size", [3, 13])  # below and above the number of source ids
@pytest.mark.parametrize("cell", COMPILED_CELLS)
def test_features_are_a_constant_input_of_the_first_layers_in_fp32_and_in_int8(cell, embedding_size, context):
    options = {"cell": cell, "embedding_size": embedding_size, "context": context, "bidirectional": context == "init"}
    with_features = [[*source, 4, 7] for source in SOURCES]
    model = on_levels(model_with_features(**options))
    for precision in ("fp32", "int8"):
        found = greedy_of(model, precision)(with_features, BOUNDS)
        expected = greedy_of(folded(model, [4, 7]), precision)(SOURCES, BOUNDS)
        assert [each.ids for each in found] == [each.ids for each in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.token_scores, other.token_scores, atol=1e-4)


def test_outputs_depend_on_the_features_of_a_source_alone():
    greedy = greedy_of(model_with_features())
    several = greedy([[4, 5, EOS, *features] for features in ([], [UNK], [4], [5], [4, 5])], [9] * 5)
    assert len({each.token_scores for each in several}) == 5
    assert several[3] == greedy([[4, 5, EOS, 5]], [9])[0]


@pytest.mark.parametrize("features", [[], [UNK], list(range(3, 1003))], ids=["none", "unknown", "1,000"])
def test_any_number_of_features_gives_what_torch_gives(features):
    model = model_with_features(1003)
    sources = [[*source, *features] for source in SOURCES]
    found = greedy_of(model)(sources, BOUNDS)
    expected = beam_search(TorchStepper(model), *pad_sources(sources), max_lengths=np.array(BOUNDS))
    for one, (other,) in zip(found, expected, strict=True):
        assert one.ids == other.ids
        np.testing.assert_allclose(one.token_scores, other.token_scores, atol=1e-4)


@pytest.mark.parametrize("source", [[4, EOS, 9], [4, EOS, 0], [4, EOS, -1], [11, EOS, 4], []])
def test_ids_that_there_are_not_are_rejected(source):
    greedy = greedy_of(model_with_features())
    with pytest.raises(ValueError, match=r"^a source is empty, or has an id outside the source or feature vocabulary$"):
        greedy([[4, EOS, 8], source], [3, 3])
    assert greedy([[4, EOS, 8]], [3])


# --------------------------------------------------------------------------------------------------------------- arrays


def arrays_in(content):
    with np.load(io.BytesIO(content)) as file:
        return dict(file)


def message(model, change):
    """Return the error of reading a model's arrays after ``change`` of them; None removes one."""
    bundle = ArraysOf(model)
    arrays = arrays_in(bundle._content)
    changed = {name: array for name, array in (arrays | change(arrays)).items() if array is not None}
    file = io.BytesIO()
    np.savez(file, **changed)
    bundle._content = file.getvalue()
    with pytest.raises(BundleError) as error:
        CompiledGreedy(CompiledModel(bundle))(SOURCES, BOUNDS)
    return str(error.value)


def test_only_a_model_with_features_has_arrays_of_version_2():
    for model, version in ((model_with_features(), "2"), (network(1, torch.float32), "1")):
        arrays = arrays_in(ArraysOf(model)._content)
        assert json.loads(arrays["metadata"].tobytes())["freerun.arrays"] == version
        assert any("feature" in name for name in arrays) == (version == "2")


def test_arrays_of_another_version_are_reported():
    metadata = arrays_in(ArraysOf(network(1, torch.float32))._content)["metadata"]
    found = message(model_with_features(), lambda _: {"metadata": metadata})
    assert found.startswith("bundle/greedy.npz: its metadata names arrays '1', the bundle has '2'.")


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("feature_table", lambda a: None, "missing, but should be float32 (9, 3)"),
        ("feature_table", lambda a: a[:-1], "float32 (8, 3), but should be float32 (9, 3)"),
        ("context_gates.weight", lambda a: a.T, "float32 (12, 3), but should be float32 (3, 12)"),
        ("feature_bias", lambda a: a[1:], "float32 (2,), but should be float32 (3,)"),
        ("feature_bias", lambda a: None, "missing, but should be float32 (3,)"),
        ("encoder.0.forward.features.weight", lambda a: None, "missing, but should be float32 (3, 12)"),
        ("encoder.0.backward.features.weight", lambda a: a[1:], "float32 (2, 12), but should be float32 (3, 12)"),
    ],
)
def test_arrays_of_features_that_do_not_fit_the_sizes_are_reported(name, change, what):
    found = message(model_with_features(bidirectional=True), lambda arrays: {name: change(arrays[name])})
    assert found == f"bundle/greedy.npz: damaged: {name} is {what}. {AGAIN}"


def test_arrays_of_features_in_a_model_without_them_are_reported():
    found = message(network(1, torch.float32), lambda _: {"feature_table": np.zeros((9, 3), np.float32)})
    assert found == f"bundle/greedy.npz: damaged: an unexpected array: feature_table. {AGAIN}"
