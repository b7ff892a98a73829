"""Gathering the references of each source."""

from __future__ import annotations

import pytest

from freerun.data.codec import Codec
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
