"""Damaged bundles, most of them with hashes that fit the damage: each gives a result or a BundleError."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.numpy import load, save

from freerun.api.model_export import export
from freerun.data.codec import Codec
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import BundleError, DataError
from freerun.files import bytes_hash
from freerun.loading import load as load_predictor
from freerun.runtime.bundle import WEIGHTS
from freerun.search.methods import Beam, Sampling
from freerun.text import json_line, one_line
from tests.exported import codecs_of_pieces, graph_files, write_model
from tests.fuzz.damage import damaged_bytes, damaged_json
from tests.networks import network

TEXTS = ["a b c", "", "g", "zz ü \u202e a", "a " * 30]
FEATURE_TEXTS = ["A;B", "", "C", "A;\u202e;new", "A;B;C;" * 30]
FEATURES = {"feature_vocabulary": 7, "feature_encoder": "summary"}
MAX_LENGTH = 20


class Bundles:
    """A few small exported bundles; a case damages one and uses it in one of the ways there are."""

    name = "bundles"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._whole = [folder / name for name in ("plain", "attention", "recurrent", "pieces", "summary", "sequence")]
        _write(self._whole[0], network(1, torch.float32, scale=1.5))
        _write(
            self._whole[1],
            network(2, torch.float32, cell="lstm", attention="general", bidirectional=True, input_feeding=True),
        )
        _write(self._whole[2], network(3, torch.float32, cell="rnn", attention="bahdanau", tied_output=True))
        _write_pieces(self._whole[3])
        _write(self._whole[4], network(5, torch.float32, cell="gru", **FEATURES))
        _write(
            self._whole[5],
            network(6, torch.float32, attention="dot", **{**FEATURES, "feature_encoder": "sequence"}),
        )

    def __call__(self, number: int) -> str:
        """Damage, load and use; raises whatever is not a BundleError."""
        draw = random.Random(number)
        whole, other = draw.sample(self._whole, 2)
        case = self._folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(whole, case)
        for _ in range(draw.choice([1, 1, 1, 2])):
            _damage(draw, case, other)
        return _use(draw, case)


def _write(folder: Path, model) -> None:
    bundle = write_model(folder, model)
    _add_graphs(folder, bundle, ("fp32", "int8"))


def _write_pieces(folder: Path) -> None:
    source, target = codecs_of_pieces(24, 100)
    source = Codec(CharTokenizer(), Vocabulary(list("abcdefg")))
    sizes = {"source_vocabulary": len(source.vocabulary), "target_vocabulary": len(target.vocabulary)}
    bundle = write_model(folder, network_of(**sizes), source=source, target=target)
    _add_graphs(folder, bundle, ("fp32",))


def network_of(source_vocabulary: int, target_vocabulary: int):
    """A small model for other vocabularies."""
    from freerun.architecture import Architecture
    from freerun.models.seq2seq import Seq2Seq
    from tests.networks import randomise

    sizes = Architecture(
        source_vocabulary=source_vocabulary,
        target_vocabulary=target_vocabulary,
        embedding_size=3,
        hidden_size=4,
        num_layers=1,
    )
    made = Seq2Seq(sizes)
    return randomise(made, 4, dtype=torch.float32)


def _add_graphs(folder: Path, bundle, precisions) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    for precision in precisions:
        for name, content in graph_files(bundle, precision).items():
            (folder / name).write_bytes(content)
            config["files"][name] = bytes_hash(content)
    config["graphs"] = {"weights": bundle.weights_hash}
    (folder / "config.json").write_text(json.dumps(config))


# -- damage -----------------------------------------------------------------------------------------------------------


def _damage(draw, case: Path, other: Path) -> None:
    names = sorted(path.name for path in case.iterdir() if path.is_file() and not path.is_symlink())
    name = draw.choice(names)
    path = case / name
    if draw.random() < 0.04:
        _make_odd(draw, path)
        return
    content = path.read_bytes()
    theirs = (other / name).read_bytes() if (other / name).exists() else b""
    found = _damaged(draw, name, content, theirs)
    path.write_bytes(found)
    if name != "config.json" and draw.random() < 0.9:
        _take_hash(case, name, found)


def _damaged(draw, name: str, content: bytes, other: bytes) -> bytes:
    change = SPECIAL.get(Path(name).suffix)
    if change is not None and draw.random() < 0.7:
        try:
            return change(draw, content)
        except Exception:  # noqa: BLE001 (it was damaged before, and cannot be read any more)
            return damaged_bytes(draw, content, other)
    if other and draw.random() < 0.05:
        return other
    return damaged_bytes(draw, content, other)


def _take_hash(case: Path, name: str, content: bytes) -> None:
    if (case / "config.json").is_symlink() or not (case / "config.json").is_file():  # it may have no end
        return
    try:
        config = json.loads((case / "config.json").read_bytes())
        config["files"][name] = bytes_hash(content)
        (case / "config.json").write_text(json.dumps(config))
    except (ValueError, KeyError, TypeError, RecursionError, OSError):
        return  # config.json was damaged, too


def _make_odd(draw, path: Path) -> None:
    path.unlink()
    match draw.randrange(5):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to("/dev/zero")
        case 3:
            path.symlink_to(path.name)
        case 4:
            pass  # missing


def _odd_array(draw, array: np.ndarray) -> np.ndarray:
    array = array.copy()
    match draw.randrange(7):
        case 0 if array.size and array.dtype.kind == "f":
            array.flat[draw.randrange(array.size)] = draw.choice([np.nan, np.inf, -np.inf])
        case 1 if array.dtype.kind == "f":
            with np.errstate(all="ignore"):
                array *= draw.choice([1e20, 3e38, -1e30, 0])
        case 2:
            array = array.reshape(-1)
        case 3:
            array = array[..., :-1] if array.ndim else array
        case 4:
            array = array.astype(draw.choice(["f2", "f8", "i1", "i8", "u1", "c8", "?"]))
        case 5:
            array = array.T
        case _:
            array = np.concatenate([array.reshape(-1)] * 3)
    return np.ascontiguousarray(array)


def _damaged_weights(draw, content: bytes) -> bytes:
    if draw.random() < 0.5:
        arrays = load(content)
        name = draw.choice(sorted(arrays))
        match draw.randrange(4):
            case 0:
                del arrays[name]
            case 1:
                arrays[f"{name}.more"] = arrays[name]
            case _:
                arrays[name] = _odd_array(draw, arrays[name])
        return save(arrays)
    length = int.from_bytes(content[:8], "little")
    header = damaged_json(draw, content[8 : 8 + length])
    told = draw.choice([len(header)] * 5 + [0, 1, 2**40, 2**63, len(header) + 1])
    return told.to_bytes(8, "little") + header + content[8 + length :]


def _damaged_arrays(draw, content: bytes) -> bytes:
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    name = draw.choice(sorted(arrays))
    match draw.randrange(6):
        case 0:
            del arrays[name]
        case 1:
            arrays[f"{name}.more"] = arrays[name]
        case 2 if name == "metadata":
            arrays[name] = np.frombuffer(damaged_json(draw, arrays[name].tobytes()), np.uint8)
        case 3:
            arrays[name] = np.zeros(draw.choice([10**6, 10**7]), np.int8)
        case _:
            arrays[name] = _odd_array(draw, arrays[name])
    file = io.BytesIO()
    (np.savez_compressed if draw.random() < 0.3 else np.savez)(file, **arrays)
    if draw.random() < 0.2:
        return _with_another_header(draw, file.getvalue())
    return file.getvalue()


def _with_another_header(draw, content: bytes) -> bytes:
    """One array's header names another shape or type."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        chosen = draw.choice(old.namelist())
        for name in old.namelist():
            raw = old.read(name)
            if name == chosen:
                shape = draw.choice([b"(10000000000,)", b"(-1,)", b"(3, 'a')", b"(" * 300, b"()", b"(2**60,)"])
                kind = draw.choice([b"'<f4'", b"'|O'", b"'<U9'", b"[('a', '<f4')]"])
                text = b"{'descr': " + kind + b", 'fortran_order': False, 'shape': " + shape + b", }\n"
                raw = raw[:8] + len(text).to_bytes(2, "little") + text + raw[128:]
            new.writestr(name, raw)
    return made.getvalue()


