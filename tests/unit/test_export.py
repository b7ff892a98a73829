"""Exported bundles: what runs them, and every kind of damage to their graphs is told."""

from __future__ import annotations

import json
import shutil
import threading

import numpy as np
import onnx
import pytest
import torch

import freerun
from freerun.errors import BundleError, ConfigError, DataError
from freerun.files import bytes_hash
from freerun.onnx_export.bundle_files import first_state_limit
from freerun.onnx_export.graph import FLOAT, Graph, model_of
from freerun.onnx_export.graph_files import graph_files
from freerun.onnx_export.quantise import Int8
from freerun.onnx_export.verify import check_agreement, random_sources
from freerun.runtime.bundle import GRAPHS, Bundle, graph_file, read_bundle
from freerun.runtime.rounding import rounded
from freerun.runtime.session import open_session
from freerun.runtime.weights import LinearWeights
from freerun.search.hypothesis import Hypothesis
from tests.exported import write_model
from tests.networks import network
from tests.steppers import TableStepper

TEXTS = ["a b c", "", "g", "b b b a", "f ? e"]
AGAIN = "Export again: freerun export MODEL."


def exported(folder, precision="fp32", **changes):
    """A bundle with graphs beside its weights."""
    bundle = write_model(folder, **changes)
    for name, content in graph_files(bundle, precision).items():
        put(folder, name, content)
    return folder


def put(folder, name, content):
    """A file, and its hash in config.json: only its own content can show what is wrong with it."""
    (folder / name).write_bytes(content)
    edit(folder, lambda config: config["files"].update({name: bytes_hash(content)}))


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("exported") / "bundle")


@pytest.fixture
def bundle(untouched, tmp_path):
    return shutil.copytree(untouched, tmp_path / "bundle")


def message(folder, kind=BundleError, **options):
    with pytest.raises(kind) as error:
        freerun.load(folder, **options).predict("a b")
    return str(error.value)


# ------------------------------------------------------------------------------------------------------------ what runs


@pytest.mark.parametrize(
    "search", [freerun.Beam(), freerun.Beam(4, 3), freerun.Beam(1, 1, 0.5), freerun.Sampling(2, seed=3)], ids=str
)
def test_both_runtimes_predict_the_same(untouched, search):
    found, expected = (
        freerun.load(untouched, runtime=runtime).predict_batch(TEXTS, search) for runtime in ("onnx", "torch")
    )
    for one, other in zip(found, expected, strict=True):
        assert [h.tokens for h in one.hypotheses] == [h.tokens for h in other.hypotheses]
        for name in ("score", "rank_score"):
            values = [[getattr(h, name) for h in each.hypotheses] for each in (one, other)]
            assert values[0] == pytest.approx(values[1], abs=1e-4)
        assert one.unknown == other.unknown


def test_a_prefix_begins_every_output(untouched):
    assert freerun.load(untouched).predict("a b c", prefix="x y").tokens[:2] == ("x", "y")


def test_graphs_are_used_whenever_they_are_there(bundle, monkeypatch):
    monkeypatch.setattr(Bundle, "weights", lambda _: pytest.fail("torch was asked"))
    assert freerun.load(bundle).predict("a b").text
    assert freerun.load(bundle, ensemble=[bundle]).predict("a b").text


def test_an_ensemble_of_one_model_twice_is_that_model(untouched):
    one, two = freerun.load(untouched).predict("a b c"), freerun.load(untouched, ensemble=[untouched]).predict("a b c")
    assert one.tokens == two.tokens
    assert one.score == pytest.approx(two.score, abs=1e-4)


def test_threads_that_share_a_predictor_do_not_disturb_each_other(untouched):
    predictor, beam = freerun.load(untouched), freerun.Beam(3, 3)
    expected = [predictor.predict(text, beam) for text in TEXTS]
    found = {}

    def work(number):
        found[number] = [predictor.predict(text, beam) for _ in range(5) for text in TEXTS]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == expected * 5 for number in range(4))


def test_equal_weights_give_equal_graphs(untouched, tmp_path):
    other = exported(tmp_path / "other")
    for name in GRAPHS:
        assert (other / graph_file(name)).read_bytes() == (untouched / graph_file(name)).read_bytes()


# ---------------------------------------------------------------------------------------------------- wrong choices


def test_what_a_model_cannot_be_run_with_is_told(bundle, tmp_path):
    assert message(bundle, precision="int8") == (
        f"{bundle}: no greedy.int8.onnx in this bundle. Expected a bundle with int8 graphs. "
        f"Write them with: freerun export {bundle} --quantize int8."
    )
    plain = write_model(tmp_path / "plain").directory
    assert message(plain, runtime="onnx") == (
        f"{plain}: no greedy.onnx in this bundle. Expected a bundle with fp32 graphs. "
        f"Write them with: freerun export {plain}."
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"runtime": "tensorflow"},
            "runtime: unknown runtime 'tensorflow'. Expected 'torch' or 'onnx'. Choose one of them.",
        ),
        ({"precision": "int4"}, "precision: unknown precision 'int4'. Expected 'fp32' or 'int8'. Choose one of them."),
        (
            {"runtime": "torch", "precision": "int8"},
            "precision: int8 with torch. Expected fp32 with torch. Omit one of the two.",
        ),
        (
            {"max_length": -1},
            "max_length: the value is -1. Expected a whole number from 0 to 65,536. Choose another maximum length.",
        ),
    ],
)
def test_impossible_choices_are_told(untouched, options, expected):
    assert message(untouched, ConfigError, **options) == expected


