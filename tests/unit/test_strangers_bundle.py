"""A bundle is data from a stranger: any bytes give a result or a BundleError, within stated memory."""

from __future__ import annotations

import gc
import io
import json
import os
import resource
import shutil
import threading
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save

import freerun
from freerun.architecture import Architecture
from freerun.bounds import MAX_LENGTH
from freerun.cli import main
from freerun.data.codec import Codec
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import BundleError, ConfigError
from freerun.files import bytes_hash
from freerun.models.seq2seq import Seq2Seq
from freerun.runtime.bundle import arrays_file, graph_file, read_bundle
from freerun.runtime.limits import Limits
from freerun.runtime.snapshot import Snapshot
from tests.exported import codecs_of_pieces, graph_files, model_options, write_model
from tests.networks import architecture, network, randomise
from tests.unit.test_export import edit, exported, put

FILES = ["config.json", "metrics.json", "source_vocabulary.json", "target_vocabulary.json", "model.safetensors"]
GRAPHS = ["encoder.onnx", "step.onnx", "greedy.onnx", "greedy.npz"]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("untouched") / "bundle")


@pytest.fixture
def bundle(untouched, tmp_path):
    shutil.copytree(untouched, tmp_path / "bundle")
    return tmp_path / "bundle"


def used(folder, runtime=None):
    return freerun.load(folder, runtime=runtime).predict("a b c")


def message(folder, runtime=None):
    with pytest.raises(BundleError) as error:
        used(folder, runtime)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------ finite numbers


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bundle, value, tmp_path):
    arrays = load_arrays((bundle / "model.safetensors").read_bytes())
    arrays["decoder.output_bias"][3] = value
    put(bundle, "model.safetensors", save(arrays))
    expected = (
        f"{bundle / 'model.safetensors'}: decoder.output_bias has values that are not finite. "
        "Expected finite weights. Copy the whole bundle again, or train the model again."
    )
    assert message(bundle, "torch") == expected
    assert main(["export", str(bundle), "--out", str(tmp_path / "exported")]) == 2


def test_weights_of_another_type_are_refused(bundle):
    arrays = load_arrays((bundle / "model.safetensors").read_bytes())
    put(bundle, "model.safetensors", save({name: array.astype(np.float64) for name, array in arrays.items()}))
    assert "is not float32" in message(bundle, "torch")


def overflowing(folder):
    """A model of finite weights whose logits overflow: every state is near 1, and the output weights are huge."""
    model = network(1, torch.float32)
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.bias_ih.fill_(10.0)
        model.decoder.output_weight.fill_(3e38)
    return write_model(folder, model)


@pytest.mark.parametrize("runtime", ["torch", "onnx", None])
def test_a_score_that_is_not_finite_names_its_text(tmp_path, runtime):
    bundle = overflowing(tmp_path / "bundle")
    for name, content in graph_files(bundle, "fp32").items():
        put(bundle.directory, name, content)
    edit(bundle.directory, lambda config: config.update(graphs={"weights": bundle.weights_hash}))
    predictor = freerun.load(bundle.directory, runtime=runtime)
    with pytest.raises(BundleError, match=r"^text 1: .*score.* not finite|^text 1: the model gives it the score"):
        predictor.predict_batch(["a b", "c"])


def test_a_forced_score_that_is_not_finite_names_its_pair(tmp_path):
    overflowing(tmp_path / "bundle")
    predictor = freerun.load(tmp_path / "bundle")
    with pytest.raises(
        BundleError, match=r"^pair 1: the model gives it the score nan, because its weights are so large"
    ):
        list(predictor.score_stream([Pair("a", "v", 1), Pair("b", "w", 2)]))


def test_an_evaluation_whose_scores_are_not_finite_names_the_source(tmp_path, capfd):
    overflowing(tmp_path / "bundle")
    (tmp_path / "pairs.tsv").write_text("a b\tv\n")
    assert main(["evaluate", str(tmp_path / "bundle"), str(tmp_path / "pairs.tsv")]) == 2
    assert 'error: source "a b": the model gives it the score nan' in capfd.readouterr().err


# ------------------------------------------------------------------------------------------------- one moment's files


