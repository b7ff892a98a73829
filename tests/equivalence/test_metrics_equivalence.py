"""Metrics against the packages they rest on, and against slow ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from freerun.metrics.accuracy import edit_distances
from freerun.metrics.bleu import bleu, chrf
from freerun.metrics.edit_distance import edit_distance
from freerun.metrics.intervals import ratio_interval, resampled_ratios
from freerun.metrics.paired import mcnemar, paired_ratios
from freerun.randomness import numpy_generator
from tests.oracle_outputs import edit_distance as distance_by_the_book

TOKENS = st.lists(st.sampled_from("abcd"), max_size=8)
TEXTS = st.lists(st.sampled_from(["p", "q", "rr", "s.", "t"]), max_size=9).map(" ".join)
CORPORA = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=8)


@given(one=TOKENS, other=TOKENS)
def test_edit_distance_is_levenshteins(one, other):
    assert edit_distance(one, other) == distance_by_the_book(one, other)


@given(corpus=st.lists(st.tuples(TOKENS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=5))
def test_distances_of_sources_are_those_of_their_closest_references(corpus):
    distances, lengths = edit_distances(*zip(*corpus, strict=True))
    for (hypothesis, references), distance, length in zip(corpus, distances, lengths, strict=True):
        every = [distance_by_the_book(hypothesis, reference) for reference in references]
        assert distance == min(every)
        assert length == max(
            len(reference) for reference, each in zip(references, every, strict=True) if each == distance
        )


def streams(references):
    most = max(map(len, references))
    return [[each[n] if n < len(each) else None for each in references] for n in range(most)]


def has_no_4_gram(corpus):
    """Whether no output and no reference of closest length has four tokens (the shorter of two as close)."""
    closest = [min((abs(len(r.split()) - len(h.split())), len(r.split())) for r in each)[1] for h, each in corpus]
    return max(closest) < 4 and all(len(h.split()) < 4 for h, _ in corpus)


@pytest.mark.parametrize("tokenize", ["none", "13a"])
@given(corpus=CORPORA.map(lambda corpus: [(h.replace(".", ""), [r.replace(".", "") for r in e]) for h, e in corpus]))
def test_bleu_is_undefined_without_4_grams(tokenize, corpus):
    score = bleu(*map(list, zip(*corpus, strict=True)), tokenize)
    assert np.isnan(score.value) == has_no_4_gram(corpus)
    assert np.isnan(score.interval().low) == has_no_4_gram(corpus)


@given(corpus=CORPORA)
def test_chrf_is_undefined_without_characters(corpus):
    everything = "".join(hypothesis + "".join(references) for hypothesis, references in corpus)
    if np.isnan(chrf(*map(list, zip(*corpus, strict=True))).value):
        assert all(not hypothesis.strip() for hypothesis, _ in corpus)
        assert all(not min(references, key=len).strip() for _, references in corpus)
    else:
        assert everything.strip()


@pytest.mark.parametrize("tokenize", ["none", "13a"])
@given(corpus=CORPORA)
def test_bleu_is_sacrebleus(tokenize, corpus):
    hypotheses, references = map(list, zip(*corpus, strict=True))
    theirs = sacrebleu.BLEU(tokenize=tokenize, force=True)
    score = theirs.corpus_score(hypotheses, streams(references))
    ours = bleu(hypotheses, references, tokenize)
    assert ours.value == pytest.approx(score.score) or (np.isnan(ours.value) and score.score == 0)
    assert ours.signature == str(theirs.get_signature())


@given(corpus=CORPORA)
def test_chrf_is_sacrebleus(corpus):
    hypotheses, references = map(list, zip(*corpus, strict=True))
    theirs = sacrebleu.CHRF()
    score = theirs.corpus_score(hypotheses, streams(references))
    ours = chrf(hypotheses, references)
    assert ours.value == pytest.approx(score.score) or (np.isnan(ours.value) and score.score == 0)
    assert ours.signature == str(theirs.get_signature())


def resampled_indices(sources, resamples, seed=0):
    generator = numpy_generator(seed, "bootstrap")
    return [generator.integers(sources, size=sources) for _ in range(resamples)]


def test_resampled_ratios_are_those_of_a_loop():
    generator = np.random.default_rng(0)
    tops, bottoms = generator.integers(9, size=23), generator.integers(1, 9, size=23)
    loop = [tops[drawn].sum() / bottoms[drawn].sum() for drawn in resampled_indices(23, 130, seed=5)]
    assert resampled_ratios(tops, bottoms, 130, seed=5) == pytest.approx(loop)


def test_the_interval_is_that_of_a_loop():
    generator = np.random.default_rng(0)
    tops, bottoms = generator.integers(9, size=23), generator.integers(1, 9, size=23)
    loop = [tops[drawn].sum() / bottoms[drawn].sum() for drawn in resampled_indices(23, 1000)]
    interval = ratio_interval(tops, bottoms)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(loop, [2.5, 97.5])))


@pytest.mark.parametrize("score", [lambda *each: bleu(*each, tokenize="none"), chrf])
def test_resampled_scores_are_those_of_resampled_texts(score):
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(list("pqr"), size=6)) for _ in range(60)]
    hypotheses, references = texts[:20], [[one, other] for one, other in zip(texts[20:40], texts[40:], strict=True)]
    loop = [
        score([hypotheses[n] for n in drawn], [references[n] for n in drawn]).value
        for drawn in resampled_indices(20, 60)
    ]
    assert score(hypotheses, references).resampled(60) == pytest.approx(loop)


def test_the_paired_difference_is_that_of_a_loop():
    generator = np.random.default_rng(0)
    a, b, lengths = generator.integers(9, size=(3, 23)) + 1
    loop = np.array([(b[n].sum() - a[n].sum()) / lengths[n].sum() for n in resampled_indices(23, 1000)])
    result = paired_ratios((a, lengths), (b, lengths))
    assert (result.difference.low, result.difference.high) == pytest.approx(tuple(np.percentile(loop, [2.5, 97.5])))
    assert result.p_value == pytest.approx(min(1, 2 * (min((loop <= 0).sum(), (loop >= 0).sum()) + 1) / 1001))


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (3, 9), (40, 41), (700, 600), (9000, 8700)])
def test_mcnemar_is_the_binomial_test(only_a, only_b):
    right_a = np.arange(only_a + only_b) < only_a
    expected = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert mcnemar(right_a, ~right_a).p_value == pytest.approx(expected, rel=1e-6)
