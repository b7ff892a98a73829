"""The compiled greedy search: when it is used, what it reads, and every damage to that is told."""

from __future__ import annotations

import ctypes
import io
import json
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import freerun
from freerun.bounds import MAX_LENGTH
from freerun.errors import BundleError, ConfigError
from freerun.onnx_export.graph_files import graph_files
from freerun.runtime import compiled, compiled_greedy
from freerun.runtime.bundle import read_bundle
from freerun.runtime.compiled import LIBRARY, library
from freerun.runtime.compiled_beam import CompiledBeam
from freerun.runtime.compiled_greedy import CompiledGreedy
from freerun.runtime.compiled_model import CompiledModel
from freerun.runtime.onnx_greedy import OnnxGreedy
from freerun.search.methods import Greedy
from freerun.search.searcher import StepperSearcher
from freerun.symbols import EOS
from tests.compiled import BUILD, needs_compiler
from tests.exported import ArraysOf
from tests.networks import COMPILED_CELLS, network
from tests.unit.test_export import TEXTS, bundle, edit, exported, message, put, untouched

pytestmark = needs_compiler
AGAIN = "Expected a file as freerun export wrote it. Export again: freerun export MODEL."


def arrays(folder):
    with np.load(folder / "greedy.npz") as file:
        return dict(file)


def rewrite(folder, **changes):
    """greedy.npz with some arrays exchanged, or without those that are None."""
    kept = {name: array for name, array in (arrays(folder) | changes).items() if array is not None}
    file = io.BytesIO()
    np.savez(file, **kept)
    put(folder, "greedy.npz", file.getvalue())


# ------------------------------------------------------------------------------------------------------------ what runs


def test_an_installation_with_a_compiler_has_the_library():
    assert library() is not None
    assert library().freerun_instructions() in (b"avx512", b"avx2", b"base")


def test_plain_greedy_search_is_compiled_unless_another_runtime_is_asked_for(untouched):
    assert isinstance(freerun.load(untouched).searcher.decoder, CompiledGreedy)
    assert isinstance(freerun.load(untouched, runtime="onnx").searcher.decoder, OnnxGreedy)
    assert isinstance(freerun.load(untouched, runtime="torch").searcher, StepperSearcher)


def test_beam_search_is_compiled_too(untouched):
    assert isinstance(freerun.load(untouched).searcher.beam_decoder, CompiledBeam)
    assert freerun.load(untouched, runtime="onnx").searcher.beam_decoder is None


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"attention": "bahdanau"}, {"values": 1.0, "query": 0.5, "state": 0.5}),
        ({"attention": "concat", "input_feeding": True}, {"values": 1.0, "query": 0.5, "state": 0.5, "fed": 1.0}),
        ({"attention": "general"}, {"values": 1.0, "state": 0.5}),
    ],
)
def test_in_int8_only_what_reads_a_state_of_the_decoder_has_its_limit(options, steps):
    content = ArraysOf(network(1, torch.float32, **options), "int8", 0.5).checked_bytes("greedy.npz")
    with np.load(io.BytesIO(content)) as file:
        found = {name.split(".")[1]: float(file[name]) * 127 for name in file if name.endswith(".step")}
        found = {name: found[name] for name in ("values", "query", "state", "fed") if f"attention.{name}.step" in file}
    assert found == pytest.approx(steps)


def test_without_the_library_or_arrays_onnxruntime_does_it(untouched, tmp_path, monkeypatch):
    expected = [each.tokens for each in freerun.load(untouched).predict_batch(TEXTS)]
    monkeypatch.setattr(compiled, "LIBRARY", tmp_path / "nothing.so")
    library.cache_clear()
    try:
        predictor = freerun.load(untouched)
        assert isinstance(predictor.searcher.decoder, OnnxGreedy)
        assert [each.tokens for each in predictor.predict_batch(TEXTS)] == expected
    finally:
        library.cache_clear()


