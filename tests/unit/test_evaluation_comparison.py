"""Paired comparison of two evaluations, and examples to look at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from freerun.data.codec import Codec
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer, WhitespaceTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import DataError
from freerun.evaluation.comparison import compare
from freerun.evaluation.examples import Example, random_examples, worst_examples
from freerun.evaluation.free_running_metrics import FreeRunningMetrics
from freerun.evaluation.items import EvaluationSet, group_pairs
from freerun.evaluation.searcher_evaluation import Evaluation, TeacherForced
from freerun.metrics.paired import mcnemar, paired_ratios

CHARS = Codec(CharTokenizer(), Vocabulary("abc"))
WORDS = Codec(WhitespaceTokenizer(), Vocabulary("abc"))
NUMBERS = range(30)


def items(codec=CHARS, texts=NUMBERS):
    return group_pairs([Pair(f"{n:b}", "abcabc", n) for n in texts], CHARS, codec)


def evaluation(wrong, nll, codec=CHARS, texts=NUMBERS):
    """A model that is wrong on the sources in ``wrong``, with ``nll`` nats for each of them."""
    outputs = [codec.tokens("abb" if n in wrong else "abcabc") for n in texts]
    truncated, each = np.zeros(len(texts), bool), np.full(len(texts), 7.0)
    teacher = TeacherForced(np.full(len(texts), nll) + np.arange(len(texts)), each, each - 1, 0 * each, each)
    return Evaluation(
        items(codec, texts), teacher, FreeRunningMetrics(items(codec, texts), codec, outputs, truncated), [], 1
    )


A, B = evaluation({1, 2, 3, 4, 5, 6, 7, 8}, 4.0), evaluation({8}, 3.0)


def test_all_figures_are_compared():
    result = compare(A, B)
    assert set(result.differences) == {*A.ratios, "bleu.free", "chrf.free"}
    assert result.sources == 30
    assert result.differences["sequence_accuracy.free"] == paired_ratios(
        A.ratios["sequence_accuracy.free"], B.ratios["sequence_accuracy.free"]
    )
    assert result.mcnemar == mcnemar(A.free.matches, B.free.matches)
    assert (result.mcnemar.only_a, result.mcnemar.only_b) == (0, 7)


def test_differences_are_b_minus_a():
    differences = compare(A, B).differences
    assert differences["sequence_accuracy.free"].difference.value == pytest.approx(7 / 30)
    assert differences["symbol_error_rate.free"].difference.value == pytest.approx(-7 * 3 / 180)
    assert differences["nll.teacher"].difference.value == pytest.approx(-1 / 7)
    assert differences["nll.teacher"].difference.high == pytest.approx(-1 / 7)
    for name in ("bleu.free", "chrf.free"):
        assert differences[name].difference.low > 0
        assert differences[name].p_value == pytest.approx(2 / 1001)
        assert differences[name].difference.value == differences[name].b - differences[name].a


def test_a_model_equals_itself():
    for difference in compare(A, A).differences.values():
        assert (difference.difference.low, difference.difference.high, difference.p_value) == (0, 0, 1)


def test_models_with_other_tokens_are_compared_by_whole_sequences():
    result = compare(A, evaluation({8}, 3.0, WORDS))
    assert set(result.differences) == {"sequence_accuracy.free", "hit_length_bound.free"}
    assert result.differences["sequence_accuracy.free"].difference.value == pytest.approx(7 / 30)


def test_models_that_lack_other_target_tokens_are_not_compared_by_teacher_forced_figures():
    one, other = (Codec(CharTokenizer(), Vocabulary(letters)) for letters in ("abc", "abd"))
    result = compare(evaluation({8}, 3.0, one), evaluation({8}, 3.0, other))
    assert set(result.differences) == {*A.free.ratios, "bleu.free", "chrf.free", "unknown_target_tokens"}
    same = compare(evaluation({8}, 3.0, other), evaluation({8}, 3.0, other))
    assert {"nll.teacher", "token_accuracy.teacher"} <= set(same.differences)


def test_other_sources_are_refused():
    with pytest.raises(
        DataError, match=r"^compare: the models distinguish different sources: 30 and 12 of them\. Expected"
    ):
        compare(A, evaluation({8}, 3.0, texts=range(12)))


def with_features(model, *features):
    """The same evaluation of sources with features, in turn."""
    items = [replace(item, features=features[n % len(features)]) for n, item in enumerate(model.items.items)]
    return replace(model, items=EvaluationSet(items))


def test_sources_with_other_features_are_refused_and_those_without_any_are_the_same():
    one, other = with_features(A, "V;PST", ["N"]), with_features(B, "V;PST", "V")
    assert compare(one, with_features(B, "V;PST", ["N"])).sources == compare(one, B).sources == len(A.items)
    with pytest.raises(DataError, match=r"Expected models that read sources alike: normalisation, case folding and"):
        compare(one, other)


# ---------------------------------------------------------------------------------------------------------- examples


def outputs():
    pairs = [Pair("x", "abc", 1), Pair("y", "a", 2), Pair("y", "ab", 3), Pair("z", "aabbcc", 4), Pair("w", "", 5)]
    texts = ["abb", "ab", "", "cc"]
    truncated = np.array([False, False, True, False])
    return FreeRunningMetrics(
        group_pairs(pairs, CHARS, CHARS), CHARS, [CHARS.tokens(text) for text in texts], truncated
    )


def test_the_worst_have_the_highest_symbol_error_rates():
    assert worst_examples(outputs(), 2) == [Example("w", [""], "cc", 2, False), Example("z", ["aabbcc"], "", 6, True)]
    assert [example.source for example in worst_examples(outputs(), 9)] == ["w", "z", "x", "y"]


def test_random_examples_are_distinct_ordered_and_repeat():
    drawn = [random_examples(outputs(), 2, seed) for seed in range(30)]
    sources = ["x", "y", "z", "w"]
    for each in drawn:
        places = [sources.index(example.source) for example in each]
        assert places == sorted(set(places))
        assert len(places) == 2
    assert {example.source for each in drawn for example in each} == set(sources)
    assert random_examples(outputs(), 2, 5) == drawn[5]
    assert len(random_examples(outputs(), 9)) == 4
