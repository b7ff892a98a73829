"""BLEU and chrF: known values, references in differing numbers, resampling, choice of tokenizer."""

from __future__ import annotations

import importlib.util
import math
import sys

import numpy as np
import pytest
import sacrebleu

from freerun.metrics.bleu import bleu, bleu_tokenizer, chrf, spaced

HYPOTHESES = ["the cat sat on the mat", "a dog"]
REFERENCES = [["the cat sat on a mat", "a cat was on the mat"], ["a dog barks"]]


def test_bleu_by_hand():
    # 1- to 4-grams that match: 5 of 6, 3 of 5, 2 of 4, 1 of 3; the output is as long as the reference.
    score = bleu(HYPOTHESES[:1], [REFERENCES[0][:1]], "none")
    assert score.value == pytest.approx(100 * math.exp(np.log([5 / 6, 3 / 5, 2 / 4, 1 / 3]).mean()))


def test_a_short_output_pays_the_brevity_penalty():
    long, short = "a b c d e f g h", "a b c d e f"
    assert bleu([short], [[long]], "none").value == pytest.approx(100 * math.exp(1 - 8 / 6))


@pytest.mark.parametrize("score", [lambda *each: bleu(*each, tokenize="none"), chrf])
def test_what_equals_one_of_its_references_is_perfect(score):
    outputs = ["p q r s t", "q q r s p"]
    assert score(outputs, [["x y", outputs[0]], [outputs[1]]]).value == pytest.approx(100)


def test_what_shares_nothing_is_worth_0():
    assert bleu(["a b c d"], [["e f g h"]], "none").value < 20  # smoothed
    assert bleu(["a b"], [["c d e f"]], "none").value == 0
    assert chrf(["a b"], [["c d"]]).value == 0


@pytest.mark.parametrize("score", [lambda *each: bleu(*each, tokenize="none"), chrf])
def test_empty_outputs_and_references_are_allowed(score):
    assert score(["", "a b c d e"], [[""], ["a b c d e"]]).value == pytest.approx(100)
    assert score(["", "x"], [["a b c d"], [""]]).value == 0


def test_bleu_of_outputs_under_four_tokens_is_undefined_and_not_0():
    short = bleu(["a b c", "d"], [["a b c"], ["d"]], "none")
    assert math.isnan(short.value)
    assert math.isnan(short.interval().low)
    assert math.isnan(short.interval().high)
    assert np.isnan(short.resampled()).all()
    # one 4-gram, of an output or of a reference, is enough to be wrong about
    assert bleu(["a b c", "d"], [["a b c d"], ["d"]], "none").value == 0
    assert bleu(["a b c d", "d"], [["a b c"], ["d"]], "none").value == pytest.approx(
        sacrebleu.corpus_bleu(["a b c d", "d"], [["a b c", "d"]], tokenize="none").score
    )


def test_the_reference_that_counts_is_the_one_closest_in_length():
    assert math.isnan(bleu(["a b"], [["a b", "a b c d e"]], "none").value)
    assert bleu(["a b c"], [["a b c d", "a"]], "none").value == 0


def test_resamples_without_a_4_gram_are_left_out_of_the_interval():
    score = bleu(["a b c d"] + ["a"] * 3, [["a b c d"]] + [["a"]] * 3, "none")
    resampled = score.resampled()
    assert 0.2 < np.isnan(resampled).mean() < 0.45  # (3 / 4) ** 4 = 0.32
    assert resampled[~np.isnan(resampled)] == pytest.approx(100)
    assert score.interval().low == pytest.approx(100)


def test_chrf_of_nothing_at_all_is_undefined():
    assert math.isnan(chrf(["", " "], [[""], [""]]).value)
    assert chrf(["", ""], [["a"], [""]]).value == 0
    assert chrf(["a", ""], [[""], [""]]).value == 0
    assert chrf(["ab"], [["ab"]]).value == pytest.approx(100)


def test_a_score_of_some_sources_is_that_of_their_texts():
    outputs, references = ["a b c d e", "x y", "a b c d"], [["a b c d e"], ["x y"], ["a b x d"]]
    every, rows = bleu(outputs, references, "none"), np.array([0, 2])
    assert every.of(rows).value == bleu([outputs[0], outputs[2]], [references[0], references[2]], "none").value
    assert math.isnan(every.of(np.array([1])).value)


def test_signatures_say_how_the_score_was_computed():
    assert "nrefs:var" in bleu(HYPOTHESES, REFERENCES, "none").signature
    assert "tok:13a" in bleu(HYPOTHESES, REFERENCES, "13a").signature
    assert chrf(HYPOTHESES, REFERENCES).signature.startswith("nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no")