WITHOUT_ONNXRUNTIME = """
import sys
sys.modules["onnxruntime"] = sys.modules["torch"] = sys.modules["numba"] = None
import freerun
from types import SimpleNamespace
model = freerun.load(sys.argv[1], precision=sys.argv[2])
for search, number in ((freerun.Greedy(), 1), (freerun.Beam(3, 2, 0.6), 2), (freerun.Sampling(2, seed=1), 2)):
    for prefix in ("", "v"):
        assert len(model.predict("a b", search, prefix).hypotheses) == number
(scored,) = model.score_stream([SimpleNamespace(source="a b", target="v w")])
assert scored.score < 0
"""


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("attention", ["none", "general", "bahdanau"])
def test_an_exported_model_needs_no_onnxruntime(tmp_path, attention, precision):
    bundle = exported(tmp_path / "bundle", model=network(1, torch.float32, attention=attention))
    if precision == "int8":
        for name, content in graph_files(read_bundle(bundle), "int8").items():
            put(bundle, name, content)
    subprocess.run([sys.executable, "-c", WITHOUT_ONNXRUNTIME, bundle, precision], check=True)


def test_what_is_no_library_or_another_one_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "greedy.so").write_bytes(b"nonsense")
    for path in (tmp_path / "greedy.so", Path("libc.so.6")):
        monkeypatch.setattr(compiled, "LIBRARY", path)
        assert library.__wrapped__() is None
    monkeypatch.setattr(compiled, "LIBRARY", LIBRARY)
    assert library.__wrapped__() is not None
    monkeypatch.setattr(compiled, "_VERSION", 1)
    assert library.__wrapped__() is None


def test_all_runtimes_predict_the_same_texts(untouched):
    found = {
        runtime: freerun.load(untouched, runtime=runtime).predict_batch(TEXTS * 5)
        for runtime in (None, "onnx", "torch")
    }
    for runtime in ("onnx", "torch"):
        for one, other in zip(found[None], found[runtime], strict=True):
            assert (one.text, one.unknown) == (other.text, other.unknown)
            assert one.hypotheses[0].truncated == other.hypotheses[0].truncated
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert one.hypotheses[0].rank_score == one.score == sum(one.hypotheses[0].token_scores)


def test_threads_that_share_it_do_not_disturb_each_other(untouched):
    predictor = freerun.load(untouched)
    found, expected = {}, freerun.load(untouched).predict_batch(TEXTS * 20)

    def work(number):
        found[number] = predictor.predict_batch(TEXTS * 20)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == expected for number in range(4))


def test_sources_are_shared_out_among_threads_without_a_difference(untouched, monkeypatch):
    expected = freerun.load(untouched).predict_batch(TEXTS * 60)
    calls = []
    decoded = CompiledGreedy._decoded
    monkeypatch.setattr(
        CompiledGreedy, "_decoded", lambda *how: calls.append((threading.get_ident(), len(how[3]))) or decoded(*how)
    )
    assert freerun.load(untouched, threads=2).predict_batch(TEXTS * 60) == expected
    assert sorted(size for _, size in calls) == [34, *[38] * 7]
    assert threading.get_ident() not in {thread for thread, _ in calls}
    assert freerun.load(untouched, threads=2).predict(TEXTS[0]) == expected[0]
    assert calls[-1] == (threading.get_ident(), 1)


def test_a_huge_bound_takes_no_memory(untouched, monkeypatch):
    monkeypatch.setattr(compiled_greedy, "_MAX_ROOM", 1000)
    expected = freerun.load(untouched).predict_batch(TEXTS)
    assert [parts.stop - parts.start for parts in compiled_greedy._parts([400, 400, 500, 1000, 0, 0, 5000], 1)] == [
        2,
        1,
        1,
        2,
        1,
    ]
    for bound in (400, MAX_LENGTH.high):
        assert freerun.load(untouched, max_length=bound).predict_batch(TEXTS) == expected


def test_bounds_cut_off_and_bad_ones_are_told(untouched):
    predictor = freerun.load(untouched, max_length=0)
    (hypothesis,) = predictor.predict("a b c").hypotheses
    assert (hypothesis.tokens, hypothesis.truncated, hypothesis.score) == ((), True, 0)
    with pytest.raises(ConfigError, match=r"^max_length: [a-z ]+ -1\. Expected a whole number from 0 to 65,536\."):
        freerun.load(untouched, max_length=-1).predict("a")
    assert predictor.predict_batch([]) == []
    assert predictor.searcher.search([], [], Greedy()) == []


