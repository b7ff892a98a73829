"""Gathering the references of each source."""

from __future__ import annotations

import pytest

from freerun.data.codec import Codec
from freerun.data.features import FeatureCodec
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer, WhitespaceTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import DataError
from freerun.evaluation.items import group_pairs

TARGET = Codec(WhitespaceTokenizer(), Vocabulary(["p"]))


def source_codec(**settings):
    return Codec(CharTokenizer(), Vocabulary("ab"), **settings)


def group(*pairs, **settings):
    return group_pairs([Pair(*pair, line) for line, pair in enumerate(pairs, 1)], source_codec(**settings), TARGET)


def test_sources_keep_their_order_and_references_theirs():
    items = group(("b", "p q"), ("a", "x"), ("b", "p"))
    assert items.sources == ["b", "a"]
    assert items.references == [[["p", "q"], ["p"]], [["x"]]]
    assert items.reference_texts == [["p q", "p"], ["x"]]
    assert len(items) == 2


def test_a_repeated_reference_counts_once():
    items = group(("a", "p q"), ("a", "p  q"), ("a", "p"))
    assert items.references == [[["p", "q"], ["p"]]]
    assert items.reference_texts == [["p q", "p"]]


def test_sources_that_the_model_cannot_tell_apart_are_one():
    assert group(("Ab", "p"), ("ab", "q"), case="lower").references == [[["p"], ["q"]]]
    assert group(("Ab", "p"), ("ab", "q")).sources == ["Ab", "ab"]
    assert group(("e\u0301", "p"), ("\u00e9", "q")).sources == ["e\u0301"]


def test_different_unknown_symbols_are_different_sources():
    assert len(group(("x", "p"), ("y", "p"))) == 2


def test_some_of_the_sources():
    items = group(("a", "p"), ("b", "q"), ("ab", "r"))
    assert items.take([2, 0]).sources == ["ab", "a"]
    assert items.take([2, 0]).references == [[["r"]], [["p"]]]


def test_no_pairs_are_refused():
    with pytest.raises(DataError, match=r"^pairs to evaluate on: there are none\. Expected at least one pair\."):
        group()


FEATURES = FeatureCodec(";", Vocabulary(["V", "N"]))


def test_a_source_is_the_pair_of_text_and_features():
    items = group_pairs(
        [
            Pair("a", "p", 1, "V;N"),
            Pair("a", "q", 2, ["N", "V"]),
            Pair("a", "r", 3, "V"),
            Pair("a", "s", 4, ""),
            Pair("a", "t", 5, "X"),
        ],
        source_codec(features=FEATURES),
        TARGET,
    )
    assert items.labels == ["a\tV;N", "a\tV", "a\t", "a\tX"]
    assert items.sources == ["a"] * 4
    assert items.references == [[["p"], ["q"]], [["r"]], [["s"]], [["t"]]]


def test_features_that_the_model_does_not_read_are_dropped():
    items = group_pairs([Pair("a", "p", 1, "V"), Pair("a", "q", 2, "N")], source_codec(), TARGET)
    assert (items.labels, items.has_features) == (["a"], False)
    assert items.references == [[["p"], ["q"]]]


def test_a_pair_without_features_is_refused_if_the_model_reads_them():
    pairs = [Pair("a", "p", 1, ""), Pair("b", "q", 2)]
    with pytest.raises(
        DataError, match=r'^pair 2: "b" has no features\. .* it has \'V\', \'N\'\. Add them; "" stands for'
    ):
        group_pairs(pairs, source_codec(features=FEATURES), TARGET)