def test_the_interval_lies_around_the_value_and_repeats():
    score = chrf(HYPOTHESES * 20, REFERENCES * 20)
    interval = score.interval()
    assert interval.low < interval.value < interval.high
    assert interval.value == score.value
    assert interval == score.interval(seed=0)
    assert (score.resampled() != score.resampled(seed=1)).mean() > 0.5
    assert len(score.resampled()) == 1000


@pytest.mark.parametrize("references", [[["a"]], [["a"], []], []])
def test_every_output_needs_a_reference(references):
    with pytest.raises(ValueError, match="2 hypotheses, and references for "):
        bleu(HYPOTHESES, references, "none")
    with pytest.raises(ValueError, match="0 hypotheses"):
        chrf([], [])


JAPANESE, ENGLISH = ["これは本です", "漢字だけ", "東京へ行く"], ["this is a book", "kanji", "to 東京"]


@pytest.mark.parametrize("spec", ["char", "whitespace"])
def test_tokens_are_compared_as_they_are(spec):
    assert bleu_tokenizer(spec, JAPANESE) == "none"


@pytest.mark.parametrize(
    ("references", "mecab", "expected"),
    [
        (JAPANESE, True, "ja-mecab"),
        (JAPANESE, False, "13a"),
        (ENGLISH, True, "13a"),
        ([*JAPANESE, *ENGLISH], True, "13a"),
        ([*JAPANESE, *ENGLISH[1:]], True, "ja-mecab"),
    ],
)
def test_pieces_are_compared_as_text(monkeypatch, references, mecab, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: mecab or None)
    assert bleu_tokenizer("sentencepiece:800", references) == expected


# every character that sacrebleu takes for whitespace, as Python does
WHITESPACE = [chr(number) for number in range(sys.maxunicode + 1) if chr(number).isspace()]


@pytest.mark.parametrize("score", [lambda *each: bleu(*each, tokenize="none"), chrf])
@pytest.mark.parametrize("space", WHITESPACE, ids=ascii)
def test_a_missing_space_lowers_the_score_where_it_is_a_token(score, space):
    reference = [*"ab", space, *"cd", space, *"ef"]
    without = [token for token in reference if token != space]
    assert score([spaced(without)] * 20, [[spaced(reference)]] * 20).value < 95
    assert score([spaced(reference)] * 20, [[spaced(reference)]] * 20).value == pytest.approx(100)
    at_the_ends = spaced([space, *reference, space])
    assert score([spaced(reference)] * 20, [[at_the_ends]] * 20).value < 95


@pytest.mark.parametrize("there", ["MeCab", "ipadic"])
def test_mecab_needs_its_dictionary(monkeypatch, there):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name == there else None)
    assert bleu_tokenizer("sentencepiece:8000", JAPANESE) == "13a"


def test_the_language_is_that_of_the_first_references(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    references = JAPANESE[:1] * 101 + ENGLISH[:1] * 99 + ENGLISH[:1] * 1000
    assert bleu_tokenizer("sentencepiece:8000", references) == "ja-mecab"
    assert bleu_tokenizer("sentencepiece:8000", references[1:]) == "13a"


def test_an_interval_is_drawn_with_its_seed():
    words = "abcdefgh"
    score = bleu(
        [f"{a} {b} x y" for a in words for b in words], [[f"{a} {a} x y"] for a in words for b in words], "none"
    )
    first, again, other = (score.interval(100, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_tokens_stay_as_many_and_as_different():
    # U+2581 is how SentencePiece writes a space, the others are private and last code points
    others = [*"ab", "\u2581", "\u200b", "\ue000", "\uf8ff", "\ufdd0", "\U000f0000", "\U0010ffff"]
    text = spaced([*WHITESPACE, *others])
    assert len(text.split()) == len(set(text.split())) == len(WHITESPACE) + len(others)
    assert {len(token) for token in text.split()} == {1}
    assert text.split()[len(WHITESPACE) :] == others
    # no token of a text is a lone surrogate
    assert all("\ud800" <= token <= "\udfff" for token in text.split()[: len(WHITESPACE)])


def test_tokens_without_whitespace_are_compared_as_they_are():
    assert spaced(["the", "cat", "\u2581on"]) == "the cat \u2581on"
    assert spaced([]) == ""
    assert spaced(["new york", "a"]) != spaced(["new", "york", "a"])
    assert len(spaced(["new york", "a"]).split()) == 2