def test_a_bundle_that_was_read_stays_what_it_was_when_it_is_replaced(untouched, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(untouched, folder)
    before, predictor = read_bundle(folder), freerun.load(folder)
    expected = used(untouched)
    shutil.rmtree(folder)
    write_model(folder, network(2, torch.float32))
    assert predictor.predict("a b c") == expected  # its graphs are read only now
    assert before.checked_bytes("model.safetensors") == (untouched / "model.safetensors").read_bytes()
    assert read_bundle(folder).digest != before.digest


def test_no_reader_sees_half_of_a_replacement(tmp_path):
    folder, stop = tmp_path / "bundle", threading.Event()
    models = [network(seed, torch.float32) for seed in (1, 2)]

    def replace():
        number = 0
        while not stop.is_set():
            number += 1
            training = {"update": number, "model": {}, "training": {}, "evaluation": {"select_on": "x"}}
            training |= {"forcing": {"strategy": "teacher"}, "pairs": 1, "sources": 1, "parameters": 1}
            write_model(folder, models[number % 2], training=training, metrics={"sources": number})

    write_model(folder, metrics={"sources": 1})
    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(300):
            found = read_bundle(folder)
            assert found.config["training"]["update"] == found.metrics["sources"]
            assert found.weights()
    finally:
        stop.set()
        writer.join()


def test_a_bundle_that_is_replaced_while_its_files_are_opened_is_read_anew(tmp_path, monkeypatch):
    folder, opened = tmp_path / "bundle", Snapshot.open
    write_model(folder, metrics={"sources": 1}, freerun_version="1")

    def replaced_after_config(self, names):
        opened(self, names)
        if read_version(folder) == "1":
            write_model(folder, metrics={"sources": 2}, freerun_version="2")

    monkeypatch.setattr(Snapshot, "open", replaced_after_config)
    found = read_bundle(folder)
    assert (found.config["freerun"], found.metrics) == ("2", {"sources": 2})


def read_version(folder):
    return json.loads((folder / "config.json").read_text())["freerun"]


def test_what_is_damaged_is_not_read_again_and_again(bundle, monkeypatch):
    (bundle / "metrics.json").write_text("{")
    tries = []
    monkeypatch.setattr("freerun.runtime.bundle._read_metrics", lambda files: tries.append(1) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read_bundle(bundle)
    monkeypatch.undo()
    assert len(tries) == 1
    with pytest.raises(BundleError, match="not JSON"):
        read_bundle(bundle)


def test_files_are_closed_when_a_bundle_is_no_longer_used(bundle):
    def opened():
        return len(os.listdir("/proc/self/fd"))

    before = opened()
    found = read_bundle(bundle)
    assert opened() > before
    del found
    assert opened() == before
    (bundle / "greedy.npz").unlink()
    with pytest.raises(BundleError, match=r"greedy\.npz is missing"):
        read_bundle(bundle)
    assert opened() == before


# ------------------------------------------------------------------------------------------------------- regular files


@pytest.mark.parametrize("name", [*FILES, *GRAPHS])
@pytest.mark.parametrize("kind", ["pipe", "folder", "zero", "itself"])
def test_only_regular_files_are_read(bundle, name, kind):
    path = bundle / name
    path.unlink()
    make = {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "zero": lambda: path.symlink_to("/dev/zero"),
        "itself": lambda: path.symlink_to(name),
    }
    make[kind]()
    gc.collect()  # of other tests
    before = len(os.listdir("/proc/self/fd"))
    told = message(bundle)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert "this is not a regular file" in told or "cannot be read" in told or "no config.json" in told


@pytest.mark.parametrize("out", [[], ["--out", "exported"]])
def test_an_export_copies_no_pipes_and_no_devices(bundle, tmp_path, monkeypatch, capfd, out):
    monkeypatch.chdir(tmp_path)
    (bundle / "README.md").unlink()
    (bundle / "README.md").symlink_to("/dev/zero")
    assert main(["export", str(bundle), *out]) == 2
    told = f"error: {bundle / 'README.md'}: this is not a regular file. Expected a bundle of files. Remove it.\n"
    assert capfd.readouterr().err == told
    (bundle / "README.md").unlink()
    (bundle / "notes").mkdir()
    os.mkfifo(bundle / "notes" / "pipe")
    (bundle / "notes" / "text").touch()
    assert main(["export", str(bundle), *out]) == 0
    assert not (bundle / "notes" / "pipe").exists() or out


def test_a_card_that_is_not_utf_8_is_exported(bundle, tmp_path):
    (bundle / "README.md").write_bytes(b"# A model\xff\n")
    assert main(["export", str(bundle), "--out", str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported" / "README.md").read_text() == "# A model\ufffd\n"


def test_a_link_to_a_regular_file_is_read(bundle, untouched):
    for name in FILES:
        (bundle / name).unlink()
        (bundle / name).symlink_to(untouched / name)
    assert used(bundle) == used(untouched)


@pytest.mark.parametrize("name", [*FILES, *GRAPHS])
def test_a_file_larger_than_the_sizes_allow_is_not_read(bundle, name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    os.truncate(bundle / name, 2**33)  # has no blocks on the disk
    with pytest.raises(BundleError, match=r"damaged: 8,589,934,592 bytes; this model allows [\d,]+ at most"):
        read_bundle(bundle).checked_bytes(name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KB


@given(model_options())
def test_what_freerun_writes_is_far_below_the_limits(tmp_path_factory, options):
    folder = tmp_path_factory.mktemp("limits") / "bundle"
    bundle = write_model(folder, network(1, torch.float32, **options))
    sizes = Architecture.of(bundle.model)
    limits, precisions = Limits(sizes), ("fp32", "int8") if sizes.cell_spec.is_bounded else ("fp32",)
    files = {name: len(content) for each in precisions for name, content in graph_files(bundle, each).items()}
    files |= {path.name: path.stat().st_size for path in folder.iterdir()}
    for name in bundle.config["files"].keys() | files.keys() - {"config.json", "metrics.json", "README.md"}:
        assert 2 * files[name] < limits.of(name), name


def test_limits_grow_with_the_model_not_much_faster():
    sizes = architecture(
        3000,
        5000,
        embedding_size=256,
        hidden_size=512,
        num_layers=2,
        bidirectional=True,
        attention="bahdanau",
    )
    made = sum(parameter.numel() for parameter in Seq2Seq(sizes).parameters())
    limits = Limits(sizes)
    assert 4 * made < limits.of("model.safetensors") < 4.5 * made + 2**23
    tables = (2 * 3000 + 5000) * 2048 + 5000 * 2 * 512
    assert limits.of("step.onnx") < 4 * (2 * made + tables) + 2**23
    assert limits.of("greedy.int8.onnx") == limits.of(arrays_file("fp32")) == limits.of(graph_file("step"))
    assert limits.of("source_vocabulary.json") < limits.of("target_vocabulary.model") < 2**20 * 10


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_size", 10**9), ("embedding_size", 10**9), ("num_layers", 1000), ("num_layers", 10**9), ("cell", "gru")],
)
@pytest.mark.parametrize("runtime", ["torch", None])
def test_sizes_that_the_weights_do_not_bear_out_are_refused_before_anything_is_built(bundle, key, value, runtime):
    edit(bundle, lambda config: config["model"].__setitem__(key, value))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message(bundle, runtime)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KB


def stored(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_arrays_that_are_compressed_are_refused(bundle):
    file = io.BytesIO()
    np.savez_compressed(file, output=np.zeros(10**8, np.int8))
    assert len(file.getvalue()) < 2**20
    put(bundle, "greedy.npz", file.getvalue())
    assert "damaged: not an .npz file of numbers (compressed)" in message(bundle)


def test_arrays_that_overlap_are_refused(bundle):
    content = bytearray(stored(**{f"a{n}": np.zeros(2000, np.uint8) for n in range(9)}))
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        size = file.infolist()[0].file_size
    for signature, places in ((b"PK\1\2", (20, 24)), (b"PK\3\4", (18, 22))):
        start = content.find(signature)
        while start >= 0:
            for place in places:
                content[start + place : start + place + 4] = (9 * size).to_bytes(4, "little")
            start = content.find(signature, start + 1)
    put(bundle, "greedy.npz", bytes(content))
    assert "(overlapping arrays)" in message(bundle)


@pytest.mark.parametrize("shape", ["(10000000000,)", "(-1,)", "(3, 'a')", "(2**60,)", "((((", "(10**9, 10**9)"])
@pytest.mark.parametrize("kind", ["<f4", "|O", "<U9"])
def test_a_header_that_names_another_shape_or_type_is_refused(bundle, shape, kind):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("output.weight.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + b"\0" * 64)
    put(bundle, "greedy.npz", file.getvalue())
    assert message(bundle).startswith(f"{bundle / 'greedy.npz'}: ")


# --------------------------------------------------------------------------------------------------- values and tokens


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"largest_ratio": 1.0', '"largest_ratio": 1' + "0" * 400, "does not fit into 64 bits"),
        ('"largest_ratio": 1.0', '"largest_ratio": 1e400', "too large"),
        ('"largest_ratio": 1.0', '"largest_ratio": NaN', "NaN is not a number in JSON"),
        ('"update": 1,', '"update": ' + "[" * 500 + "]" * 500 + ",", "nested more than 64 deep"),
        ('"most_frequent_target": "v"', '"most_frequent_target": "\\ud800"', "half a surrogate pair, U+D800"),
        ('"tokens": "whitespace"', '"tokens": "sentencepiece:' + "9" * 5000 + '"', "source.tokens: the value is"),
        (
            '"num_layers": 2',
            '"num_layers": 1001',
            "the value is 1001. Expected a whole number from 1 to",
        ),
    ],
)
def test_values_that_no_machine_can_use_are_told(bundle, old, new, told):
    path = bundle / "config.json"
    edit(bundle, lambda config: None)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    found = message(bundle)
    assert found.startswith(f"{path}: damaged: ") and told in found and len(found) < 1000


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ('["a", "b", "c", "d", "e", "f", "\\udc00"]', "half a surrogate pair"),
        ('["a", "a", "c", "d", "e", "f", "g"]', "the token 'a' occurs twice"),
        ('["a", "b", "c", "d", "e", "f"]', "model.source_vocabulary is 11, but the source vocabulary has 10 ids"),
    ],
)
def test_tokens_that_cannot_be_are_told(bundle, tokens, told):
    put(bundle, "source_vocabulary.json", b'{"version": 1, "tokens": %s}' % tokens.encode())
    for runtime in (None, "torch", "onnx"):
        assert told in message(bundle, runtime)


def test_a_piece_that_is_not_utf_8_is_told(tmp_path):
    _, target = codecs_of_pieces(24, 100)
    source = Codec(CharTokenizer(), Vocabulary("abc"))
    model = randomise(
        Seq2Seq(architecture(7, len(target.vocabulary), embedding_size=3, hidden_size=4)), dtype=torch.float32
    )
    bundle = write_model(tmp_path / "bundle", model, source=source, target=target)
    put(bundle.directory, "target_vocabulary.model", target.tokenizer.model.replace("▁".encode(), b"\xff\xff\xff"))
    found = message(bundle.directory)
    assert found.startswith(f"{bundle.directory / 'target_vocabulary.model'}: a subword is not UTF-8 (")


@pytest.fixture
def odd_tokens(tmp_path):
    """A model that writes tokens which end lines and move terminals."""
    target = Codec(CharTokenizer(), Vocabulary(["\n", "\t", "\x1b[2J", "\x9b", "\u2028"]))
    write_model(tmp_path / "odd", target=target, most_frequent_target="\x1b[2J")
    return tmp_path / "odd"


@pytest.mark.parametrize("more", [[], ["--num-hypotheses", "2"], ["--json"], ["--json", "--num-hypotheses", "3"]])
def test_tokens_never_break_a_line_or_reach_a_terminal_raw(odd_tokens, capfd, more):
    texts = ["a b", "c d e", "f", "g g g"]
    assert main(["predict", str(odd_tokens), *texts, *more]) == 0
    out = capfd.readouterr().out
    lines = out.removesuffix("\n").split("\n")
    assert len(lines) == len(texts) * (3 if more[:1] == ["--num-hypotheses"] else 1)
    assert all(line.split("\n") == [line] and len(line.splitlines()) <= 1 for line in lines)
    assert not set(out) & {"\x1b", "\x9b", "\u2028"}
    if more == []:
        assert any(character in "".join(lines) for character in ("\\n", "\\t", "\\x1b", "\\x9b", "\\u2028"))
    if more == ["--json"]:
        written = [json.loads(line)["hypotheses"][0] for line in lines]
        assert any(set(each["text"]) & set("\n\t\x1b\x9b\u2028") for each in written)  # JSON gives them back whole


def test_inspect_and_messages_show_no_controls(odd_tokens, capfd):
    edit(odd_tokens, lambda config: config["training"].update({"\x1b[31m": "\x9b"}))
    metrics = json.dumps({"sources": 1, "\x1b]0;x\x07": 0.5})
    (odd_tokens / "metrics.json").write_text(metrics)
    for more in ([], ["--json"]):
        assert main(["inspect", str(odd_tokens), *more]) == 0
        out = capfd.readouterr().out
        assert not set(out) & {"\x1b", "\x9b", "\x07"}
    edit(odd_tokens, lambda config: config.update(version="\x9b"))
    assert main(["inspect", str(odd_tokens)]) == 2
    error = capfd.readouterr().err
    assert "\\u009b" in error and "\x9b" not in error


# -------------------------------------------------------------------------------------------------------------- lengths


@pytest.mark.parametrize("value", [-1, MAX_LENGTH.high + 1, 2**31])
def test_a_maximum_length_has_a_ceiling(untouched, value, capfd):
    with pytest.raises(ConfigError, match=rf"max_length: [a-z ]+ {value}\. Expected a whole number from 0 to 65,536\."):
        freerun.load(untouched, max_length=value)
    assert main(["predict", str(untouched), "a", "--max-length", str(value)]) == 2
    assert "--max-length" in capfd.readouterr().err


def test_a_bundle_cannot_ask_for_more(bundle):
    edit(bundle, lambda config: config["length_bound"].update(fixed=2**31, longest_target=2**31))
    assert read_bundle(bundle).bound.of_one(3) == MAX_LENGTH.high
    edit(bundle, lambda config: config["length_bound"].update(fixed=None, largest_ratio=1e9))
    assert read_bundle(bundle).bound.of_one(3) == MAX_LENGTH.high


# -------------------------------------------------------------------------------------------------------------- digests


def test_a_digest_stands_for_the_whole_bundle(bundle, capfd):
    digest = bytes_hash((bundle / "config.json").read_bytes())
    assert main(["inspect", str(bundle)]) == 0
    assert f"digest (SHA-256 of config.json): {digest}\n" in capfd.readouterr().out
    assert main(["inspect", str(bundle), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["digest"] == digest
    expected = freerun.load(bundle).predict("a b c")
    assert freerun.load(bundle, digest=digest).predict("a b c") == expected
    assert freerun.load(bundle, digest=digest.upper()).predict("a b c") == expected
    put(bundle, "greedy.onnx", (bundle / "greedy.onnx").read_bytes() + b"\0")
    with pytest.raises(BundleError) as error:
        freerun.load(bundle, digest=digest)
    found = bytes_hash((bundle / "config.json").read_bytes())
    assert str(error.value) == (
        f'{bundle}: its digest is {found}. Expected "{digest}". Check where the bundle comes from; `freerun inspect` '
        "prints a digest."
    )


def test_the_digest_of_an_ensemble_is_that_of_its_first_model(untouched, bundle):
    edit(bundle, lambda config: config.update(freerun="0.0.1"))
    digest = read_bundle(untouched).digest
    assert freerun.load(untouched, ensemble=[bundle], digest=digest).predict("a").text is not None
    with pytest.raises(BundleError, match="its digest is"):
        freerun.load(bundle, ensemble=[untouched], digest=digest)


@pytest.mark.parametrize(
    ("side", "key", "value", "difference"),
    [
        ("source", "reverse", False, "reverse_source True and False"),
        ("target", "case", "lower", "case 'keep' and 'lower'"),
    ],
)
def test_models_of_an_ensemble_read_and_write_the_same_ids(untouched, bundle, side, key, value, difference):
    edit(bundle, lambda config: config[side].update({key: value}))
    with pytest.raises(BundleError, match=f"its {side} side differs from that of .*: {difference}"):
        freerun.load(untouched, ensemble=[bundle])


__all__ = ["bundle", "odd_tokens", "untouched"]
