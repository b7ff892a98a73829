"""Exported bundles of models with features, and the checks of their graphs."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
import torch

import freerun
from freerun.architecture import FEATURE_ENCODERS, Architecture
from freerun.errors import BundleError
from freerun.evaluation.items import EvaluationSet, Item
from freerun.evaluation.predictor_evaluation import evaluate_items
from freerun.onnx_export.bundle_files import first_state_limit
from freerun.onnx_export.encoder_graph import encoder_graph
from freerun.onnx_export.graph import model_of
from freerun.onnx_export.graph_files import graph_files
from freerun.onnx_export.greedy_graph import greedy_graph
from freerun.onnx_export.products import Fp32
from freerun.onnx_export.quantise import Int8
from freerun.onnx_export.verify import random_sources
from freerun.runtime.bundle import graph_file, read_bundle
from freerun.runtime.graph_rules import check_graph
from freerun.runtime.graphs import Graphs, metadata_of
from freerun.runtime.onnx_file import GraphError, read_onnx
from freerun.symbols import EOS, UNK, source_length
from tests.exported import GraphsOf, write_model
from tests.networks import network
from tests.unit.test_export import put
from tests.unit.test_graph_rules import OUT_OF_PROPORTION, appended, doubled

SOURCES = ["a b c", "", "g", "b b b a", "f ? e"]
FEATURES = ["A;B", "", "C;?", "A;B;C", "C"]


def model_of_features(encoder, **options):
    options = {"attention": "general", "bidirectional": True, "feature_encoder": encoder, **options}
    return network(1, torch.float32, scale=1.5, feature_vocabulary=7, **options)


def exported(folder, model):
    bundle = write_model(folder, model)
    for precision in ("fp32", "int8"):
        for name, content in graph_files(bundle, precision).items():
            put(folder, name, content)
    return folder


@pytest.fixture(scope="module", params=FEATURE_ENCODERS)
def untouched(request, tmp_path_factory):
    return exported(tmp_path_factory.mktemp("exported") / "bundle", model_of_features(request.param))


@pytest.fixture
def bundle(untouched, tmp_path):
    return shutil.copytree(untouched, tmp_path / "bundle")


def items():
    pairs = zip(SOURCES, FEATURES, strict=True)
    return EvaluationSet([Item(source, ["v"], [["v"]], features) for source, features in pairs])


# ------------------------------------------------------------------------------------------------------------ what runs


@pytest.mark.parametrize("beam_size", [1, 3])
def test_both_runtimes_evaluate_the_same(untouched, beam_size):
    found, expected = (
        evaluate_items(freerun.load(untouched, runtime=runtime), items(), beam_size=beam_size)
        for runtime in ("onnx", "torch")
    )
    assert found.free.texts == expected.free.texts
    np.testing.assert_allclose(found.teacher.nll, expected.teacher.nll, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_features_decide_outputs_in_every_precision(untouched, precision):
    predictor = freerun.load(untouched, runtime="onnx", precision=precision)
    scored = evaluate_items(predictor, EvaluationSet([Item("a b", ["v"], [["v"]], each) for each in FEATURES]))
    differences = np.abs(np.subtract.outer(scored.teacher.nll, scored.teacher.nll))[np.triu_indices(5, 1)]
    assert differences.min() > 1e-3


def test_the_vocabulary_of_features_is_in_the_metadata(bundle):
    other = read_bundle(bundle)
    expected = other.source.features.vocabulary.hash
    assert metadata_of(other, "step", "fp32")["freerun.feature_vocabulary"] == expected
    model = onnx.load(bundle / "greedy.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props} | {"freerun.feature_vocabulary": "abc"}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    put(bundle, "greedy.onnx", model.SerializeToString())
    with pytest.raises(BundleError) as error:
        Graphs(read_bundle(bundle)).session("greedy")
    assert f"its metadata names feature_vocabulary 'abc', the bundle has {expected[:12]!r}." in str(error.value)


def test_equal_weights_give_equal_graphs(untouched, tmp_path):
    encoder = read_bundle(untouched).model["feature_encoder"]
    other = exported(tmp_path / "other", model_of_features(encoder))
    for name in ("encoder", "step", "greedy"):
        for precision in ("fp32", "int8"):
            file = graph_file(name, precision)
            assert (other / file).read_bytes() == (untouched / file).read_bytes()


# ------------------------------------------------------------------------------------------------------ what is checked


def test_random_sources_have_features_in_the_vocabulary_and_unknown_ones(untouched):
    bundle = read_bundle(untouched)
    sources = random_sources(bundle)
    features = [source[source_length(source) :] for source in sources]
    assert {source_length(source) for source in sources} == {*range(1, 13)}
    assert {len(each) for each in features} == {0, 1, 2, 3, 4}
    assert {number for each in features for number in each} == {UNK, 4, 5, 6}
    assert all(each == sorted(set(each)) for each in features)
    plain = [source[: source_length(source)] for source in sources]
    assert all(source[-1] == EOS and EOS not in source[:-1] for source in plain)


def test_int8_knows_how_large_first_states_become_with_their_features(tmp_path):
    model = model_of_features("summary")
    folder = exported(tmp_path / "bundle", model)
    codec = read_bundle(folder).source
    encoded = [codec.encode(*each) for each in zip(SOURCES, FEATURES, strict=True)]
    ids = [(each[: source_length(each)], each[source_length(each) :]) for each in encoded]
    states = [
        model.encode(torch.tensor([source]), None, feature_ids_BQ=torch.tensor([features or [0]])).state.h_LBH.detach()
        for source, features in ids
    ]
    expected = np.quantile(np.abs(np.concatenate(states, axis=1)), 0.999)
    assert expected > 1 and first_state_limit(folder, encoded) == pytest.approx(expected, rel=1e-5)
    without = [each[: source_length(each)] for each in encoded]
    assert first_state_limit(folder, without) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("encoder", FEATURE_ENCODERS)
@pytest.mark.parametrize("name", ["encoder", "greedy"])
def test_a_graph_without_the_input_of_features_is_told(encoder, name):
    make = {"encoder": encoder_graph, "greedy": greedy_graph}[name]
    content = model_of(make(GraphsOf(network(1, torch.float32, attention="general")).weights, Fp32()), {})
    sizes = model_of_features(encoder, bidirectional=False).sizes
    bounds = ", 'max_lengths'" if name == "greedy" else ""
    with pytest.raises(GraphError) as error:
        check_graph(read_onnx(content), name, sizes)
    expected = f"but this model has 'source', 'lengths', 'features'{bounds}"
    assert str(error.value) == f"the inputs are 'source', 'lengths'{bounds}, {expected}"


def test_a_graph_with_the_input_of_features_is_told_in_a_model_without():
    content = model_of(encoder_graph(GraphsOf(model_of_features("summary")).weights, Fp32()), {})
    sizes = network(1, torch.float32, attention="general", bidirectional=True).sizes
    with pytest.raises(
        GraphError, match=r"^the inputs are 'source', 'lengths', 'features', but this model has 'source'"
    ):
        check_graph(read_onnx(content), "encoder", sizes)


@pytest.mark.parametrize("kinds", [("summary", "sequence"), ("sequence", "summary"), ("both", "summary")])
def test_a_memory_of_another_length_is_told(kinds):
    """A summary adds no entries to the memory."""
    expected, other = (GraphsOf(model_of_features(kind)).weights for kind in kinds)
    content = model_of(encoder_graph(other, Fp32()), {})
    with pytest.raises(GraphError, match=r"^the outputs? "):
        check_graph(read_onnx(content), "encoder", expected.sizes)


@pytest.mark.parametrize(
    "nodes",
    [
        # [Q, B] x [B, Q]
        [("Transpose", ["features"], "t", {"perm": [1, 0]}), ("MatMul", ["t", "features"], "square")],
        doubled("features", 20),
    ],
    ids=["square", "doubled"],
)
def test_values_stay_in_proportion_to_the_number_of_features(nodes, untouched):
    model = onnx.load(untouched / "greedy.onnx")
    appended(*nodes)(model)
    with pytest.raises(GraphError, match=f"^{OUT_OF_PROPORTION}"):
        check_graph(read_onnx(model.SerializeToString()), "greedy", Architecture.of(read_bundle(untouched).model))


@pytest.mark.parametrize("arithmetic", [Fp32(), Int8()], ids=["fp32", "int8"])
@pytest.mark.parametrize("sizes", [(7, 3000), (3000, 2)], ids=["embedding", "vocabulary"])
def test_wide_summaries_and_large_vocabularies_of_features_are_accepted(arithmetic, sizes):
    vocabulary, embedding_size = sizes
    options = {"num_layers": 1, "hidden_size": 1, "embedding_size": embedding_size}
    model = network(1, torch.float32, feature_vocabulary=vocabulary, feature_encoder="summary", **options)
    for name, make in (("encoder", encoder_graph), ("greedy", greedy_graph)):
        check_graph(read_onnx(model_of(make(GraphsOf(model).weights, arithmetic), {})), name, model.sizes)
