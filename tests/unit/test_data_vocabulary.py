from __future__ import annotations

import json
from collections import Counter

import pytest

from freerun.data.vocabulary import Vocabulary
from freerun.errors import BundleError
from freerun.symbols import NUM_SPECIAL, UNK


def damage(text: str) -> str:
    with pytest.raises(BundleError) as caught:
        Vocabulary.from_json(text, "m/source_vocabulary.json")
    return str(caught.value)


def test_ids_follow_the_special_ones():
    vocabulary = Vocabulary(["b", "a"])
    assert vocabulary.ids(["a", "x", "b"]) == [NUM_SPECIAL + 1, UNK, NUM_SPECIAL]
    assert len(vocabulary) == NUM_SPECIAL + 2
    assert "a" in vocabulary and "x" not in vocabulary


def test_special_names_are_ordinary_tokens():
    vocabulary = Vocabulary(["<pad>", "<unk>"])
    assert vocabulary.ids(["<pad>", "<unk>", "<eos>"]) == [4, 5, UNK]
    assert vocabulary.tokens([0, 1, 2, 3, 4]) == ["<pad>", "<bos>", "<eos>", "<unk>", "<pad>"]
    assert "<bos>" not in vocabulary


@pytest.mark.parametrize("number", [-1, 6])
def test_an_id_out_of_range(number):
    with pytest.raises(IndexError, match=f"id {number} is not in a vocabulary of 6 ids"):
        Vocabulary(["a", "b"]).token(number)


def test_from_counts_orders_by_count_then_token():
    counts = Counter({"c": 2, "a": 2, "b": 5, "d": 1})
    assert Vocabulary.from_counts(counts, 1).tokens(range(4, 8)) == ["b", "a", "c", "d"]
    assert Vocabulary.from_counts(counts, 2).tokens(range(4, 7)) == ["b", "a", "c"]
    assert len(Vocabulary.from_counts(counts, 6)) == NUM_SPECIAL


def test_a_token_stands_once():
    with pytest.raises(ValueError, match="'b' occurs twice"):
        Vocabulary(["a", "b", "b"])


def test_equality_and_hash_mean_the_same_ids():
    one, same, other = Vocabulary("ab"), Vocabulary("ab"), Vocabulary("ba")
    assert one == same and one.hash == same.hash and hash(one) == hash(same)
    assert one != other and one.hash != other.hash
    assert Vocabulary(["ab"]).hash != Vocabulary(["a", "b"]).hash != Vocabulary(["a, b"]).hash
    assert one != "ab"
    assert repr(one) == f"Vocabulary(6 ids, {one.hash[:8]})"


def test_json_is_readable_and_stable():
    text = Vocabulary(["ɛ̃", "a"]).to_json()
    assert json.loads(text) == {"version": 1, "tokens": ["ɛ̃", "a"]}
    assert "ɛ̃" in text
    assert Vocabulary.from_json(text, "x").to_json() == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "this is not JSON: "),
        ("[" * 100_000, "this is not JSON: "),
        ("[]", "this is not a JSON object."),
        ('{"tokens": []}', "the version is null."),
        ('{"version": true, "tokens": []}', "the version is true."),
        ('{"version": 0, "tokens": []}', "the version is 0."),
        ('{"version": 1}', "there is no list 'tokens'."),
        ('{"version": 1, "tokens": "ab"}', "there is no list 'tokens'."),
        ('{"version": 1, "tokens": ["a", 7]}', "token 1 is 7, not a string."),
        ('{"version": 1, "tokens": ["a", "b", "a"]}', "the token 'a' occurs twice."),
        ('{"version": 2, "tokens": 0}', "version 2 of the vocabulary format is too new. Expected at most version 1"),
    ],
)
def test_damaged_json(text, part):
    assert damage(text).startswith(f"m/source_vocabulary.json: {part}")