@pytest.mark.parametrize("wrong", [-1, 11, 2**40])
def test_an_id_beyond_the_vocabulary_is_refused(wrong):
    greedy = CompiledGreedy(CompiledModel(ArraysOf(network(1, torch.float32))))
    assert greedy([[10, EOS]], [3])
    with pytest.raises(ValueError, match="outside the source vocabulary"):
        greedy([[10, EOS], [4, wrong, EOS]], [3, 3])


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match=r"^a source is empty"):
        CompiledGreedy(CompiledModel(ArraysOf(network(1, torch.float32))))([[10, EOS], []], [3, 3])


def test_a_certain_token_has_a_score_of_0_and_equal_tokens_are_taken_in_their_order():
    model = network(1, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    greedy = CompiledGreedy(CompiledModel(ArraysOf(model)))
    (found,) = greedy([[4, EOS]], [3])
    assert (found.ids, found.token_scores) == ((), pytest.approx([-np.log(9)], abs=1e-6))  # EOS is the lowest of all
    with torch.no_grad():
        model.decoder.output_bias[:] = torch.tensor([199.0, 199, 0, 199, 0, 50, 50, 0, 0])
    (found,) = CompiledGreedy(CompiledModel(ArraysOf(model)))([[4, EOS]], [2])
    # PAD, BOS and UNK are never written, but they take their share
    assert (found.ids, found.truncated) == ((5, 5), True)
    assert found.token_scores == pytest.approx([-149 - np.log(3)] * 2, abs=1e-4)
    with torch.no_grad():
        model.decoder.output_bias[:] = torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 0, 200])
    (found,) = CompiledGreedy(CompiledModel(ArraysOf(model)))([[4, EOS]], [1])
    assert (found.ids, found.token_scores) == ((8,), (0.0,))


def test_saturated_gates_and_huge_weights_give_what_torch_gives(tmp_path):
    for cell in COMPILED_CELLS:
        folder = exported(tmp_path / cell, model=network(3, torch.float32, scale=60, cell=cell))
        found, expected = (freerun.load(folder, runtime=runtime).predict_batch(TEXTS) for runtime in (None, "torch"))
        assert [each.tokens for each in found] == [each.tokens for each in expected]
        np.testing.assert_allclose([each.score for each in found], [each.score for each in expected], rtol=1e-5)


def test_a_long_source_and_a_long_output_are_no_matter(untouched):
    text = "a b c d e f g " * 400
    found, expected = (freerun.load(untouched, runtime=runtime).predict(text) for runtime in (None, "torch"))
    assert found.tokens == expected.tokens
    assert found.score == pytest.approx(expected.score, rel=1e-4)


# ------------------------------------------------------------------------------------------------------ damaged arrays


def test_equal_weights_give_equal_arrays(untouched, tmp_path):
    assert (exported(tmp_path / "other") / "greedy.npz").read_bytes() == (untouched / "greedy.npz").read_bytes()


def test_missing_arrays_are_told_when_the_bundle_is_read(bundle):
    (bundle / "greedy.npz").unlink()
    assert message(bundle).startswith(f"{bundle}: greedy.npz is missing. Expected a complete bundle.")


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda _: b"", lambda b: b[:99] + b"?" + b[100:]])
def test_truncated_or_edited_arrays_are_told(bundle, damage):
    path = bundle / "greedy.npz"
    path.write_bytes(damage(path.read_bytes()))
    assert message(bundle).startswith(f"{path}: the SHA-256 is ")


def bare():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def foreign():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("readme.txt", "no array")
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04" + bytes(50), bare()])
def test_what_is_no_npz_is_told_even_with_the_right_hash(bundle, content):
    put(bundle, "greedy.npz", content)
    found = message(bundle)
    assert found.startswith(f"{bundle / 'greedy.npz'}: damaged: not an .npz file of numbers (")
    assert found.endswith(AGAIN)


def test_a_zip_of_other_things_is_told(bundle):
    put(bundle, "greedy.npz", foreign())
    assert message(bundle).startswith(f"{bundle / 'greedy.npz'}: damaged: not an .npz file of numbers (")


