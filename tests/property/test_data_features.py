"""Features: any text in a field, any separator, any order; in files, in memory and back from the held-out pairs."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from freerun.data.features import SEPARATORS, FeatureCodec, feature_tokens, source_key, with_features
from freerun.data.memory_pairs import pairs_in_memory
from freerun.data.readers import Pair, read_pairs
from freerun.data.writers import write_pairs
from freerun.symbols import NUM_SPECIAL, UNK

# composed and decomposed letters, a combining mark alone, right-to-left text, emoji joined by U+200D, spaces of several
# kinds, the Greek question mark, which NFC makes a semicolon
ALPHABET = "VPST13;|,+: .=<é\u0301e\u0338א\u05b8ب\u200d👩🏽🔬\u00a0\u3000\u037e-'\"\\"
separators = st.sampled_from([*SEPARATORS, "::", "/", "e", " - ", "👩"])
texts = st.text(st.sampled_from(ALPHABET), max_size=12)
any_text = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r\0"), max_size=12)
fields = texts | any_text
names = st.text(st.sampled_from("VPST13.=éא👩🏽"), min_size=1, max_size=4)
lists = st.lists(names, max_size=8)


def through_file(name: str, pairs: list[Pair], separator: str) -> list[Pair]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if name.endswith(".tsv"):
            write_pairs(path, pairs, separator)
            return list(read_pairs(path, (1, 2, 3)))
        rows = [{"source": pair.source, "target": pair.target, "features": pair.features} for pair in pairs]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return list(read_pairs(path))


@given(fields, separators)
@example("", ";")
@example(";;", ";")
@example("V;PST;V", ";")
def test_tokens_are_distinct_clean_and_in_order(text, separator):
    tokens = feature_tokens(text, separator)
    assert len(set(tokens)) == len(tokens) and all(token == token.strip() != "" for token in tokens)
    assert all(unicodedata.is_normalized("NFC", token) for token in tokens)
    naive = [unicodedata.normalize("NFC", part).strip() for part in text.split(separator)]
    assert tokens == sorted({part for part in naive if part}, key=naive.index)


@given(lists, separators.filter(lambda each: each != "e" and each != "👩"), st.randoms(use_true_random=False))
def test_order_repetition_spaces_and_unicode_form_change_nothing(features, separator, random):
    codec = FeatureCodec.build([features[: len(features) // 2]], separator)
    other = [*features, *features[:2]]
    random.shuffle(other)
    joined = separator.join(f" {unicodedata.normalize('NFD', each)}  " for each in other)
    assert codec.encode(features) == codec.encode(other) == codec.encode(joined)
    assert source_key("a", codec.tokens(features)) == source_key("a", codec.tokens(joined))
    assert sorted(codec.unknown(features)) == sorted(codec.unknown(joined))


@given(st.lists(lists, max_size=6), lists, st.integers(1, 3))
def test_ids_are_those_of_the_known_features_and_unk_once(columns, features, minimum):
    codec = FeatureCodec.build(columns, ";", minimum)
    ids, unknown = codec.encode(features), codec.unknown(features)
    assert ids == sorted(set(ids)) and all(each == UNK or NUM_SPECIAL <= each < len(codec.vocabulary) for each in ids)
    assert (UNK in ids) == bool(unknown)
    known = [each for each in ids if each != UNK]
    assert set(codec.vocabulary.tokens(known)) | set(unknown) == set(codec.tokens(features))
    assert codec.encode(codec.decode(known)) == known
    counts = [
        sum(token in feature_tokens(column, ";") for column in columns) for token in codec.vocabulary.tokens(known)
    ]
    assert all(count >= minimum for count in counts)


@given(st.lists(st.tuples(fields, fields), min_size=1, max_size=5), separators)
def test_texts_come_back_from_every_form_unchanged(rows, separator):
    pairs = [Pair(f"x{source}", "y", line, features) for line, (source, features) in enumerate(rows, 1)]
    assert through_file("x.tsv", pairs, separator) == pairs
    assert through_file("x.jsonl", pairs, separator) == pairs
    assert pairs_in_memory("pairs", [(pair.source, pair.target, pair.features) for pair in pairs]).pairs == tuple(pairs)


@given(st.lists(st.lists(fields, max_size=6), min_size=1, max_size=5), separators)
def test_lists_come_back_with_the_same_features(rows, separator):
    rows = [[item for item in row if (item + separator).split(separator)[0] == item] for row in rows]
    pairs = [Pair("x", "y", line, tuple(row)) for line, row in enumerate(rows, 1)]
    assert list(with_features(pairs, "x", separator)) == pairs
    assert through_file("x.jsonl", pairs, separator) == pairs
    joined = through_file("x.tsv", pairs, separator)
    codec = FeatureCodec.build(rows, separator)
    assert codec == FeatureCodec.build([pair.features for pair in joined], separator)
    for pair, row in zip(joined, rows, strict=True):
        # the set, because a repeated separator (a b, with " ") may join what stands at the ends
        assert set(codec.tokens(pair.features)) == set(codec.tokens(row))


@given(separators.filter(lambda each: not each.isalnum()), st.randoms(use_true_random=False))
def test_a_thousand_features(separator, random):
    features = [f"F{number}" for number in range(1000)]
    shuffled = random.sample(features, 1000)
    codec = FeatureCodec.build([shuffled, separator.join(features)], separator)
    assert len(codec.vocabulary) == NUM_SPECIAL + 1000
    assert (
        codec.encode(shuffled) == codec.encode(separator.join(shuffled)) == list(range(NUM_SPECIAL, NUM_SPECIAL + 1000))
    )
    (pair,) = through_file("x.tsv", [Pair("a", "b", 1, tuple(shuffled))], separator)
    assert codec.encode(pair.features) == codec.encode(features)