def test_torch_cannot_run_a_bundle_without_weights_and_says_so(bundle):
    (bundle / "model.safetensors").unlink()
    edit(bundle, lambda config: config.update(graphs={"weights": config["files"].pop("model.safetensors")}))
    assert freerun.load(bundle).predict("a b").text
    assert message(bundle, runtime="torch") == (
        f"{bundle}: this bundle was exported without model.safetensors, so torch cannot run it. Expected a bundle with "
        "weights. Use the run or bundle that it was exported from; to predict, omit --runtime torch."
    )


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_source_longer_than_the_bound_is_told(untouched, runtime):
    predictor = freerun.load(untouched, runtime=runtime)
    predictor.longest_source = 5
    assert predictor.predict("a b c d").text
    with pytest.raises(
        DataError, match=r"^text 3: too long \(5 tokens\)\. Expected at most 4\. Split it into shorter texts\.$"
    ):
        predictor.predict_batch(["a", "b", "a b c d e"])
    with pytest.raises(DataError, match=r"^text 8: too long \(6 tokens\)"):
        predictor.predict_batch(["a b c d e f"], rows=[7])


def test_the_bound_of_a_source_is_what_a_batch_may_hold(untouched):
    with pytest.raises(DataError, match=r"too long \(32,768 tokens\)\. Expected at most 32,767\."):
        freerun.load(untouched).predict("a " * 32_768)


# ------------------------------------------------------------------------------------------------------ damaged graphs


@pytest.mark.parametrize("name", GRAPHS)
def test_a_missing_graph_is_told(bundle, name):
    (bundle / f"{name}.onnx").unlink()
    assert message(bundle) == (
        f"{bundle}: {name}.onnx is missing. Expected a complete bundle. "
        "Copy the whole directory again, or train the model again."
    )


@pytest.mark.parametrize("runtime", [None, "onnx"])
@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b.replace(b"Tanh", b"Relu"), lambda _: b""])
def test_a_truncated_or_edited_graph_is_told_with_both_hashes(bundle, damage, runtime):
    path = bundle / "greedy.onnx"
    before = path.read_bytes()
    path.write_bytes(damage(before))
    found, expected = bytes_hash(path.read_bytes())[:12], bytes_hash(before)[:12]
    assert found != expected
    assert message(bundle, runtime=runtime) == (
        f"{path}: the SHA-256 is {found}..., but {expected}... in config.json: truncated, changed, or from another "
        "bundle. Expected the file that was written with this bundle. Copy the whole bundle again."
    )


