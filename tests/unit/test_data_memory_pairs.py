"""Pairs in memory, with and without features."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest

from freerun.data.memory_pairs import pairs_in_memory
from freerun.data.readers import Pair
from freerun.errors import DataError

Row = namedtuple("Row", "Index source target features")


@pytest.mark.parametrize(
    "value",
    [
        ("a", "b", "V;PST"),
        ["a", "b", "V;PST"],
        {"source": "a", "target": "b", "features": "V;PST", "other": 1},
        SimpleNamespace(source="a", target="b", features="V;PST"),
        Row(0, "a", "b", "V;PST"),
    ],
)
def test_every_form_of_a_pair_has_features(value):
    assert pairs_in_memory("pairs", [value]).pairs == (Pair("a", "b", 1, "V;PST"),)


@pytest.mark.parametrize("features", ["", (), [], ["V", "PST"], ("V",)])
def test_features_are_a_text_or_a_sequence(features):
    (pair,) = pairs_in_memory("pairs", [("a", "b", features)]).pairs
    assert pair.features == (features if isinstance(features, str) else tuple(features))


@pytest.mark.parametrize("value", [("a", "b"), {"source": "a", "target": "b", "features": None}])
def test_pairs_without_features(value):
    assert pairs_in_memory("pairs", [value]).pairs == (Pair("a", "b", 1, None),)


@pytest.mark.parametrize("features", [3, 0.5, {"V"}, {"V": 1}, b"V", ["V", 1], [["V"]], [None], float("nan")])
def test_features_of_another_type(features):
    with pytest.raises(TypeError, match=r"pairs\[1\].features: .* a str or a list of str as features"):
        pairs_in_memory("pairs", [("a", "b", "V"), {"source": "a", "target": "b", "features": features}])


@pytest.mark.parametrize("value", [("a", "b", None), ("a", "b", "c", "d"), ("a",)])
def test_a_sequence_has_two_or_three_items(value):
    with pytest.raises(TypeError, match=r"pairs\[0\]: "):
        pairs_in_memory("pairs", [value])


@pytest.mark.parametrize("features", ["V\tPST", ["V", "PST\n"], "\ud83d"])
def test_features_that_no_file_could_hold(features):
    with pytest.raises(DataError, match=r"pairs\[0\]: the feature text contains "):
        pairs_in_memory("pairs", [("a", "b", features)])


def test_all_pairs_have_features_or_none():
    with pytest.raises(DataError) as error:
        pairs_in_memory("pairs", [("a", "b", "V"), ("c", "d")])
    assert str(error.value) == (
        "pairs[1]: this pair has no features, and the first one has some. Expected features in every pair, or in none. "
        'Give the others features, too, which may be "".'
    )
    with pytest.raises(DataError, match=r"pairs\[2\]: this pair has features, and the first one has none. "):
        pairs_in_memory("pairs", [("a", "b"), ("c", "d"), ("e", "f", "")])