def test_pickled_objects_are_not_read(bundle):
    rewrite(bundle, **{"decoder.0.table": np.array([{}, print], dtype=object)})
    assert "not an .npz file of numbers (cannot create an OBJECT array from memory buffer)" in message(bundle)


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("decoder.0.table", lambda a: a[:-1], "float32 (8, 16), but should be float32 (9, 16)"),
        ("encoder.1.forward.input.weight", lambda a: a.T, "float32 (16, 4), but should be float32 (4, 16)"),
        (
            "decoder.1.recurrent.weight",
            lambda a: a.astype(np.float64),
            "float64 (4, 16), but should be float32 (4, 16)",
        ),
        ("output.bias", lambda a: a[1:], "float32 (8,), but should be float32 (9,)"),
        ("output.weight", lambda a: None, "missing, but should be float32 (4, 9)"),
        ("source_embedding", lambda a: a[:, :-1], "float32 (11, 2), but should be float32 (11, 3)"),
        ("output.weight", lambda a: a.astype(np.int8), "int8 (4, 9), but should be float32 (4, 9)"),
    ],
)
def test_arrays_that_do_not_fit_the_sizes_are_told(bundle, name, change, what):
    rewrite(bundle, **{name: change(arrays(bundle)[name])})
    assert message(bundle) == f"{bundle / 'greedy.npz'}: damaged: {name} is {what}. {AGAIN}"


@pytest.mark.parametrize(("side", "ids"), [("source", 11), ("target", 9)])
def test_sizes_that_are_not_those_of_the_vocabularies_are_told(bundle, side, ids):
    edit(bundle, lambda config: config["model"].update({f"{side}_vocabulary": 1}))
    assert message(bundle) == (
        f"{bundle / 'config.json'}: damaged: model.{side}_vocabulary is 1, but the {side} vocabulary has {ids} "
        "ids. Expected the sizes of this bundle's model. Copy the whole bundle again."
    )


@pytest.mark.parametrize("name", ["encoder.0.forward.input.bias", "decoder.1.input.bias", "output.bias"])
def test_a_missing_bias_is_told(bundle, name):
    rewrite(bundle, **{name: None})
    assert f"damaged: {name} is missing, but should be float32 (" in message(bundle)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_told(bundle, value):
    bias = arrays(bundle)["output.bias"]
    bias[3] = value
    rewrite(bundle, **{"output.bias": bias})
    assert message(bundle) == (f"{bundle / 'greedy.npz'}: damaged: output.bias has values that are not finite. {AGAIN}")


def test_more_layers_than_arrays_are_told_at_once(bundle):
    edit(bundle, lambda config: config["model"].update(num_layers=1000))
    assert "arrays, too few for 1000 layers." in message(bundle)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("output.weight", np.full((4, 9), 65, np.int8), "output.weight has values outside -64 to 64"),
        ("output.weight", np.full((4, 9), -128, np.int8), "output.weight has values outside -64 to 64"),
        ("output.step", np.array(0, np.float32), "output.step is 0, but should be above 0"),
        ("output.scale", np.zeros(8, np.float32), "output.scale is float32 (8,), but should be float32 (9,)"),
        ("source_embedding.scale", np.zeros((11, 2), np.float32), "source_embedding is int8 (11, 3), but should be "),
        ("source_embedding.scale", np.zeros((11, 1)), "source_embedding is int8 (11, 3), but should be "),
        ("output.step", np.array("x"), "output.step is not an array of numbers"),
    ],
)
def test_8_bits_that_could_not_be_multiplied_are_told(tmp_path, name, value, what):
    folder = exported(tmp_path / "bundle")
    exported_too = graph_files(read_bundle(folder), "int8")
    for file, content in exported_too.items():
        put(folder, file, content)
    with np.load(folder / "greedy.int8.npz") as file:
        kept = dict(file) | {name: value}
    content = io.BytesIO()
    np.savez(content, **kept)
    put(folder, "greedy.int8.npz", content.getvalue())
    assert f"greedy.int8.npz: damaged: {what}" in message(folder, precision="int8")


def test_outputs_longer_than_the_first_room_are_written_whole():
    model = network(1, torch.float32)
    with torch.no_grad():
        model.decoder.output_bias[EOS] = -99
    greedy = CompiledGreedy(CompiledModel(ArraysOf(model)))
    sources, bounds = [[4, EOS], [5, 6, EOS], [7, EOS]], [40, 3, 9]
    expected = greedy(sources, bounds)
    assert [len(each.ids) for each in expected] == bounds
    assert greedy._decoded(greedy._model(), ctypes.c_int32(), sources, bounds, 1) == expected


