"""Evaluating a table stepper on pairs, against the same figures computed one source at a time."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import sacrebleu

from freerun.data.codec import Codec
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer, WhitespaceTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.evaluation.items import group_pairs
from freerun.evaluation.searcher_evaluation import evaluate
from freerun.metrics.edit_distance import closest_reference
from freerun.search.batches import ROWS
from freerun.search.bound import LengthBound
from freerun.search.methods import Beam
from freerun.search.searcher import StepperSearcher
from freerun.symbols import EOS, UNK
from tests.searching import beam_search
from tests.steppers import TableStepper, batch, bounds

SOURCE = Codec(CharTokenizer(), Vocabulary("abcde"), reverse=True)
TARGET = Codec(WhitespaceTokenizer(), Vocabulary(["p", "q", "r", "s"]))
PAIRS = [Pair(source, target, n) for n, (source, target) in enumerate([
    ("abc", "p q"), ("", "p"), ("de", "r r s q"), ("abc", "q p p"), ("e", ""), ("cab", "p ZZ q"), ("abc", "p q"),
    ("aabbccdd", "q"), ("da", "s s"),
])]  # fmt: skip
ITEMS = group_pairs(PAIRS, SOURCE, TARGET)
BOUND = LengthBound(0, 0.0, fixed=5)
KEYS = {
    *("nll.teacher", "perplexity.teacher", "token_accuracy.teacher", "sequence_accuracy.free"),
    *("symbol_error_rate.free", "bleu.free", "chrf.free", "hit_length_bound.free", "unknown_target_tokens"),
}


def stepper(seed=0):
    return TableStepper(len(TARGET.vocabulary), seed=seed, bias={EOS: 0.5})


def run(model=None, items=ITEMS, bound=BOUND, batch_size=ROWS, progress=None, **beam):
    searcher, search = StepperSearcher(lambda: model or stepper()), Beam(**beam)
    options = {"bound": bound, "search": search, "batch_size": batch_size, "progress": progress}
    return evaluate(searcher, items, SOURCE, TARGET, **options)


def outputs(beam_size=1):
    """Best hypotheses, decoded one source at a time."""
    return [
        beam_search(stepper(), *batch([SOURCE.encode(text)]), max_lengths=bounds(5), beam_size=beam_size)[0][0]
        for text in ITEMS.sources
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("beam_size", [1, 2])
def test_outputs_are_those_of_each_source_alone(batch_size, beam_size):
    result = run(batch_size=batch_size, beam_size=beam_size)
    assert result.hypotheses == outputs(beam_size)
    assert result.free.predictions == [TARGET.decode(hypothesis.ids) for hypothesis in outputs(beam_size)]
    assert result.free.truncated.tolist() == [hypothesis.truncated for hypothesis in outputs(beam_size)]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_teacher_forced_figures_sum_over_references_and_then_over_sources(batch_size):
    result = run(batch_size=batch_size)
    nll, tokens = [], []
    for item in ITEMS.items:
        targets = [TARGET.encode_tokens(reference) for reference in item.references]
        source = SOURCE.encode(item.source)
        places = [(ids, n) for ids in targets for n in range(len(ids)) if ids[n] != UNK]
        scores = [stepper().distribution(source, ids[:n])[ids[n]] for ids, n in places]
        nll.append(-sum(scores))
        tokens.append(len(scores))
    assert result.teacher.nll == pytest.approx(nll, abs=1e-4)
    assert result.teacher.num_tokens.tolist() == tokens
    assert result.teacher.num_unknown.tolist() == [0, 0, 0, 0, 1, 0, 0]
    assert result.teacher.num_all.tolist() == [3 + 4, 2, 5, 1, 4, 2, 3]
    metrics = result.metrics()
    assert metrics["nll.teacher"] == pytest.approx(sum(nll) / sum(tokens))
    assert metrics["perplexity.teacher"] == pytest.approx(math.exp(sum(nll) / sum(tokens)), rel=1e-5)


def test_token_accuracy_counts_what_greedy_search_would_write_after_the_right_tokens():
    result, correct = run(), 0
    for item in ITEMS.items:
        for reference in item.references:
            ids = TARGET.encode_tokens(reference)
            for n, right in enumerate(ids):
                log_probs = stepper().distribution(SOURCE.encode(item.source), ids[:n])
                correct += right == max((EOS, *range(4, 8)), key=lambda token: log_probs[token])
    assert result.metrics()["token_accuracy.teacher"] == pytest.approx(correct / result.teacher.num_tokens.sum())
    assert 0 < correct < result.teacher.num_tokens.sum()


def test_free_running_figures():
    result, metrics = run(), run().metrics()
    words = [TARGET.decode(hypothesis.ids) for hypothesis in outputs()]
    closest = [closest_reference(*pair) for pair in zip(words, ITEMS.references, strict=True)]
    expected = sum(distance for distance, _ in closest) / sum(length for _, length in closest)
    assert metrics["symbol_error_rate.free"] == pytest.approx(expected)
    assert metrics["sequence_accuracy.free"] == pytest.approx(sum(not each.distance for each in closest) / 7)
    assert metrics["hit_length_bound.free"] == pytest.approx(sum(h.truncated for h in outputs()) / 7)
    streams = [[" ".join(each[n]) if n < len(each) else None for each in ITEMS.references] for n in range(2)]
    texts = [" ".join(each) for each in words]
    assert metrics["bleu.free"] == pytest.approx(sacrebleu.BLEU(tokenize="none").corpus_score(texts, streams).score)
    assert metrics["chrf.free"] == pytest.approx(sacrebleu.CHRF().corpus_score(texts, streams).score)
    assert "tok:none" in result.free.bleu.signature


def test_the_keys_are_the_contracts_and_every_figure_has_an_interval():
    metrics = run(beam_size=2).metrics()
    ends = {f"{key}.{end}" for key in KEYS for end in ("low", "high")}
    assert set(metrics) == KEYS | ends | {"sources", "beam_size"}
    assert (metrics["sources"], metrics["beam_size"]) == (7, 2)
    for key in KEYS:
        assert metrics[f"{key}.low"] <= metrics[key] <= metrics[f"{key}.high"]
    assert metrics["perplexity.teacher.low"] == pytest.approx(math.exp(metrics["nll.teacher.low"]))


TEACHER = ("nll.teacher", "perplexity.teacher", "token_accuracy.teacher")


def forced_alone(model, source, target):
    """NLL of each token, and whether greedy search would write it, one after the other."""
    source, ids = SOURCE.encode(source), TARGET.encode(target)
    rows = [model.distribution(source, ids[:n]) for n in range(len(ids))]
    best = [max((EOS, *range(4, 8)), key=lambda token: row[token]) for row in rows]
    return [-row[token] for row, token in zip(rows, ids, strict=True)], [a == b for a, b in zip(best, ids, strict=True)]


def test_unknown_tokens_are_in_no_teacher_forced_figure_and_are_counted_apart():
    model = TableStepper(8, bias={UNK: 30.0, 4: 3.0})  # UNK is nearly certain everywhere
    metrics = run(model, group_pairs([Pair("cab", "p ZZ q YY", 1)], SOURCE, TARGET)).metrics()
    nll, right = forced_alone(model, "cab", "p ZZ q YY")
    assert metrics["nll.teacher"] == pytest.approx((nll[0] + nll[2] + nll[4]) / 3, rel=1e-5)
    assert metrics["perplexity.teacher"] == pytest.approx(math.exp((nll[0] + nll[2] + nll[4]) / 3), rel=1e-4)
    assert metrics["token_accuracy.teacher"] == pytest.approx((right[0] + right[2] + right[4]) / 3)
    assert metrics["unknown_target_tokens"] == pytest.approx(2 / 5)
    assert metrics["sequence_accuracy.free"] == 0  # UNK is never written, however likely


def test_where_every_token_is_unknown_the_teacher_forced_figures_are_undefined():
    model = TableStepper(8, bias={UNK: 30.0})
    metrics = run(model, group_pairs([Pair("cab", "ZZ YY", 1), Pair("a", "XX", 2)], SOURCE, TARGET)).metrics()
    ends = [name + end for name in TEACHER for end in ("", ".low", ".high")]
    assert all(math.isnan(metrics[name]) for name in ends)
    assert metrics["unknown_target_tokens"] == pytest.approx(3 / 5)


def test_an_end_token_counts_unless_only_unknown_tokens_precede_it():
    pairs = [Pair("cab", "ZZ", 1), Pair("cab", "p", 2), Pair("cab", "", 3), Pair("a", "ZZ ZZ", 4)]
    result = run(items=group_pairs(pairs, SOURCE, TARGET))
    assert result.teacher.num_tokens.tolist() == [2 + 1, 0]
    known = run(items=group_pairs(pairs[1:3], SOURCE, TARGET))
    assert result.metrics()["nll.teacher"] == pytest.approx(known.metrics()["nll.teacher"], rel=1e-6)
    assert result.metrics()["token_accuracy.teacher"] == known.metrics()["token_accuracy.teacher"]


def test_a_source_is_right_through_a_reference_that_can_be_written():
    model = TableStepper(8, bias={UNK: 30.0, EOS: 20.0, 5: 10.0})
    items = group_pairs([Pair("cab", "q ZZ", 1), Pair("a", "ZZ", 2), Pair("a", "", 3)], SOURCE, TARGET)
    assert run(model, items).free.matches.tolist() == [False, True]


def test_an_exact_match_is_a_reference_that_is_forced_without_an_error():
    greedy = {item.source: " ".join(TARGET.decode(h.ids)) for item, h in zip(ITEMS.items, outputs(), strict=True)}
    items = group_pairs([Pair(source, target, 1) for source, target in greedy.items()], SOURCE, TARGET)
    result = run(items=items)
    assert result.metrics()["sequence_accuracy.free"] == 1
    complete = ~result.free.truncated
    assert complete.any()
    assert (result.teacher.num_correct == result.teacher.num_tokens)[complete].all()


def test_undefined_figures_are_not_numbers():
    metrics = run(items=group_pairs([Pair("a", "", 1)], SOURCE, TARGET)).metrics()
    assert math.isnan(metrics["symbol_error_rate.free"])
    assert math.isnan(metrics["symbol_error_rate.free.low"])
    assert not math.isnan(metrics["nll.teacher"])


def test_a_perplexity_beyond_all_numbers_is_infinite():
    metrics = run(TableStepper(8, bias={7: 750.0}), group_pairs([Pair("a", "p", 1)], SOURCE, TARGET)).metrics()
    assert metrics["nll.teacher"] > 709
    assert metrics["perplexity.teacher"] == math.inf


def test_the_bound_follows_the_length_of_the_source():
    model = TableStepper(8, bias={EOS: -30.0})
    result = run(model, bound=LengthBound(1, 2.0))
    assert [len(hypothesis.ids) for hypothesis in result.hypotheses] == [
        max(3, 4 * len(text)) + 10 for text in ITEMS.sources
    ]
    assert result.metrics()["hit_length_bound.free"] == 1


def test_the_length_penalty_reaches_the_search():
    plain, long = run(beam_size=4), run(beam_size=4, length_penalty=8.0)
    assert sum(map(len, long.free.predictions)) > sum(map(len, plain.free.predictions))


def test_stopping_early_reaches_the_search():
    exact, early = (TableStepper(len(TARGET.vocabulary), bias={EOS: 3.0}) for _ in range(2))
    settings = {"bound": LengthBound(0, 0.0, fixed=20), "beam_size": 2, "length_penalty": 2.0}
    run(exact, **settings)
    run(early, **settings, early_stop=True)
    assert sum(early.rows_fed) < sum(exact.rows_fed)


def test_batches_hold_batch_size_rows_of_neighbouring_lengths():
    model = stepper()
    shapes = []
    start = model.start
    model.start = lambda ids, lengths: (
        shapes.append((len(lengths), lengths.min(), lengths.max())),
        start(ids, lengths),
    )
    run(model, batch_size=4, beam_size=2)
    free = shapes[-4:]
    assert [rows for rows, _, _ in free] == [2, 2, 2, 1]
    assert [shortest for _, shortest, _ in free] == sorted(shortest for _, shortest, _ in free)
    forced = shapes[:-4]
    assert [(rows, int(shortest), int(longest)) for rows, shortest, longest in forced] == [(4, 1, 3), (4, 4, 9)]


def test_progress_goes_up_to_the_total():
    seen = []
    run(batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (15, 15)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert Counter(total for _, total in seen) == {15: len(seen)}


def test_ratios_give_the_figures_of_each_source():
    result = run()
    assert {len(column) for figures in result.ratios.values() for column in figures} == {7}
    assert (result.ratios["sequence_accuracy.free"][0] == np.array(result.free.matches)).all()
