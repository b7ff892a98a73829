"""A predictor whose model has features: one text at a time, in batches, as a stream; and what it rejects."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from freerun.data.codec import Codec
from freerun.data.features import FeatureCodec
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import DataError
from freerun.models.torch_stepper import TorchStepper
from freerun.runtime.predictor import Predictor
from freerun.search.bound import LengthBound
from freerun.search.methods import Beam, Greedy, Sampling
from freerun.search.searcher import StepperSearcher
from freerun.symbols import UNK
from tests.networks import network

CODEC = FeatureCodec(";", Vocabulary(["V", "N", "PST", "PL"]))
SOURCE = Codec(CharTokenizer(), Vocabulary("abcdefg"), features=CODEC)
TARGET = Codec(CharTokenizer(), Vocabulary("pqrst"))
NETWORK = network(dtype=torch.float32, feature_vocabulary=8, feature_encoder="summary", scale=1.5)
PREDICTOR = Predictor(
    searcher=StepperSearcher(lambda: TorchStepper(NETWORK)),
    source=SOURCE,
    target=TARGET,
    bound=LengthBound(2, 1.5),
)
PLAIN = Predictor(
    searcher=StepperSearcher(lambda: TorchStepper(network(dtype=torch.float32))),
    source=replace(SOURCE, features=None),
    target=TARGET,
    bound=LengthBound(2, 1.5),
)
KNOWN = "because the model was trained with them; it has 'V', 'N', 'PST', 'PL'. "
FEATURES = st.lists(st.sampled_from(["V", "N", "PST", "PL", "X", "Y"]), max_size=5)
PAIRS = st.lists(st.tuples(st.text("abcdefgz", max_size=6), FEATURES), min_size=1, max_size=6)


def brief(prediction):
    return prediction.source, prediction.text, pytest.approx(prediction.score, abs=1e-4)


@settings(max_examples=40)
@given(PAIRS, st.sampled_from([Greedy(), Beam(3), Sampling(seed=4)]))
def test_a_batch_a_stream_and_each_text_alone_agree(pairs, search):
    batch = PREDICTOR.predict_batch(pairs, search)
    assert [brief(each) for each in PREDICTOR.predict_stream(iter(pairs), search)] == [brief(each) for each in batch]
    if not isinstance(search, Sampling):  # a sample depends on the number of its text
        alone = [PREDICTOR.predict(text, search, features=features) for text, features in pairs]
        assert [brief(each) for each in alone] == [brief(each) for each in batch]


@settings(max_examples=40)
@given(st.text("abcdefg", max_size=6), FEATURES, st.randoms())
def test_text_or_sequence_order_repetition_and_spaces_make_no_difference(text, features, random):
    expected = PREDICTOR.predict(text, features=features)
    shuffled = random.sample(features, len(features))
    for given_features in (";".join(features), " ; ".join(shuffled) + ";", (*shuffled, *features)):
        prediction = PREDICTOR.predict(text, features=given_features)
        assert prediction.hypotheses == expected.hypotheses
        assert set(prediction.unknown_features) == set(expected.unknown_features)


def test_features_decide_and_so_does_their_absence():
    scores = {PREDICTOR.predict("abc", features=features).score for features in ("", "V", "PST", "V;PST", "V;PST;X")}
    assert len(scores) == 5


def test_unknown_features_are_told_from_unknown_tokens():
    prediction = PREDICTOR.predict("azc", features=["V", "X", "Y"])
    assert (prediction.unknown, prediction.unknown_features) == (("z",), ("X", "Y"))
    assert prediction.features == ("V", "X", "Y")
    assert PREDICTOR.predict("abc", features="X;V").unknown == ()
    assert PREDICTOR.predict("abc", features="X").score == PREDICTOR.predict("abc", features="Y;X").score
    assert PLAIN.predict("abc").features is None and PLAIN.predict("abc").unknown_features == ()


def test_a_list_of_features_that_changes_later_changes_no_prediction():
    features = ["V"]
    prediction = PREDICTOR.predict("abc", features=features)
    features.append("PST")
    assert prediction.features == ("V",)


def test_features_do_not_count_for_lengths():
    many = ";".join(["V", "N", "PST", "PL", *map(str, range(1000))])
    limited = Predictor(
        searcher=PREDICTOR.searcher, source=SOURCE, target=TARGET, bound=LengthBound(1, 1.0), longest_source=4
    )
    assert limited.predict("abc", features=many).unknown_features == tuple(map(str, range(1000)))
    with pytest.raises(DataError, match=r"text 1: too long \(4 tokens\). Expected at most 3"):
        limited.predict("abcd", features="V")
    seen = []
    spy = SimpleNamespace(search=lambda sources, bounds, *_: (seen.extend(bounds), [[] for _ in sources])[1])
    limited.searcher = spy
    limited.predict_batch([("abc", "V;PST"), ("abc", "")])
    assert seen == [limited.bound.of_one(4)] * 2


def test_a_score_is_that_of_the_prediction():
    pairs = [("abc", "V;PST"), ("abc", ["N"]), ("", ""), ("gfa", "X")]
    predictions = PREDICTOR.predict_batch(pairs)
    scored = list(PREDICTOR.score_stream(Pair(each.source, each.text, 1, each.features) for each in predictions))
    for prediction, each in zip(predictions, scored, strict=True):
        scores = prediction.hypotheses[0].token_scores  # without that of the end token if it is truncated
        assert each.token_scores[: len(scores)] == pytest.approx(scores, abs=1e-5)
        assert len(scores) > 1 and each.features == prediction.features


def test_a_target_with_unknown_tokens_keeps_its_features():
    (scored,) = PREDICTOR.score_stream([Pair("abc", "pZ", 1, ["V"])])
    assert (scored.score, scored.unknown, scored.features) == (None, ("Z",), ("V",))
    assert UNK in TARGET.encode("pZ")


def test_other_models_ignore_the_features_of_pairs_to_score():
    (scored,) = PLAIN.score_stream([Pair("abc", "p", 1, "V")])
    assert scored.features is None and scored.score is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: PREDICTOR.predict("abc"),
            (
                f'text 1: "abc" has no features. Expected features separated by ";", {KNOWN}'
                'Pass features, or pairs (text, features); "" stands for none.'
            ),
        ),
        (
            lambda: PREDICTOR.predict_batch([("a", "V"), "b\tV"]),
            (
                f'text 2: "b\\tV" has no features. Expected features separated by ";", {KNOWN}'
                'Pass features, or pairs (text, features); "" stands for none.'
            ),
        ),
        (
            lambda: list(PREDICTOR.score_stream([Pair("a", "p", 1, ""), Pair("b", "p", 2)])),
            (
                f'pair 2: "b" has no features. Expected features separated by ";", {KNOWN}'
                'Pass pairs with the attribute features; "" stands for none.'
            ),
        ),
        (
            lambda: PREDICTOR.predict("abc", features=["V;PST"]),
            (
                'features of text 1: the feature "V;PST" contains the separator ";". Expected one feature in each item '
                "of a sequence. Pass one str with all features, or split the item."
            ),
        ),
        (
            lambda: PREDICTOR.predict("abc", features="V\tPST"),
            "features of text 1: contains a tab. Expected one line of text. Replace it with a space.",
        ),
        (
            lambda: PREDICTOR.predict("abc", features=["V", "\ud800"]),
            (
                "features of text 1: contains half a surrogate pair (U+D800). Expected complete Unicode characters. "
                "Decode the text with the right encoding, and without surrogateescape."
            ),
        ),
        (
            lambda: PLAIN.predict("abc", features="V"),
            (
                'text 1: "abc" has features ("V"), but the model was trained without any. Expected a text alone. Leave '
                "the features out, or use a model that was trained with features."
            ),
        ),
        (
            lambda: PLAIN.predict_batch(["abc", ("d", ["V", "PST"])]),
            (
                'text 2: "d" has features (["V", "PST"]), but the model was trained without any. Expected a text '
                "alone. Leave the features out, or use a model that was trained with features."
            ),
        ),
    ],
)
def test_sources_that_do_not_suit_the_model(call, message):
    with pytest.raises(DataError) as caught:
        call()
    assert str(caught.value) == message


ONE = "a str with all features, or a list of str with one feature each"
TWO = 'a pair (text, features), for example ("walk", "V;PST") or ("walk", ["V", "PST"])'


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PREDICTOR.predict("abc", features=3), f"features: the value is 3 (int). Expected {ONE}."),
        (lambda: PREDICTOR.predict("abc", features={"V"}), f"features: the value is {{'V'}} (set). Expected {ONE}."),
        (lambda: PREDICTOR.predict("abc", features=b"V"), f"features: the value is b'V' (bytes). Expected {ONE}."),
        (lambda: PREDICTOR.predict("abc", features=["V", 3]), "features[1]: the value is 3 (int). Expected a str."),
        (
            lambda: PREDICTOR.predict_batch([("abc", None)]),
            f"texts[0][1]: the value is None. Expected {ONE}.",
        ),
        (
            lambda: PREDICTOR.predict_batch([("abc", "V", "PST")]),
            f"texts[0]: the value is ('abc', 'V', 'PST') (tuple). Expected {TWO}.",
        ),
        (lambda: PREDICTOR.predict_batch([3]), f"texts[0]: the value is 3 (int). Expected {TWO}."),
        (
            lambda: PREDICTOR.predict_batch([{"abc"}]),
            "texts[0]: the value is {'abc'} (set). Expected " + TWO + ".",
        ),
        (lambda: PREDICTOR.predict_batch([(3, "V")]), f"texts[0]: the value is (3, 'V') (tuple). Expected {TWO}."),
        (
            lambda: list(PREDICTOR.score_stream([Pair("a", "p", 1, 7)])),
            f"pairs[0].features: the value is 7 (int). Expected {ONE}.",
        ),
        (lambda: PLAIN.predict("abc", features=3), f"features: the value is 3 (int). Expected {ONE}."),
        (lambda: PLAIN.predict_batch([("a", "b", "c")]), "texts[0]: the value is ('a', 'b', 'c') (tuple). Expected"),
    ],
)
def test_wrong_types_are_named(call, message):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_a_notebook_shows_the_features():
    assert "abc (V;PST)" in PREDICTOR.predict("abc", features="V;PST")._repr_html_()
    assert "abc (V, PST)" in PREDICTOR.predict("abc", features=["V", "PST"])._repr_html_()
    assert ">abc<" in PREDICTOR.predict("abc", features="")._repr_html_()
