"""Bundles: what is written is read, and every kind of damage is told."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch

from freerun.data.codec import Codec
from freerun.data.tokenizers import WhitespaceTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import BundleError
from freerun.loading.torch_model import load_model
from freerun.models.initialise import initialise
from freerun.models.seq2seq import Seq2Seq
from freerun.runtime.bundle import find_bundle, read_bundle
from freerun.runtime.card import model_card
from freerun.runtime.writing import BundleParts, write_bundle
from freerun.search.bound import LengthBound
from freerun.training.checkpoint import serialised
from tests.exported import codecs_of_pieces
from tests.networks import CELLS, architecture, one_of

TRAINING = {
    "data": {"source_tokens": "char"},
    "model": {"cell": "gru"},
    "forcing": {"strategy": "teacher"},
    "training": {"seed": 1, "schedule": {"kind": "cosine", "warmup": 5}},
    "evaluation": {"select_on": "symbol_error_rate.free"},
    "update": 1200,
    "pairs": 3400,
    "sources": 56,
    "parameters": 78901,
}
METRICS = {
    "symbol_error_rate.free": 0.125,
    "symbol_error_rate.free.low": 0.1,
    "symbol_error_rate.free.high": 0.15,
    "bleu.free": None,
    "sources": 12345,
}


def model(target_vocabulary=7, seed=1):
    made = Seq2Seq(architecture(6, target_vocabulary, embedding_size=3, hidden_size=4, cell="gru"))
    initialise(made, seed)
    return made


def parts(source=None, target=None, seed=1, **changes):
    source = source or Codec(
        WhitespaceTokenizer(), Vocabulary(["b", "a"]), normalisation="NFKC", case="lower", reverse=True
    )
    target = target or Codec(WhitespaceTokenizer(), Vocabulary(["x", "y", "é"]), normalisation="none")
    made = model(len(target.vocabulary), seed)
    given = {
        "source": source,
        "target": target,
        "bound": LengthBound(12, 2.5),
        "model": asdict(made.sizes),
        "training": TRAINING,
        "most_frequent_target": "x y",
        "weights": serialised(made.state_dict()),
        "metrics": METRICS,
        "freerun_version": "0.1.0",
    }
    return BundleParts(**{**given, **changes})


@pytest.fixture
def bundle(tmp_path):
    write_bundle(tmp_path / "bundle", parts())
    return tmp_path / "bundle"


# ---------------------------------------------------------------------------------------------------- written and read


def test_a_bundle_comes_back_as_it_was(bundle):
    found = read_bundle(bundle)
    assert found.source.tokens("Ａ B") == ["a", "b"]  # NFKC, and in lower case
    assert found.source.encode("a b") == [4, 5, 2]  # reversed
    assert found.target.encode("y é x") == [5, 6, 4, 2]
    assert (found.bound, found.metrics) == (LengthBound(12, 2.5), METRICS)
    assert found.config["most_frequent_target"] == "x y"
    weights = model().state_dict()
    assert found.weights().keys() == weights.keys()
    assert all(np.array_equal(array, weights[name]) for name, array in found.weights().items())


def test_the_model_of_a_bundle_computes_what_the_trained_one_did(bundle):
    source, fed = torch.tensor([[4, 5, 2]]), torch.tensor([[1, 4, 5]])
    loaded, trained = load_model(read_bundle(bundle)), model()
    assert torch.equal(loaded(source, None, fed), trained(source, None, fed))
    assert not loaded.training


def test_equal_parts_give_equal_bytes(tmp_path):
    for name in ("one", "other"):
        write_bundle(tmp_path / name, parts())
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_a_bundle_with_sentencepiece_comes_back(tmp_path):
    source, target = codecs_of_pieces(40, 300)
    sizes = len(source.vocabulary), len(target.vocabulary)
    made = Seq2Seq(architecture(*sizes, embedding_size=3, hidden_size=4, cell="gru"))
    write_bundle(tmp_path / "bundle", parts(source, target, model=asdict(made.sizes)))
    found = read_bundle(tmp_path / "bundle")
    assert (tmp_path / "bundle" / "target_vocabulary.model").exists()
    assert found.target.encode("gh 7 kl") == target.encode("gh 7 kl")
    assert found.target.text(found.target.decode(found.target.encode("gh 7 kl"))) == "gh 7 kl"


def test_a_bundle_is_replaced_whole(bundle):
    (bundle / "stranger").touch()
    write_bundle(bundle, parts(metrics={"sources": 1}))
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle"]
    assert not (bundle / "stranger").exists()
    assert read_bundle(bundle).metrics == {"sources": 1}


def test_a_bundle_that_cannot_be_written_leaves_the_old_one(bundle, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_bundle(bundle, parts(metrics={"sources": 1}))
    assert read_bundle(bundle).metrics == METRICS
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle"]


def test_figures_that_json_cannot_hold_are_refused_before_anything_is_touched(bundle):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_bundle(bundle, parts(metrics={"bleu.free": float("nan")}))
    assert read_bundle(bundle).metrics == METRICS


def test_the_model_card_tells_data_sizes_and_figures(bundle):
    card = (bundle / "README.md").read_text()
    for line in (
        "GRU encoder-decoder, 1 x 4 units, unidirectional encoder, no attention (fixed context), 78,901 parameters.",
        "Trained on 3,400 pairs of 56 sources.",
        "| source | whitespace | NFKC | lower | 6 |",
        "| target | whitespace | none | keep | 7 |",
        "Sources are read from the end. Longest training target: 12 tokens.",
        "| symbol_error_rate.free | 0.125 | 0.1 to 0.15 |",
        "| bleu.free | undefined |  |",
        "| sources | 12,345 |  |",
        "Forcing strategy: teacher. Weights after update 1,200.",
        "| training.schedule.kind | cosine |",
        "| training.schedule.warmup | 5 |",
    ):
        assert line in card.splitlines()
    assert "&#" not in card


def test_the_model_card_tells_the_phases_of_forcing(bundle):
    config = json.loads((bundle / "config.json").read_text())
    config["training"]["forcing"] = {"phases": [{"strategy": "teacher", "until": 9}, {"strategy": "professor"}]}
    card = model_card(config, METRICS)
    assert "Forcing strategy: teacher, then professor. Weights after update 1,200." in card
    assert "| forcing.phases[1].until | 9 |" in card


# ------------------------------------------------------------------------------------------------------ where it stands


def run_folder(bundle):
    run = bundle.parent / "run"
    run.mkdir()
    bundle.rename(run / "best")
    (run / "config.toml").touch()
    return run


def test_a_run_folder_stands_for_its_best_bundle(bundle):
    run = run_folder(bundle)
    assert find_bundle(run) == run / "best"
    assert find_bundle(run / "best") == run / "best"


def test_a_reader_finds_the_old_bundle_while_it_is_being_replaced(bundle):
    run = run_folder(bundle)
    (run / "best").rename(run / ".best.old")
    for name in (run, run / "best"):
        assert read_bundle(name).metrics == METRICS
    assert not (run / "best").exists()  # and leaves it to the writer to put it in place


def message(path):
    with pytest.raises(BundleError) as error:
        load_model(read_bundle(path))
    return str(error.value)


def test_a_folder_that_is_no_bundle_is_told(tmp_path):
    assert message(tmp_path / "x") == (
        f"{tmp_path / 'x'}: no such directory. Expected a bundle or a run directory. Check the path."
    )
    (tmp_path / "file").touch()
    assert message(tmp_path / "file") == (
        f"{tmp_path / 'file'}: this is a file. Expected the directory of a bundle or of a run. Name the directory."
    )
    assert message(tmp_path) == (
        f"{tmp_path}: there is no config.json in this directory. Expected a bundle or a run directory. Check the path."
    )


def test_a_run_without_a_best_model_is_told(tmp_path):
    (tmp_path / "config.toml").touch()
    assert message(tmp_path) == (
        f"{tmp_path}: this run has no best model yet. Expected a run that was evaluated at least once. "
        "Continue its training to its first evaluation."
    )


# --------------------------------------------------------------------------------------------------------------- damage

HASHED = ["model.safetensors", "source_vocabulary.json", "target_vocabulary.json"]


@pytest.mark.parametrize("name", [*HASHED, "metrics.json"])
def test_a_missing_file_is_told(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        read_bundle(bundle)  # before anybody asks for the weights
    assert message(bundle) == (
        f"{bundle}: {name} is missing. Expected a complete bundle. "
        "Copy the whole directory again, or train the model again."
    )


def test_a_missing_card_is_no_damage(bundle):
    (bundle / "README.md").unlink()
    assert load_model(read_bundle(bundle)).num_parameters() > 0


@pytest.mark.parametrize("name", HASHED)
@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_changed_file_is_told_with_both_hashes(bundle, name, damage):
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes({"truncated": content[:-9], "changed": content[:-2] + b"xx", "empty": b""}[damage])
    found = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    assert message(bundle) == (
        f"{bundle / name}: the SHA-256 is {found[:12]}..., but "
        f"{hashlib.sha256(content).hexdigest()[:12]}... in config.json: truncated, changed, or from another bundle. "
        "Expected the file that was written with this bundle. Copy the whole bundle again."
    )


@pytest.mark.parametrize("name", HASHED)
def test_a_foreign_file_is_reported(bundle, tmp_path, name):
    other = Codec(WhitespaceTokenizer(), Vocabulary(["x", "z", "y"]))
    source = Codec(WhitespaceTokenizer(), Vocabulary(["a", "b"]))
    write_bundle(tmp_path / "other", parts(source, other, seed=2))
    shutil.copy(tmp_path / "other" / name, bundle / name)
    assert f"{name}: the SHA-256 is " in message(bundle)


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_not_json_is_told(bundle, name, content):
    (bundle / name).write_bytes(content)
    assert message(bundle).startswith(f"{bundle / name}: damaged: not JSON (")


@pytest.mark.parametrize("content", ["[]", "3", '"freerun bundle"', "{}", '{"format": "other"}', "null"])
def test_another_config_json_is_told(bundle, content):
    (bundle / "config.json").write_text(content)
    assert message(bundle) == (
        f"{bundle / 'config.json'}: this is not the config.json of a freerun bundle. "
        'Expected an object with "format": "freerun bundle". Name another directory.'
    )


def edited(bundle, path, value):
    """The message after one value of config.json was changed; None takes it away."""
    config = json.loads((bundle / "config.json").read_text())
    *sections, key = path.split("/")
    place = config
    for section in sections:
        place = place[section]
    if value is None:
        del place[key]
    else:
        place[key] = value
    (bundle / "config.json").write_text(json.dumps(config))
    return message(bundle).removeprefix(f"{bundle / 'config.json'}: ")


@pytest.mark.parametrize("version", [2, 99])
def test_a_newer_bundle_is_told(bundle, version):
    assert edited(bundle, "version", version) == (
        f"this bundle has version {version}. Expected 1 at most, the newest that this freerun can read. "
        "Install a newer freerun."
    )


@pytest.mark.parametrize(("version", "told"), [("1", '"1"'), (True, "true"), (0, "0"), (1.0, "1.0"), (None, "null")])
def test_a_version_that_never_was_is_told(bundle, version, told):
    assert edited(bundle, "version", version) == (
        f"damaged: its version is {told}. Expected a file as freerun wrote it. Copy the whole bundle again."
    )


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("source", None, "source: this key is missing. Expected a section, [source]."),
        ("target", 3, "target: the value is 3. Expected a section, [target]."),
        (
            "source/tokens",
            "words",
            'source.tokens: the value is "words". Expected "char", "whitespace" or "sentencepiece:N".',
        ),
        ("source/tokens", 3, 'source.tokens: the value is 3. Expected "char", "whitespace" or "sentencepiece:N".'),
        ("source/normalisation", "nfc", 'source.normalisation: the value is "nfc". Expected one of "NFC", "NFD",'),
        ("target/case", True, 'target.case: the value is true. Expected one of "keep", "lower".'),
        ("source/reverse", "yes", 'source.reverse: the value is "yes". Expected true or false.'),
        ("model", [], "model: the value is []. Expected a section, [model]."),
        ("model/cell", "lsmt", f'model.cell: the value is "lsmt". Expected {one_of(CELLS)}.'),
        ("model/hidden_size", "4", 'model.hidden_size: the value is "4". Expected a whole number, 1 or more.'),
        ("model/hidden_size", 0, "model.hidden_size: the value is 0. Expected a whole number, 1 or more."),
        ("model/num_layers", None, "model.num_layers: this key is missing. Expected a whole number from 1 to 1,000."),
        ("model/attention", "location", 'model.attention: the value is "location". Expected one of "none", "dot",'),
        ("model/bidirectional", 1, "model.bidirectional: the value is 1. Expected true or false."),
        ("length_bound", None, "length_bound: this key is missing."),
        (
            "length_bound/longest_target",
            -1,
            "length_bound.longest_target: the value is -1. Expected a whole number, 0 or",
        ),
        (
            "length_bound/largest_ratio",
            "2",
            'length_bound.largest_ratio: the value is "2". Expected a number, 0 or more.',
        ),
        ("length_bound/fixed", 1.5, "length_bound.fixed: the value is 1.5. Expected a whole number, 0 or more."),
        ("most_frequent_target", 3, "most_frequent_target: the value is 3. Expected a string."),
        ("training", "x", 'training: the value is "x". Expected a table.'),
        ("files", [], "files: the value is []. Expected a table."),
        ("files/model.safetensors", 3, "files: the value is { "),
        ("files/model.safetensors", None, "no hash of model.safetensors."),
        ("files/source_vocabulary.json", None, "no hash of source_vocabulary.json."),
    ],
)
def test_a_wrong_value_in_config_json_is_told(bundle, path, value, expected):
    found = edited(bundle, path, value)
    assert found.startswith(f"damaged: {expected}")
    assert found.endswith("Copy the whole bundle again.")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (
            "model/hidden_size",
            5,
            "the weights do not fit the sizes in config.json (decoder.layers.0.bias_hh is",
        ),
        ("model/cell", "rnn", "the weights do not fit the sizes in config.json"),
        ("model/bidirectional", True, "the weights do not fit the sizes in config.json"),
        ("model/source_vocabulary", 9, "model.source_vocabulary is 9, but the source vocabulary has 6 ids."),
        ("model/unheard_of", 1, "invalid model section: "),
    ],
)
def test_sizes_that_do_not_fit_are_told(bundle, path, value, expected):
    found = edited(bundle, path, value)
    assert expected in found
    assert len(found) < 700


def with_hash(bundle, name, content):
    """Replace a file and its hash: damage that only its own content shows."""
    (bundle / name).write_bytes(content)
    config = json.loads((bundle / "config.json").read_text())
    config["files"][name] = hashlib.sha256(content).hexdigest()
    (bundle / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 100, b"\x08\0\0\0\0\0\0\0{}      "])
def test_weights_that_are_none_are_told_even_with_the_right_hash(bundle, content):
    with_hash(bundle, "model.safetensors", content)
    found = message(bundle)
    assert found.startswith(f"{bundle / 'model.safetensors'}: ")
    assert "not a safetensors file" in found or "the weights do not fit" in found


def test_weights_of_a_kind_that_numpy_does_not_know_are_told(bundle):
    with_hash(bundle, "model.safetensors", serialised({"w": torch.ones(2, dtype=torch.bfloat16)}))
    assert message(bundle).startswith(f"{bundle / 'model.safetensors'}: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff", "this is not JSON: 'utf-8' codec can't decode byte 0xff"),
        (b"{", "this is not JSON"),
        (b"[]", "this is not a JSON object"),
        (b'{"version": 9, "tokens": []}', "version 9 of the vocabulary format"),
        (b'{"version": 1, "tokens": ["a", "a"]}', "the token 'a' occurs twice"),
        (b'{"version": 1, "tokens": ["a"]}', "model.source_vocabulary is 6, but the source vocabulary has 5 ids"),
    ],
)
def test_a_vocabulary_that_is_none_is_told_even_with_the_right_hash(bundle, content, expected):
    with_hash(bundle, "source_vocabulary.json", content)
    assert expected in message(bundle)


def test_a_sentencepiece_model_that_is_none_is_told(bundle):
    with_hash(bundle, "source_vocabulary.model", b"garbage")
    assert edited(bundle, "source/tokens", "sentencepiece:8").startswith(
        f"{bundle / 'source_vocabulary.model'}: this is not a SentencePiece model."
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [("[]", "not a JSON object"), ('{"a": "b"}', 'a is "b", not a number'), ('{"a": true}', "a is true, not a number")],
)
def test_figures_that_are_none_are_told(bundle, content, expected):
    (bundle / "metrics.json").write_text(content)
    assert message(bundle) == (
        f"{bundle / 'metrics.json'}: damaged: {expected}. "
        "Expected a file as freerun wrote it. Copy the whole bundle again."
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "source_vocabulary.json", "metrics.json"])
def test_a_folder_in_the_place_of_a_file_is_told(bundle, name):
    (bundle / name).unlink()
    (bundle / name).mkdir()
    assert message(bundle).startswith(
        f"{bundle / name}: this is not a regular file. Expected a file as freerun wrote it."
    )
