"""Features: their separators, and pairs that lack them."""

from __future__ import annotations

import pytest

from freerun.data.features import FeatureCodec, likely_separator, source_key, with_features, without_features
from freerun.data.readers import Pair
from freerun.data.vocabulary import Vocabulary
from freerun.errors import DataError


@pytest.mark.parametrize(
    ("columns", "separator"),
    [
        (["V;PST", "N;SG"], ";"),
        (["V+PST", "N"], "+"),
        (["V PST", "N"], " "),
        (["V|PST"], "|"),
        (["pos=V,tense=PST"], ","),
        (["V; PST"], ";"),
        (["V;IN+ESS", "N;IN+ESS"], ";"),
        (["V IN+ESS", "N SG", "N PL"], " "),
        (["Case=Nom|Gender=Fem,Masc"], "|"),
        ([" V ", "N"], ";"),
        ([""], ";"),
        ([], ";"),
        ([("V", "PST")], ";"),
        ([("a;b", "c"), ("d|e",)], ","),
        ([("; | , + ",)], ";"),
        ([("a;b",), "c d"], " "),
    ],
)
def test_the_separator_is_the_one_that_occurs(columns, separator):
    assert likely_separator(columns) == separator


def failure(pairs):
    with pytest.raises(DataError) as caught:
        list(pairs)
    return str(caught.value)


def test_a_pair_without_features_is_named():
    pairs = [Pair("a", "b", 1, ""), Pair("c", "d", 2)]
    assert failure(with_features(pairs, "x.jsonl")) == (
        "x.jsonl:2: this pair has no features. Expected features in every pair, if the first one has them. Add the "
        "features, which may be empty."
    )
    assert failure(without_features(pairs[::-1], "x.jsonl")) == (
        "x.jsonl:1: this pair has features, and the first one has none. Expected features in every pair, or in none. "
        "Add features to the other pairs, which may be empty, or remove them here."
    )
    assert list(with_features(pairs[:1], "x")) == pairs[:1] and list(without_features(pairs[1:], "x")) == pairs[1:]


def test_a_feature_of_a_list_cannot_contain_the_separator():
    pairs = [Pair("a", "b", 7, ("V", "a+b"))]
    assert list(with_features(pairs, "x", ";")) == pairs
    assert failure(with_features(pairs, "x", "+")) == (
        'x:7: the feature "a+b" contains "+", which separates features. Expected features without the separator. Make '
        "it two features, or set data.feature_separator to a text that is in none of them."
    )
    assert list(with_features([Pair("a", "b", 1, "a+b")], "x", "+"))
    # joined, "a:" and "b" would be a, then :b
    assert 'the feature "a:" contains "::"' in failure(with_features([Pair("a", "b", 1, ("a:", "b"))], "x", "::"))


def test_ids_are_decoded_without_padding():
    codec = FeatureCodec(";", Vocabulary(["V", "PST"]))
    assert codec.decode([*codec.encode("PST;V;X"), 0, 0]) == "<unk>;V;PST"


def test_a_key_is_that_of_one_source_only():
    assert source_key("a b", ["c"]) != source_key("a", ["b", "c"]) != source_key("a", ["b c"])
    assert " ".join(source_key("a", ["b c"]).split()) != " ".join(source_key("a b", ["c"]).split())