def _damaged_graph(draw, content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    graphs = [model.graph, *(a.g for n in model.graph.node for a in n.attribute if a.HasField("g"))]
    graph = draw.choice(graphs)
    nodes, constants = graph.node, model.graph.initializer
    match draw.randrange(10):
        case 0 if nodes:
            draw.choice(nodes).op_type = draw.choice(["Loop", "If", "Expand", "MatMul", "Foo", "Tile", "Range", "Scan"])
        case 1 if nodes:
            draw.choice(nodes).domain = draw.choice(["ai.onnx.ml", "com.microsoft", "x"])
        case 2 if nodes:
            node = draw.choice(nodes)
            if node.input:
                node.input[draw.randrange(len(node.input))] = draw.choice(
                    ["", *[n.output[0] for n in nodes if n.output]]
                )
        case 3:
            constant = draw.choice(constants)
            constant.data_location = onnx.TensorProto.EXTERNAL
            entry = constant.external_data.add()
            entry.key, entry.value = "location", draw.choice(["/etc/passwd", "config.json", "../x", ""])
        case 4:
            constant = draw.choice(constants)
            if constant.data_type == onnx.TensorProto.INT64:
                size = max(1, len(constant.raw_data) // 8)
                odd = draw.choice([-1, 2**31, 2**40, 2**63 - 1, 0])
                constant.raw_data = np.full(size, odd, np.int64).tobytes()
            else:
                constant.raw_data = damaged_bytes(draw, constant.raw_data)
        case 5:
            constant = draw.choice(constants)
            constant.dims[:] = draw.choice([[], [0], [2**40], [-1], [1] * 50, list(constant.dims) * 2])
        case 6 if nodes:
            del nodes[draw.randrange(len(nodes))]
        case 7:
            value = draw.choice([*graph.input, *graph.output])
            value.name = draw.choice(["x", "", "tokens", "scores"])
        case 8:
            value = draw.choice([*graph.input, *graph.output])
            value.type.tensor_type.elem_type = draw.choice([1, 2, 7, 8, 9, 10, 0, 99])
        case _:
            constant = draw.choice(constants)
            if constant.data_type == onnx.TensorProto.FLOAT and constant.raw_data:
                numbers = np.frombuffer(constant.raw_data, np.float32)
                factor = np.float32(draw.choice([np.nan, np.inf, 1e30, 0]))
                with np.errstate(all="ignore"):
                    constant.raw_data = (numbers * factor).tobytes()
    return model.SerializeToString()


SPECIAL = {
    ".json": damaged_json,
    ".npz": _damaged_arrays,
    ".safetensors": _damaged_weights,
    ".onnx": _damaged_graph,
}


# -- use --------------------------------------------------------------------------------------------------------------


def _use(draw, case: Path) -> str:
    runtime = draw.choice([None, None, "onnx", "torch"])
    precision = "fp32" if runtime == "torch" else draw.choice(["fp32", "fp32", "int8"])
    search = draw.choice([Beam(), Beam(), Beam(3, 2), Beam(2, 1, 1.0), Sampling(2)])
    try:
        predictor = load_predictor(case, max_length=MAX_LENGTH, runtime=runtime, precision=precision, threads=1)
        has_features = predictor.source.features is not None  # the damage may be that it has, or that it has not
        found = predictor.predict_batch([*zip(TEXTS, FEATURE_TEXTS, strict=True)] if has_features else TEXTS, search)
        pair = Pair("a b", "v w x", 1, "A" if has_features else None)
        scored = list(predictor.score_stream([pair])) if draw.random() < 0.1 else []
    except BundleError as error:
        _check_message(str(error))
        return "rejected"
    except DataError:
        return "rejected a text"
    for prediction in found:
        for hypothesis in prediction.hypotheses:
            assert len(hypothesis.tokens) <= MAX_LENGTH
            assert len(one_line(hypothesis.text).splitlines()) <= 1
            json_line({"text": hypothesis.text, "scores": hypothesis.token_scores, "score": hypothesis.score}).encode()
    for each in scored:
        json_line(each.score)
    if draw.random() < 0.01 and WEIGHTS in json.loads((case / "config.json").read_bytes())["files"]:
        _export_again(case)
    return "used"


def _export_again(case: Path) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            export(case, case.with_name("exported-again"))
    except BundleError as error:
        _check_message(str(error))
    finally:
        shutil.rmtree(case.with_name("exported-again"), ignore_errors=True)


def _check_message(text: str) -> None:
    assert 20 < len(text) < 2000, text
    text.encode()


__all__ = ["Bundles"]
