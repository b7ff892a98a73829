"""The examples' JavaScript against the Python that it repeats: same ids, same outputs, same ties."""

from __future__ import annotations

import base64
import itertools
import json
import random
import unicodedata
from pathlib import Path

import pytest
import torch

from freerun.data.codec import Codec
from freerun.data.features import SEPARATORS, FeatureCodec
from freerun.data.tokenizers import make_tokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import BundleError
from freerun.files import bytes_hash
from freerun.runtime.bundle import read_bundle
from freerun.search.bound import LengthBound
from tests.exported import write_model
from tests.javascript import EXAMPLES, answers, program, run
from tests.networks import network
from tests.searching import beam_search
from tests.steppers import TableStepper, batch, bounds

ANSWER = Path(__file__).parent / "answer.mjs"
SOURCE = [5, 4, 2]

FORMS, CASES, KINDS = ("NFC", "NFD", "NFKC", "NFKD", "none"), ("keep", "lower"), ("char", "whitespace")
# everything that Python or JavaScript take for white space, and what else is easy to get wrong
WHITE_SPACE = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
WORDS = ["", " ", "ab", "𝒜b👩‍👩‍👧", "ΑΣ ΟΔΟΣ", "İI", "İ\u0327", "é", "e\u0301", "ﬁ", "Å", "ǅ", "__proto__ constructor"]


def test_the_modules_pass_their_own_tests():
    run([program("node"), "--test"], EXAMPLES / "browser")


# ---------------------------------------------------------------------------------------------------------------- text


