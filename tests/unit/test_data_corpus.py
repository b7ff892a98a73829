from __future__ import annotations

import numpy as np
import pytest

from freerun.data.codec import Codec
from freerun.data.corpus import Corpus, FilterReport, Ragged, encode_corpus
from freerun.data.features import FeatureCodec
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer, WhitespaceTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import DataError
from freerun.symbols import EOS

CHARS = Codec(CharTokenizer(), Vocabulary("abc"))


def encode(*pairs: tuple[str, str], source=CHARS, **limits) -> tuple[Corpus, FilterReport]:
    return encode_corpus((Pair(*pair, line) for line, pair in enumerate(pairs, 1)), source, CHARS, **limits)


def test_rows_are_encoded():
    corpus, _ = encode(("ab", "c"), ("", "abc"), source=Codec(CharTokenizer(), Vocabulary("abc"), reverse=True))
    assert [row.tolist() for row in corpus.sources] == [[5, 4, EOS], [EOS]]
    assert [row.tolist() for row in corpus.targets] == [[6, EOS], [4, 5, 6, EOS]]
    assert corpus.targets.lengths.tolist() == [2, 4]
    assert len(corpus) == 2
    assert corpus.sources.tokens.dtype == np.uint16


def test_a_large_vocabulary_has_wider_ids():
    words = Vocabulary(str(number) for number in range(65_533))
    source = Codec(WhitespaceTokenizer(), words)
    corpus, _ = encode(("65532 0", "a"), source=source)
    assert corpus.sources.tokens.dtype == np.int32
    assert corpus.sources[0].tolist() == [65_536, 4, EOS]
    narrower, _ = encode(
        ("65531", "a"), source=Codec(WhitespaceTokenizer(), Vocabulary(words.tokens(range(4, 65_536))))
    )
    assert narrower.sources.tokens.dtype == np.uint16
    assert narrower.sources[0].tolist() == [65_535, EOS]


def test_a_large_vocabulary_of_features_has_wider_ids():
    features = FeatureCodec(";", Vocabulary(str(number) for number in range(65_533)))
    source = Codec(CharTokenizer(), Vocabulary("abc"), features=features)
    corpus, _ = encode_corpus(iter([Pair("a", "b", 1, "65532;0")]), source, CHARS, held_out=[Pair("b", "", 2, "65532")])
    assert corpus.features is not None
    assert corpus.features[0].tolist() == [4, 65_536]
    assert corpus.sources[0].tolist() == [4, EOS]


def test_padded_rows():
    rows = Ragged(np.array([4, 2, 5, 6, 2, 2], np.uint16), np.array([0, 2, 5, 6]))
    assert rows.padded(np.array([2, 1]), 9).tolist() == [[2, 9, 9], [5, 6, 2]]


def test_a_row_out_of_range():
    rows = Ragged(np.array([4, 2], np.uint16), np.array([0, 2]))
    for row in (1, -1):
        with pytest.raises(IndexError, match=f"row {row} of 1 rows"):
            rows[row]


def test_sources_are_numbered_in_order():
    corpus, _ = encode(("b", "a"), ("a", "a"), ("b", "c"), ("", "a"), ("a", "a"))
    assert corpus.group.tolist() == [0, 1, 0, 2, 1]
    assert corpus.num_sources == 3


def test_references_are_distinct_and_in_order():
    corpus, _ = encode(("a", "c"), ("b", "b"), ("a", "ab"), ("a", "c"), ("a", ""))
    assert [target.tolist() for target in corpus.references(2)] == [[6, EOS], [4, 5, EOS], [EOS]]
    assert [target.tolist() for target in corpus.references(1)] == [[5, EOS]]


def test_length_filter_counts():
    corpus, report = encode(
        ("ab", "a"),
        ("abc", "a"),
        ("ab", "abcc"),
        ("abc", "abcc"),
        ("", "abc"),
        max_source_length=2,
        max_target_length=3,
    )
    assert report == FilterReport(
        read=5, kept=2, too_long_source=2, too_long_target=1, longest_source=2, longest_target=3
    )
    assert len(corpus) == 2
    assert str(report) == "2 of 5 pairs kept; dropped: 2 with a long source, 1 with a long target"


def test_pairs_with_the_ids_of_a_held_out_source_are_left_out():
    held_out = [Pair("aZ", "", 1), Pair("aYb", "", 2)]
    corpus, report = encode(
        ("ab", "a"), ("aX", "a"), ("ab", "c"), ("aYb", "b"), ("b", "aaaaa"), held_out=held_out, max_target_length=3
    )
    assert report == FilterReport(
        read=5, kept=2, too_long_source=0, too_long_target=1, longest_source=2, longest_target=1, same_as_held_out=2
    )
    assert [corpus.sources[row].tolist() for row in range(2)] == [[4, 5, EOS]] * 2
    assert str(report).endswith("1 with a long target, 2 with the tokens of a held-out source")


def test_nothing_left_says_what_leaked():
    with pytest.raises(DataError, match=r"^pairs: 1 of 2 training pairs have .* source, and the other 1 are too long"):
        encode(("aX", "a"), ("abc", "a"), held_out=[Pair("aY", "", 1)], max_source_length=2)


def test_without_limits_all_are_kept():
    _, report = encode(("abcabc", "a"), ("a", "abcabcabc"))
    assert report == FilterReport(
        read=2, kept=2, too_long_source=0, too_long_target=0, longest_source=6, longest_target=9
    )


def test_largest_ratio():
    assert encode(("ab", "abcabc"), ("", "ab"), ("c", "c"))[0].largest_ratio == 3.0
    assert encode(("ab", "a"), ("", "ab"))[0].largest_ratio == 2.0


def test_nothing_left():
    with pytest.raises(DataError) as caught:
        encode(("abc", "a"), ("a", "abc"), max_source_length=2, max_target_length=1)
    assert str(caught.value).startswith(
        "pairs: all 2 pairs are too long (1 sources, 1 targets). Expected at most 2 source tokens and 1 target tokens."
    )
    with pytest.raises(DataError, match="pairs: there are no pairs"):
        encode()