def test_a_graph_of_other_weights_is_told(bundle, tmp_path):
    other = exported(tmp_path / "other", model=network(2, torch.float32))
    put(bundle, "greedy.onnx", (other / "greedy.onnx").read_bytes())
    theirs, ours = (read_bundle(folder).weights_hash[:12] for folder in (other, bundle))
    assert message(bundle, runtime="onnx") == (
        f"{bundle / 'greedy.onnx'}: its metadata names weights {theirs!r}, the bundle has {ours!r}. Expected a file "
        f"that was exported from this bundle, by a freerun of this version. {AGAIN}"
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("freerun.graph", "step", "its metadata names graph 'step', the bundle has 'greedy'."),
        ("freerun.version", "2", "its metadata names version '2', the bundle has '1'."),
        ("freerun.precision", "int8", "its metadata names precision 'int8', the bundle has 'fp32'."),
        ("freerun.target_vocabulary", "abc", "its metadata names target_vocabulary 'abc', the bundle has '"),
        ("freerun.weights", None, "its metadata has no freerun.weights. Expected a file that freerun exported."),
    ],
)
def test_metadata_that_do_not_fit_are_told(bundle, key, value, expected):
    model = onnx.load(bundle / "greedy.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props} | {key: value}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: each for name, each in metadata.items() if each is not None})
    put(bundle, "greedy.onnx", model.SerializeToString())
    assert message(bundle, runtime="onnx").startswith(f"{bundle / 'greedy.onnx'}: {expected}")


def test_an_unsupported_opset_is_told(bundle):
    model = onnx.load(bundle / "greedy.onnx")
    model.opset_import[0].version = 9999
    put(bundle, "greedy.onnx", model.SerializeToString())
    assert message(bundle, runtime="onnx") == (
        f"{bundle / 'greedy.onnx'}: damaged: IR version 9 and opsets '' 9999; freerun writes 9 and '' 20. "
        f"Expected a graph that freerun exported, of this model's sizes. {AGAIN}"
    )


def test_what_onnxruntime_cannot_run_is_told():
    with pytest.raises(BundleError) as error:
        open_session(b"garbage", 1, "greedy.onnx")
    found = str(error.value)
    assert found.startswith("greedy.onnx: onnxruntime ") and " cannot run this graph (" in found
    assert found.endswith("or install another version of onnxruntime.") and len(found) < 700


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x08" * 50])
def test_what_is_no_graph_is_told_even_with_the_right_hash(bundle, content):
    put(bundle, "greedy.onnx", content)
    assert message(bundle, runtime="onnx").startswith(f"{bundle / 'greedy.onnx'}: damaged: ")


def test_search_checks_the_graphs_it_uses(bundle):
    put(bundle, "step.onnx", b"garbage")
    with pytest.raises(BundleError, match=r"step\.onnx: damaged: "):
        freerun.load(bundle, runtime="onnx").predict("a", freerun.Beam(2))


# ----------------------------------------------------------------------------------------------------- what is exported


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hidden_size", 5, "decoder.layers.0.bias_hh is (16,) and should be (20,)"),
        ("num_layers", 1, "decoder.layers.1.bias_hh is (16,), and the model has none"),
        ("attention", "dot", "decoder.attention.combine.weight is missing and should be (4, 8)"),
    ],
)
def test_weights_that_do_not_fit_the_sizes_are_told(tmp_path, key, value, expected):
    folder = write_model(tmp_path / "bundle").directory
    edit(folder, lambda config: config["model"].update({key: value}))
    with pytest.raises(BundleError) as error:
        graph_files(read_bundle(folder), "fp32")
    assert str(error.value) == (
        f"{folder / 'model.safetensors'}: the weights do not fit the sizes in config.json ({expected}). "
        "Expected the weights of this bundle. Copy the whole bundle again."
    )


def test_an_int8_product_is_its_own_arithmetic_in_numpy():
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(6, 5)).astype(np.float32), np.arange(5, dtype=np.float32)
    weight[:, 2] = 0
    x = generator.uniform(-2.5, 2.5, size=(4, 6)).astype(np.float32)
    graph = Graph("product")
    given = graph.input("x", FLOAT, ["B", 6])
    graph.output(Int8().product(graph, "w", given, LinearWeights(weight, bias), 2.0), FLOAT, ["B", 5], "y")
    (found,) = open_session(model_of(graph, {}), 1, "here").run(None, {"x": x})
    whole, scale = rounded(weight, 0, 64)
    assert np.abs(whole).max(axis=0).tolist() == [64, 64, 0, 64, 64]
    levels = np.clip(np.rint(x * 127 / 2), -128, 127)
    np.testing.assert_allclose(found, levels @ whole.astype(float) * scale * 2 / 127 + bias, rtol=1e-5, atol=1e-5)
    assert np.abs(weight - whole * scale).max() <= np.abs(weight).max() / 128 + 1e-6


@pytest.mark.parametrize("bidirectional", [True, False])
def test_int8_knows_how_large_the_first_states_of_projections_become(tmp_path, bidirectional):
    model = network(1, torch.float32, scale=1.5, bidirectional=bidirectional)
    folder = exported(tmp_path / "bundle", model=model)
    source = read_bundle(folder).source
    encoded = [source.encode(text) for text in TEXTS]
    h = [model.encode(torch.tensor([each]), None).state.h_LBH.detach() for each in encoded]
    expected = np.quantile(np.abs(np.concatenate(h, axis=1)), 0.999) if bidirectional else 1.0
    assert expected > 1 or not bidirectional
    assert first_state_limit(folder, encoded) == pytest.approx(expected, rel=1e-5)


def test_outputs_that_differ_are_refused(untouched):
    bundle, stepper = read_bundle(untouched), TableStepper(9)
    sources = random_sources(bundle, 3)
    found = [Hypothesis((4,), -9.0, (-4.0, -5.0), -9.0, False)] * 3
    with pytest.raises(
        BundleError,
        match=r"greedy\.onnx and torch differ by [\d.]+ in a token's log-probability\. Expected at most 0\.001",
    ):
        check_agreement(bundle, "greedy.onnx and torch", found, stepper, sources)
    nan = [Hypothesis((), float("nan"), (float("nan"),), 0.0, False)] * 3
    with pytest.raises(BundleError, match="differ by nan"):
        check_agreement(bundle, "both", nan, stepper, sources)


def test_random_sources_are_of_every_length_and_known(untouched):
    bundle = read_bundle(untouched)
    found = random_sources(bundle)
    assert {len(source) for source in found} == {*range(1, 13)}
    assert {number for source in found for number in source} <= {2, *range(4, len(bundle.source.vocabulary))}