def random_texts(count):
    """Texts of any characters that Unicode had given a meaning when Python was built."""
    chance = random.Random(1)
    letters = [chr(n) for n in range(0x110000) if unicodedata.category(chr(n)) not in ("Cn", "Cs", "Co")]
    return ["".join(chance.choices(letters, k=8)) + chance.choice(WHITE_SPACE) + "a" for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_become_the_same_ids(kind):
    texts = [*WORDS, *(f"a{space}b" for space in WHITE_SPACE), *random_texts(150)]
    vocabulary = ["a", "b", "é", "ab", "σ", "ς", "i\u0307", "__proto__"]
    questions, expected = [], []
    for form, case, text in itertools.product(FORMS, CASES, texts):
        reverse = len(text) % 2 == 0
        codec = Codec(make_tokenizer(kind), Vocabulary(vocabulary), normalisation=form, case=case, reverse=reverse)
        settings = {"tokens": kind, "normalisation": form, "case": case, "reverse": reverse}
        questions.append({"kind": "encode", "settings": settings, "vocabulary": vocabulary, "text": text})
        unknown = list(dict.fromkeys(codec.unknown(text)))
        expected.append({"tokens": codec.tokens(text), "ids": codec.encode(text), "unknown": unknown})
    assert answers(ANSWER, questions) == expected


FEATURES = [
    "V",
    "PST",
    "3",
    "é",
    "e\u0301",
    "x y",
    "__proto__",
    "ﬁ",
    "𝒜",
    *(f"{space}V{space}" for space in WHITE_SPACE),
]


def random_features(separator, count):
    """Fields of any features, some of them empty or repeated, and the same as lists."""
    chance = random.Random(2)
    for number in range(count):
        parts = chance.choices([*FEATURES, "", " "], k=chance.choice((0, 1, 3, 9, 60)))
        yield parts if number % 3 == 0 else separator.join(parts)


@pytest.mark.parametrize("separator", [*SEPARATORS, "::", "é", "a"])
def test_features_become_the_same_ids(separator):
    vocabulary = ["PST", "V", "é", "x", "x y", "__proto__"]
    codec = FeatureCodec(separator, Vocabulary(vocabulary))
    fields = ["", separator, f"V{separator}V", f"{separator}V;PST", *random_features(separator, 150)]
    fields += [f"{text}{separator}V" for text in random_texts(50)]
    questions = [{"kind": "features", "separator": separator, "vocabulary": vocabulary, "features": f} for f in fields]
    expected = [{"tokens": codec.tokens(f), "ids": codec.encode(f), "unknown": codec.unknown(f)} for f in fields]
    assert answers(ANSWER, questions) == expected
    assert {3, 4, 5} <= {number for each in expected for number in each["ids"]}
    assert max(len(each["tokens"]) for each in expected) > 8


@pytest.mark.parametrize(("kind", "text"), [("char", "abb"), ("whitespace", "a b b")])
def test_ids_become_text(kind, text):
    settings = {"tokens": kind, "normalisation": "NFC", "case": "keep", "reverse": False}
    question = {"kind": "decode", "settings": settings, "vocabulary": ["a", "b"], "ids": [4, 5, 5]}
    assert answers(ANSWER, [question]) == [text]


@pytest.mark.parametrize(("written", "text"), [({}, "\u1112\u1161\u11ab"), ({"written": "NFC"}, "\ud55c")])
def test_letters_are_put_together_in_text(written, text):
    settings = {"tokens": "char", "normalisation": "NFD", "case": "keep", "reverse": False, **written}
    vocabulary = ["\u1112", "\u1161", "\u11ab"]
    question = {"kind": "decode", "settings": settings, "vocabulary": vocabulary, "ids": [4, 5, 6]}
    assert answers(ANSWER, [question]) == [text]


def test_the_length_bound_is_the_same():
    cases = itertools.product((0, 5, 20, 10**5), (0.0, 0.7, 7.0, 1.1, 1e300), (None, 0, 9, 10**9), (0, 1, 7, 30))
    questions = [
        {"kind": "bound", "bound": {"longest_target": longest, "largest_ratio": ratio, "fixed": fixed}, "length": n}
        for longest, ratio, fixed, n in cases
    ]
    expected = [int(LengthBound(**each["bound"]).of(bounds(each["length"] + 1))[0]) for each in questions]
    assert answers(ANSWER, questions) == expected


# ------------------------------------------------------------------------------------------------------------- bundles

REMOVED = object()
CONFIG_DAMAGES = [
    *(("version", value) for value in (REMOVED, None, "1", 0, -1, 2, 1.5, True, [1], {})),
    *(("format", value) for value in (REMOVED, None, "freerun", 1)),
    *(
        (section, value)
        for section in ("source", "target", "model", "length_bound")
        for value in (REMOVED, None, [], "x", 1)
    ),
    *((f"source.{key}", value) for key in ("normalisation", "case") for value in (REMOVED, None, "x", "", ["NFC"], 1)),
    *(("target.tokens", value) for value in (REMOVED, None, "x", "Char", "sentencepiece", "char\n", ["char"], 1)),
    *(("source.reverse", value) for value in (REMOVED, None, 0, 1, "true")),
    *(
        (f"model.{side}_vocabulary", value)
        for side in ("source", "target")
        for value in (REMOVED, None, 8, 10, "9", 0, 9.5)
    ),
    *(
        (f"model.{key}", value)
        for key in ("hidden_size", "embedding_size")
        for value in (REMOVED, None, 0, -1, 1.5, "4", True)
    ),
    *(("model.num_layers", value) for value in (REMOVED, 0, 1001, 10**9, 2**70)),
    *(
        (f"model.{key}", value)
        for key in ("cell", "context", "attention")
        for value in (REMOVED, None, "x", 1, ["lstm"])
    ),
    *((f"model.{key}", value) for key in ("bidirectional", "tied_output") for value in (REMOVED, None, 0, "no")),
    *(("model.input_feeding", value) for value in (0, "no", [])),
    *(("length_bound.longest_target", value) for value in (REMOVED, None, -1, 1.5, "5", True)),
    *(("length_bound.largest_ratio", value) for value in (REMOVED, None, -0.5, "1", True, [], float("nan"), 10**400)),
    *(("length_bound.fixed", value) for value in ("abc", "9", -1, 1.5, True, [], {})),
    *(("most_frequent_target", value) for value in (REMOVED, None, 1, ["v"], "\ud800")),
    *(("training", value) for value in (REMOVED, None, [], "x")),
    *(("files", value) for value in (REMOVED, None, [], "x", {}, {"source_vocabulary.json": 1})),
    *(("graphs", value) for value in ("x", [], {"weights": 1})),
    *(("another_key", value) for value in ("\ud800", ["\udfff"], {"\udc00": 1}, float("-inf"))),
]
VOCABULARY_DAMAGES = [
    *("", "{", "[]", "null", "3", '"x"', "\ufeff{}"),
    *(json.dumps({"tokens": list("vwxyz"), "version": value}) for value in (None, "1", 0, 2, 1.5, True, [])),
    json.dumps({"tokens": list("vwxyz")}),
    *(json.dumps({"version": 1, "tokens": value}) for value in (None, "vwxyz", {"v": 4}, 5)),
    json.dumps({"version": 1}),
    *(json.dumps({"version": 1, "tokens": [*"vwxy", value]}) for value in ("v", 5, None, ["z"], "\ud83d", "z\udc00")),
    json.dumps({"version": 1, "tokens": [*"vwxy"]}),
    json.dumps({"version": 1, "tokens": [*"vwxyz", "a"]}),
]
WITHOUT_FEATURES = [("feature_vocabulary", 0), ("feature_encoder", "")]
FEATURE_DAMAGES = [
    *(("features", value) for value in (REMOVED, None, [], "x", {})),
    *(("features.separator", value) for value in (REMOVED, None, "", "𝒜" * 9, 1, [";"])),
    *(("model.feature_vocabulary", value) for value in (REMOVED, None, 0, 3, 6, 8, "7", 7.5)),
    *(("model.feature_encoder", value) for value in (REMOVED, None, "", "sequence", "both", "mean", ["summary"], 1)),
]


def files_of(bundle):
    """The files of a bundle by name."""
    return {path.name: path.read_bytes() for path in bundle.directory.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a bundle."""
    return files_of(write_model(tmp_path_factory.mktemp("whole") / "bundle"))


@pytest.fixture(scope="module")
def featured(tmp_path_factory):
    """The files of a bundle with features."""
    model = network(1, torch.float32, scale=1.5, feature_vocabulary=7, feature_encoder="summary")
    features = FeatureCodec("+", Vocabulary("ABC"))
    source = Codec(make_tokenizer("whitespace"), Vocabulary("abcdefg"), case="lower", reverse=True, features=features)
    return files_of(write_model(tmp_path_factory.mktemp("featured") / "bundle", model, source=source))


def with_value(files, path, value):
    """config.json with one value changed or removed."""
    config = json.loads(files["config.json"])
    *sections, key = path.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[key] = value
    if value is REMOVED:
        del section[key]
    return {**files, "config.json": json.dumps(config).encode()}


def with_vocabulary(files, text):
    """Another target vocabulary, with its hash in config.json."""
    config = json.loads(files["config.json"])
    config["files"]["target_vocabulary.json"] = bytes_hash(text.encode())
    return {**files, "config.json": json.dumps(config).encode(), "target_vocabulary.json": text.encode()}


def opened_by_python(folder, files):
    """The message of what is wrong, or None."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        read_bundle(folder)
    except BundleError as error:
        return str(error)
    return None


def opened_by_javascript(bundles):
    """The messages of what is wrong with each of the bundles, or None."""
    encoded = [
        {name: base64.b64encode(content).decode() for name, content in files.items() if name.endswith(".json")}
        for files in bundles
    ]
    return answers(ANSWER, [{"kind": "open", "files": files} for files in encoded])


def test_both_readers_open_a_whole_bundle(whole, tmp_path):
    kept = [
        whole,
        with_value(whole, "model.input_feeding", None),
        with_value(whole, "length_bound.fixed", None),
        with_value(whole, "length_bound.fixed", 0),
        with_value(whole, "length_bound.largest_ratio", 0),
        with_value(whole, "graphs", {"weights": "x"}),
        with_value(whole, "another_key", [1]),
        with_vocabulary(whole, json.dumps({"version": 1, "tokens": ["v", "w", "\U0001f600", "__proto__", "\x1b"]})),
    ]
    assert opened_by_javascript(kept) == [None] * len(kept)
    assert [opened_by_python(tmp_path / str(number), files) for number, files in enumerate(kept)] == [None] * len(kept)


def test_both_readers_reject_every_damage(whole, tmp_path):
    damaged = [with_value(whole, *damage) for damage in CONFIG_DAMAGES]
    damaged += [with_vocabulary(whole, text) for text in VOCABULARY_DAMAGES]
    damaged += [{**whole, "config.json": content} for content in (b"", b"{", b"[]", b"null", b"\xff{}", b"[" * 10**5)]
    damaged.append({**whole, "config.json": whole["config.json"].replace(b"{", b'{"x": 1e999,', 1)})
    damaged.append({**whole, "config.json": b"\xef\xbb\xbf" + whole["config.json"]})
    damaged.append(with_vocabulary(whole, "\ufeff" + whole["target_vocabulary.json"].decode()))
    damaged.append({**whole, "target_vocabulary.json": whole["target_vocabulary.json"] + b" "})
    found = opened_by_javascript(damaged)
    for number, (files, message) in enumerate(zip(damaged, found, strict=True)):
        damage = [*CONFIG_DAMAGES, *VOCABULARY_DAMAGES, *["another file"] * 10][number]
        assert message is not None and message.startswith("BundleError: "), (damage, message)
        assert opened_by_python(tmp_path / str(number), files) is not None, damage


def test_both_readers_open_a_bundle_with_features(whole, featured, tmp_path):
    kept = [featured, with_value(featured, "features.separator", "𝒜" * 8)]
    kept += [with_value(whole, f"model.{key}", value) for key, value in WITHOUT_FEATURES]
    assert opened_by_javascript(kept) == [None] * len(kept)
    assert [opened_by_python(tmp_path / str(number), files) for number, files in enumerate(kept)] == [None] * len(kept)


def test_both_readers_reject_every_damage_of_features(whole, featured, tmp_path):
    damaged = [with_value(featured, *damage) for damage in FEATURE_DAMAGES]
    damaged += [
        with_value(whole, *damage) for damage in (("features", {"separator": ";"}), ("model.feature_vocabulary", 7))
    ]
    damaged.append({**featured, "feature_vocabulary.json": featured["target_vocabulary.json"]})
    found = opened_by_javascript(damaged)
    for number, (files, message) in enumerate(zip(damaged, found, strict=True)):
        damage = [*FEATURE_DAMAGES, *["another file"] * 3][number]
        assert message is not None and message.startswith("BundleError: "), (damage, message)
        assert opened_by_python(tmp_path / str(number), files) is not None, damage


# -------------------------------------------------------------------------------------------------------------- search


def beam_question(stepper, beam_size, bound):
    stepper.start(*batch([SOURCE]))
    table = stepper.table.astype(float).tolist()
    start = int(stepper.states[0])
    return {"kind": "beam", "table": table, "start": start, "beamSize": beam_size, "bound": bound}


def beam_answer(stepper, beam_size, bound):
    found = beam_search(
        stepper, *batch([SOURCE]), max_lengths=bounds(bound), beam_size=beam_size, num_hypotheses=beam_size
    )
    hypotheses = [
        {"ids": list(h.ids), "scores": list(h.token_scores), "score": h.score, "truncated": h.truncated}
        for h in found[0]
    ]
    # searching on after the end would find the same, later
    return {"found": hypotheses, "rowsFed": stepper.rows_fed}


@pytest.mark.parametrize("levels", [None, 2, 3], ids=["distinct", "many ties", "some ties"])
def test_beam_search_finds_the_same_to_the_last_bit(levels):
    questions, expected = [], []
    for seed, (beam_size, bound) in enumerate(itertools.product((1, 2, 3, 5, 8), (0, 1, 3, 6, 20))):
        for vocabulary_size, likelier_end in ((5, 0.0), (7, 1.5), (12, -2.0)):
            bias = {2: likelier_end} if levels is None else None
            stepper = TableStepper(vocabulary_size, seed, levels, bias, size=97)
            questions.append(beam_question(stepper, beam_size, bound))
            expected.append(beam_answer(stepper, beam_size, bound))
    assert answers(ANSWER, questions) == expected
    flat = [hypothesis for each in expected for hypothesis in each["found"]]
    assert any(h["truncated"] for h in flat) and not all(h["truncated"] for h in flat)