def test_an_evaluation_measures_what_predicts(untouched, tmp_path, monkeypatch):
    (tmp_path / "pairs.tsv").write_text("a b\tv\nc\tw\n")
    calls = []
    called = CompiledGreedy._called
    monkeypatch.setattr(CompiledGreedy, "_called", lambda *how: calls.append(how) or called(*how))
    found = freerun.evaluate(untouched, tmp_path / "pairs.tsv")
    assert len(calls) == 1
    texts = [each.text for each in freerun.load(untouched).predict_batch(["a b", "c"])]
    assert found.outputs == texts
    freerun.evaluate(untouched, tmp_path / "pairs.tsv", beam_size=2)
    assert len(calls) == 2  # the prediction's


def test_a_model_that_the_library_rejects_is_an_error_of_the_arrays():
    greedy = CompiledGreedy(CompiledModel(ArraysOf(network(1, torch.float32))))
    assert greedy([[4, EOS]], [3])
    greedy._model.memory[0].layers = 0
    with pytest.raises(BundleError) as caught:
        greedy([[4, EOS]], [3])
    assert str(caught.value) == f"bundle/greedy.npz: damaged: the compiled library rejects its sizes. {AGAIN}"


def test_an_array_too_many_is_told(bundle):
    rewrite(bundle, more=np.zeros(3, np.float32))
    assert message(bundle) == f"{bundle / 'greedy.npz'}: damaged: an unexpected array: more. {AGAIN}"


def test_arrays_of_other_weights_are_told(bundle, tmp_path):
    other = exported(tmp_path / "other", model=network(2, torch.float32))
    put(bundle, "greedy.npz", (other / "greedy.npz").read_bytes())
    theirs, ours = (read_bundle(folder).weights_hash[:12] for folder in (other, bundle))
    assert message(bundle).startswith(
        f"{bundle / 'greedy.npz'}: its metadata names weights {theirs!r}, the bundle has {ours!r}."
    )


@pytest.mark.parametrize("metadata", [None, b"", b"[1]", b"{", b'{"freerun.graph": 1}', b"[" * 100_000])
def test_arrays_without_metadata_are_told(bundle, metadata):
    rewrite(bundle, metadata=None if metadata is None else np.frombuffer(metadata, np.uint8))
    assert message(bundle).startswith(f"{bundle / 'greedy.npz'}: its metadata has no freerun.graph.")


def test_arrays_of_the_other_precision_are_told(bundle):
    content = graph_files(read_bundle(bundle), "int8")["greedy.int8.npz"]
    put(bundle, "greedy.npz", content)
    assert "its metadata names precision 'int8', the bundle has 'fp32'." in message(bundle)


def test_a_bundle_of_an_older_export_has_no_arrays_and_runs(bundle):
    (bundle / "greedy.npz").unlink()
    edit(bundle, lambda config: config["files"].pop("greedy.npz"))
    assert isinstance(freerun.load(bundle).searcher.decoder, OnnxGreedy)
    assert freerun.load(bundle).predict("a b").text


# ------------------------------------------------------------------------------------------------------------- building


def test_a_compiler_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "false --really")
    with pytest.raises(subprocess.CalledProcessError):
        BUILD["build"](tmp_path / "greedy.so")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match=r"no C compiler was found \(cc, gcc, clang, or the one that CC names\)"):
        BUILD["build"](tmp_path / "greedy.so")
    monkeypatch.setenv("CC", "'cc")
    with pytest.raises(ValueError, match="quotation"):
        BUILD["build"](tmp_path / "greedy.so")
    assert list(tmp_path.iterdir()) == []
    assert LIBRARY.exists()


def test_the_model_card_of_the_arrays_says_what_the_graphs_say(untouched):
    found = json.loads(arrays(untouched)["metadata"].tobytes())
    assert found["freerun.graph"] == "greedy" and found["freerun.weights"] == read_bundle(untouched).weights_hash


__all__ = ["bundle", "untouched"]
