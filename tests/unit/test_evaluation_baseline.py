"""Trivial baselines, and how outputs are judged."""

from __future__ import annotations

import numpy as np
import pytest

from freerun.data.codec import Codec
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer, WhitespaceTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.evaluation.baseline import baselines, most_frequent_target
from freerun.evaluation.free_running_metrics import FreeRunningMetrics
from freerun.evaluation.items import group_pairs
from freerun.metrics.bleu import bleu, chrf

CHARS = Codec(CharTokenizer(), Vocabulary("abc"))
WORDS = Codec(WhitespaceTokenizer(), Vocabulary(["ab", "c"]))
PAIRS = [Pair("ab", "ab", 1), Pair("abc", "ab", 2), Pair("c", "cc", 3), Pair("c", "c b", 4)]


class Pieces(WhitespaceTokenizer):
    """Two-letter pieces, as a stand-in for SentencePiece."""

    spec = "sentencepiece:9"

    def tokens(self, text):
        return [text[n : n + 2] for n in range(0, len(text), 2)]

    def text(self, tokens):
        return "".join(tokens)


def test_copying_writes_the_source_as_target_tokens():
    copied = baselines(group_pairs(PAIRS, CHARS, CHARS), CHARS)["copy"]
    assert copied.predictions == [["a", "b"], ["a", "b", "c"], ["c"]]
    assert copied.matches.tolist() == [True, False, False]
    assert copied.distances.distances.tolist() == [0, 1, 1]
    assert baselines(group_pairs(PAIRS, CHARS, WORDS), WORDS)["copy"].predictions == [["ab"], ["abc"], ["c"]]


def test_the_majority_is_the_same_for_all():
    outputs = baselines(group_pairs(PAIRS, CHARS, CHARS), CHARS, "ab")["majority"]
    assert outputs.predictions == [["a", "b"]] * 3
    metrics = outputs.metrics()
    assert metrics["sequence_accuracy.free"] == pytest.approx(2 / 3)
    # "c b" is the longer of two references at the same distance from "ab".
    assert metrics["symbol_error_rate.free"] == pytest.approx(2 / 7)
    assert metrics["hit_length_bound.free"] == 0


def test_a_baseline_has_free_running_figures_only():
    metrics = baselines(group_pairs(PAIRS, CHARS, CHARS), CHARS)["copy"].metrics()
    names = {name for name in metrics if not name.endswith((".low", ".high"))}
    expected = {"sequence_accuracy", "symbol_error_rate", "bleu", "chrf", "hit_length_bound"}
    assert names == {f"{name}.free" for name in expected} | {"sources"}
    assert metrics["sources"] == 3


def test_without_a_majority_there_is_only_copying():
    assert set(baselines(group_pairs(PAIRS, CHARS, CHARS), CHARS)) == {"copy"}


@pytest.mark.parametrize(
    ("targets", "expected"), [(["b", "a", "b"], "b"), (["b", "a", "c", "a", "b"], "b"), (["x"], "x"), (["", ""], "")]
)
def test_the_most_frequent_target(targets, expected):
    assert most_frequent_target(lambda: iter(targets)) == expected


def test_no_targets_have_no_most_frequent_one():
    with pytest.raises(ValueError, match="no target"):
        most_frequent_target(list)


def test_characters_are_compared_with_spaces_between():
    outputs = FreeRunningMetrics(group_pairs(PAIRS, CHARS, CHARS), CHARS, [["a", "b"], [], ["c"]], np.zeros(3, bool))
    references = [["a b"], ["a b"], ["c c", "c   b"]]
    assert (outputs.bleu.statistics == bleu(["a b", "", "c"], references, "none").statistics).all()
    assert (outputs.chrf.statistics == chrf(["a b", "", "c"], references).statistics).all()


def test_pieces_are_compared_as_texts_with_the_references_as_they_stand():
    codec = Codec(Pieces(), Vocabulary(["ab"]), normalisation="NFKC")
    pairs = [Pair("a", "the cat, ﬁne.", 1)]  # NFKC would write the ligature as two letters
    outputs = FreeRunningMetrics(group_pairs(pairs, CHARS, codec), codec, [["th", "e ", "ca", "t"]], np.zeros(1, bool))
    assert outputs.texts == ["the cat"]
    expected = bleu(["the cat"], [["the cat, ﬁne."]], "13a")
    assert (outputs.bleu.statistics == expected.statistics).all()
    assert outputs.bleu.signature == expected.signature
    assert (outputs.chrf.statistics == chrf(["the cat"], [["the cat, ﬁne."]]).statistics).all()


def test_a_space_is_a_token_like_any_other_where_targets_are_characters():
    codec = Codec(CharTokenizer(), Vocabulary("abc "))
    pairs = [Pair(f"{number:b}", "ab ca bc", number) for number in range(20)]
    items = group_pairs(pairs, codec, codec)
    missing = FreeRunningMetrics(items, codec, [[*"abcabc"]] * 20, np.zeros(20, bool))
    assert missing.bleu.value < 95 and missing.chrf.value < 95
    wrong = FreeRunningMetrics(items, codec, [[*"ab ca\u2581bc"]] * 20, np.zeros(20, bool))
    assert wrong.bleu.value < 95 and wrong.chrf.value < 95
    right = FreeRunningMetrics(items, codec, [[*"ab ca bc"]] * 20, np.zeros(20, bool))
    assert (right.bleu.value, right.chrf.value) == pytest.approx((100, 100))
