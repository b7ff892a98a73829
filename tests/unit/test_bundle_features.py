"""Bundles of models with features: what is written is read, and every kind of damage is reported."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from freerun.cli import main
from freerun.data.codec import Codec
from freerun.data.features import FeatureCodec
from freerun.data.tokenizers import WhitespaceTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import BundleError
from freerun.loading.torch_model import load_model
from freerun.models.initialise import initialise
from freerun.models.seq2seq import Seq2Seq
from freerun.runtime.bundle import read_bundle
from freerun.runtime.writing import write_bundle
from freerun.symbols import UNK
from freerun.training.checkpoint import serialised
from tests.networks import architecture
from tests.unit.test_bundle import parts

AGAIN = "Copy the whole bundle again."
FILE = "feature_vocabulary.json"


def model_with_features(encoder="summary", attention="none"):
    options = {"embedding_size": 3, "hidden_size": 4, "cell": "gru", "attention": attention}
    made = Seq2Seq(architecture(6, 7, feature_vocabulary=7, feature_encoder=encoder, **options))
    initialise(made, 1)
    return made


def write(directory, model=None, features=("V", "PST", "é"), separator=";"):
    model = model_with_features() if model is None else model
    codec = FeatureCodec(separator, Vocabulary(features))
    source = Codec(WhitespaceTokenizer(), Vocabulary(["b", "a"]), features=codec)
    write_bundle(directory, parts(source, model=model.sizes.as_json(), weights=serialised(model.state_dict())))
    return directory


@pytest.fixture
def bundle(tmp_path):
    return write(tmp_path / "bundle")


@pytest.fixture
def plain(tmp_path):
    write_bundle(tmp_path / "plain", parts(model=architecture(6, 7, embedding_size=3, hidden_size=4).as_json()))
    return tmp_path / "plain"


def message(directory):
    with pytest.raises(BundleError) as error:
        read_bundle(directory)
    return str(error.value).removeprefix(f"{directory}/")


def edit(directory, change):
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))


def put(directory, content):
    """Replace the vocabulary of features and its hash."""
    (directory / FILE).write_bytes(content)
    edit(directory, lambda config: config["files"].update({FILE: hashlib.sha256(content).hexdigest()}))


# ---------------------------------------------------------------------------------------------------- written and read


def test_features_are_encoded_as_before(bundle):
    found = read_bundle(bundle)
    assert found.source.encode("a b", "e\u0301; V;V") == [5, 4, 2, 4, 6]  # in NFC, in ascending order, once each
    assert found.source.encode("a b", "X;PST") == [5, 4, 2, UNK, 5]
    assert found.source.encode("a b", "") == [5, 4, 2]
    assert found.source.features.separator == ";"


@pytest.mark.parametrize(
    ("encoder", "attention"), [("summary", "none"), ("summary", "dot"), ("sequence", "dot"), ("both", "dot")]
)
def test_the_model_of_a_bundle_computes_what_the_trained_one_did(tmp_path, encoder, attention):
    trained = model_with_features(encoder, attention).eval()
    loaded = load_model(read_bundle(write(tmp_path / "bundle", trained)))
    given = torch.tensor([[4, 5, 2]]), None, torch.tensor([[1, 4, 5]])
    for features in ([[4, 6]], [[3, 0]], [[0]]):
        found, expected = (each(*given, feature_ids_BQ=torch.tensor(features)) for each in (loaded, trained))
        assert torch.equal(found, expected)


def test_a_bundle_without_features_has_no_trace_of_them(plain):
    config = (plain / "config.json").read_text()
    assert "feature" not in config and not (plain / FILE).exists()
    assert "eature" not in (plain / "README.md").read_text()
    assert read_bundle(plain).source.features is None


def test_the_model_card_says_how_to_predict_with_features(bundle):
    card = (bundle / "README.md").read_text().splitlines()
    assert r"    freerun predict DIRECTORY $'some text\tFEATURES'" in card
    assert (
        'Features are the second field of a source, after a tab, separated by ";": 7 ids, encoded as a summary.' in card
    )


@pytest.mark.parametrize("separator", [";", " "])
def test_inspect_shows_the_separator_the_vocabulary_and_the_encoder(tmp_path, capfd, separator):
    directory = str(write(tmp_path / "bundle", separator=separator))
    assert main(["inspect", directory]) == 0
    lines = [line.split(maxsplit=1) for line in capfd.readouterr().out.splitlines()]
    values = dict(line for line in lines if len(line) == 2)
    assert values["features.separator"] == f'"{separator}"'
    assert (values["model.feature_vocabulary"], values["model.feature_encoder"]) == ("7", "summary")
    assert main(["inspect", directory, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["features"] == {"separator": separator}
    assert (found["model"]["feature_vocabulary"], found["model"]["feature_encoder"]) == (7, "summary")


def test_inspect_shows_no_features_of_a_model_without_them(plain, capfd):
    assert main(["inspect", str(plain)]) == 0
    assert "feature" not in capfd.readouterr().out.replace(str(plain), "")


# --------------------------------------------------------------------------------------------------------------- damage


def test_a_missing_vocabulary_is_reported(bundle):
    (bundle / FILE).unlink()
    with pytest.raises(BundleError) as error:
        read_bundle(bundle)
    assert str(error.value) == (
        f"{bundle}: {FILE} is missing. Expected a complete bundle. "
        "Copy the whole directory again, or train the model again."
    )


def test_a_missing_hash_is_reported(bundle):
    edit(bundle, lambda config: config["files"].pop(FILE))
    assert message(bundle) == (f"config.json: damaged: no hash of {FILE}. Expected a file as freerun wrote it. {AGAIN}")


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"", lambda b: b.replace(b"PST", b"PRS")])
def test_a_truncated_or_changed_vocabulary_is_reported(bundle, damage):
    content = (bundle / FILE).read_bytes()
    (bundle / FILE).write_bytes(damage(content))
    found, expected = (hashlib.sha256(each).hexdigest()[:12] for each in (damage(content), content))
    assert message(bundle) == (
        f"{FILE}: the SHA-256 is {found}..., but {expected}... in config.json: truncated, changed, or from another "
        f"bundle. Expected the file that was written with this bundle. {AGAIN}"
    )


def test_the_vocabulary_of_another_bundle_is_reported(bundle, tmp_path):
    other = write(tmp_path / "other", features=("PST", "V", "é"))
    (bundle / FILE).write_bytes((other / FILE).read_bytes())
    assert message(bundle).startswith(f"{FILE}: the SHA-256 is ")


def test_the_vocabulary_of_the_sources_in_its_place_is_reported(bundle):
    put(bundle, (bundle / "source_vocabulary.json").read_bytes())
    assert message(bundle) == (
        "config.json: damaged: model.feature_vocabulary is 7, but the feature vocabulary has 6 ids. "
        f"Expected the sizes of this bundle's model. {AGAIN}"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "this is not JSON"),
        (b"[]", "this is not a JSON object"),
        (b'{"version": 9, "tokens": []}', "version 9 of the vocabulary format"),
        (b'{"version": 1, "tokens": ["V", "V"]}', "the token 'V' occurs twice"),
    ],
)
def test_what_is_no_vocabulary_is_reported_even_with_the_right_hash(bundle, content, expected):
    put(bundle, content)
    assert message(bundle).startswith(f"{FILE}: {expected}")


def test_a_vocabulary_larger_than_its_size_allows_is_not_read(bundle):
    put(bundle, b" " * (2**22 + 7 * 2**10 + 1))
    assert message(bundle) == (
        f"{FILE}: damaged: 4,201,473 bytes; this model allows 4,201,472 at most. Expected a file as freerun wrote it. "
        f"{AGAIN}"
    )


def test_a_directory_in_its_place_is_reported(bundle):
    (bundle / FILE).unlink()
    (bundle / FILE).mkdir()
    assert message(bundle).startswith(f"{FILE}: this is not a regular file. Expected a file as freerun wrote it.")


SIZE = "Expected a whole number, 4 or more."
ENCODER = 'Expected one of "summary", "sequence", "both".'
NO_READER = 'model.feature_encoder: the value is "sequence", which attention reads, but model.attention is "none"'
SEPARATOR = "Expected a text of 1 to 8 characters."


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("model", "feature_vocabulary", "7", f'model.feature_vocabulary: the value is "7". {SIZE}'),
        ("model", "feature_vocabulary", 3, f"model.feature_vocabulary: the value is 3. {SIZE}"),
        ("model", "feature_vocabulary", 0, f"model.feature_vocabulary: the value is 0. {SIZE}"),
        ("model", "feature_vocabulary", -7, f"model.feature_vocabulary: the value is -7. {SIZE}"),
        ("model", "feature_vocabulary", [], f"model.feature_vocabulary: the value is []. {SIZE}"),
        ("model", "feature_vocabulary", True, f"model.feature_vocabulary: the value is true. {SIZE}"),
        ("model", "feature_vocabulary", None, f"model.feature_vocabulary: this key is missing. {SIZE}"),
        ("model", "feature_encoder", "mean", f'model.feature_encoder: the value is "mean". {ENCODER}'),
        ("model", "feature_encoder", "", f'model.feature_encoder: the value is "". {ENCODER}'),
        ("model", "feature_encoder", 3, f"model.feature_encoder: the value is 3. {ENCODER}"),
        ("model", "feature_encoder", None, f"model.feature_encoder: this key is missing. {ENCODER}"),
        ("model", "feature_encoder", "sequence", f'{NO_READER}. Expected "summary".'),
        ("model", "feature_encoder", "both", f'{NO_READER.replace("sequence", "both")}. Expected "summary".'),
        ("features", "separator", "", f'features.separator: the value is "". {SEPARATOR}'),
        ("features", "separator", ";" * 9, f'features.separator: the value is ";;;;;;;;;". {SEPARATOR}'),
        ("features", "separator", 3, f"features.separator: the value is 3. {SEPARATOR}"),
        ("features", "separator", None, f"features.separator: this key is missing. {SEPARATOR}"),
    ],
)
def test_a_wrong_value_is_reported(bundle, section, key, value, expected):
    edit(bundle, lambda config: config[section].update({key: value}))
    assert message(bundle) == f"config.json: damaged: {expected} {AGAIN}"


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (None, "features: this key is missing. Expected a section, [features]."),
        ([], "features: the value is []. Expected a section, [features]."),
        (";", 'features: the value is ";". Expected a section, [features].'),
    ],
)
def test_a_missing_section_is_reported(bundle, features, expected):
    edit(bundle, lambda config: config.update(features=features))
    assert message(bundle) == f"config.json: damaged: {expected} {AGAIN}"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda config: config.update(features={"separator": ";"}), f"feature_vocabulary: this key is missing. {SIZE}"),
        (lambda config: config["model"].update(feature_encoder="summary"), "feature_vocabulary: this key is missing."),
        (
            lambda config: config["model"].update(feature_vocabulary=7),
            f"feature_encoder: this key is missing. {ENCODER}",
        ),
        (lambda config: config["model"].update(feature_vocabulary=[]), "feature_vocabulary: the value is []."),
        (lambda config: config["model"].update(feature_vocabulary=None), "feature_vocabulary: this key is missing."),
    ],
)
def test_a_part_of_features_in_a_model_without_them_is_reported(plain, change, expected):
    edit(plain, change)
    assert message(plain).startswith(f"config.json: damaged: model.{expected}")


def test_weights_without_features_are_reported(bundle):
    content = serialised(Seq2Seq(architecture(6, 7, embedding_size=3, hidden_size=4, cell="gru")).state_dict())
    (bundle / "model.safetensors").write_bytes(content)
    edit(bundle, lambda config: config["files"].update({"model.safetensors": hashlib.sha256(content).hexdigest()}))
    with pytest.raises(BundleError, match=r"decoder\.layers\.0\.weight_ih is \(12, 3\) and should be \(12, 6\)"):
        load_model(read_bundle(bundle))


def test_a_later_key_of_the_section_is_ignored(bundle):
    edit(bundle, lambda config: config["features"].update(later=1))
    assert read_bundle(bundle).source.features.separator == ";"
