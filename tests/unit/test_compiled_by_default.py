"""A model that was not exported runs in the compiled library, if that is possible."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import freerun
from freerun.onnx_export.graph_files import graph_files
from freerun.runtime import compiled_greedy
from freerun.runtime.bundle import WEIGHTS
from freerun.runtime.compiled_arrays import arrays_in_memory
from freerun.runtime.compiled_file import read_arrays
from tests.exported import write_model
from tests.networks import network

TEXTS = ["a b", "c", "d e f g", "g a", "b b b"]
MODELS = {
    "lstm": {},
    "luong": {"cell": "gru", "attention": "general", "input_feeding": True},
    "bahdanau": {"cell": "lstm", "attention": "bahdanau", "num_layers": 2, "bidirectional": True},
    "features": {"attention": "bahdanau", "feature_vocabulary": 7, "feature_encoder": "both"},
}


def bundle(directory, name):
    return write_model(directory, network(3, torch.float32, scale=1.5, **MODELS[name]))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "features"])
@pytest.mark.parametrize("search", [freerun.Beam(beam_size=1), freerun.Beam(beam_size=3)], ids=["greedy", "beam"])
def test_it_writes_what_torch_writes(tmp_path, name, search):
    bundle(tmp_path / "model", name)
    ours = freerun.load(tmp_path / "model").predict_batch(TEXTS, search)
    torchs = freerun.load(tmp_path / "model", runtime="torch").predict_batch(TEXTS, search)
    assert [each.text for each in ours] == [each.text for each in torchs]
    np.testing.assert_allclose([each.score for each in ours], [each.score for each in torchs], rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_arrays_in_memory_are_those_of_an_export(tmp_path, name):
    """Bytes, so that predictions do not depend on whether a model was exported."""
    made = bundle(tmp_path / "model", name)
    in_memory = arrays_in_memory(made)
    content = graph_files(made, "fp32")["greedy.npz"]

    class Exported:
        directory, config, model, source, target, weights_hash = (
            made.directory, made.config, made.model, made.source, made.target, made.weights_hash
        )  # fmt: skip

        @staticmethod
        def checked_bytes(name):
            return content

    exported = read_arrays(Exported, "fp32")
    assert in_memory.keys() == exported.keys()
    for key, values in exported.items():
        assert np.asarray(in_memory[key]).tobytes() == values.tobytes(), key


def test_it_does_not_import_torch(tmp_path):
    bundle(tmp_path / "model", "bahdanau")
    code = (
        "import sys; sys.modules.update(torch=None, onnxruntime=None, onnx=None, numba=None)\n"
        "import freerun\n"
        f"print(freerun.load({str(tmp_path / 'model')!r}).predict('a b').text)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == freerun.load(tmp_path / "model", runtime="torch").predict("a b").text


def test_outputs_do_not_depend_on_the_batch_or_the_threads(tmp_path):
    bundle(tmp_path / "model", "bahdanau")
    texts = TEXTS * 30
    alone = [freerun.load(tmp_path / "model").predict(text) for text in TEXTS] * 30
    assert freerun.load(tmp_path / "model").predict_batch(texts) == alone
    assert freerun.load(tmp_path / "model", threads=3).predict_batch(texts) == alone


@pytest.mark.parametrize("reason", ["the cell", "no library"])
def test_torch_runs_what_the_library_cannot(tmp_path, monkeypatch, reason):
    model = network(3, torch.float32, scale=1.5, cell="mingru" if reason == "the cell" else "lstm")
    write_model(tmp_path / "model", model)
    if reason == "no library":
        monkeypatch.setattr(compiled_greedy, "library", lambda: None)
    else:
        monkeypatch.setattr("freerun.loading.CompiledModel", None)  # a call would fail
    found = freerun.load(tmp_path / "model").predict_batch(TEXTS)
    assert found == freerun.load(tmp_path / "model", runtime="torch").predict_batch(TEXTS)


def test_damaged_weights_are_reported_when_the_model_is_loaded(tmp_path):
    bundle(tmp_path / "model", "lstm")
    path = tmp_path / "model" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(freerun.BundleError, match=r"model\.safetensors"):
        freerun.load(tmp_path / "model")


def test_weights_whose_products_overflow_are_reported(tmp_path):
    """Embedding times input weight is infinite, though every weight is finite."""
    model = network(3, torch.float32)
    with torch.no_grad():
        model.decoder.embedding.weight.fill_(1e30)
        model.decoder.layers[0].weight_ih.fill_(1e30)
    write_model(tmp_path / "model", model)
    with pytest.raises(freerun.BundleError) as caught:
        freerun.load(tmp_path / "model")
    assert "too large for float32 (decoder.0.table)" in str(caught.value)


def test_int8_still_needs_an_export(tmp_path):
    bundle(tmp_path / "model", "lstm")
    with pytest.raises(freerun.BundleError, match=r"freerun export .* --quantize int8"):
        freerun.load(tmp_path / "model", precision="int8")
