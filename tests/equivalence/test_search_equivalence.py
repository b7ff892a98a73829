"""Search against brute force, against a naive beam, and its special cases against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freerun.search.beam import BeamChooser, beam_search
from freerun.search.loop import decode
from freerun.search.sampling import sample
from tests.steppers import TableStepper, batch, bounds, enumerate_all, naive_beam

SOURCES = [[4, 5, 2], [5, 2], [2]]
EVERYTHING = 400  # a beam as wide as there are outputs of 4 tokens out of three


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0, -1.0])
@pytest.mark.parametrize("max_length", [0, 1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_is_brute_force(penalty, max_length, seed):
    stepper = TableStepper(vocabulary_size=7, seed=seed)
    found = beam_search(
        stepper,
        *batch(SOURCES),
        max_lengths=bounds(*[max_length] * 3),
        beam_size=EVERYTHING,
        num_hypotheses=EVERYTHING,
        length_penalty=penalty,
    )
    for source, hypotheses in zip(SOURCES, found, strict=True):
        expected = enumerate_all(stepper, source, max_length, penalty)
        assert [h.ids for h in hypotheses] == [h.ids for h in expected]
        assert [h.rank_score for h in hypotheses] == pytest.approx([h.rank_score for h in expected])
        assert not any(h.truncated for h in hypotheses)
        for one, other in zip(hypotheses, expected, strict=True):
            assert one.token_scores == pytest.approx(other.token_scores)
            assert one.score == pytest.approx(other.score)


def test_a_wide_beam_with_a_prefix_is_brute_force():
    stepper, prefixes = TableStepper(vocabulary_size=7, seed=9), [[5, 4], [], [6]]
    found = beam_search(
        stepper, *batch(SOURCES), max_lengths=bounds(4, 4, 4), num_hypotheses=EVERYTHING, prefix=prefixes
    )
    for source, prefix, hypotheses in zip(SOURCES, prefixes, found, strict=True):
        assert [h.ids for h in hypotheses] == [h.ids for h in enumerate_all(stepper, source, 4, 0.0, prefix)]


def test_the_best_output_of_all_is_found_without_enumerating_them():
    stepper = TableStepper(vocabulary_size=7, seed=11)
    (best, *_), *_ = beam_search(stepper, *batch([[4]]), max_lengths=bounds(7), beam_size=60)
    assert best.ids == enumerate_all(stepper, [4], 7)[0].ids


@given(
    seed=st.integers(0, 10_000),
    beam_size=st.integers(2, 6),
    max_length=st.integers(0, 6),
    penalty=st.sampled_from([0.0, 0.5, 1.5, -0.5]),
    vocabulary_size=st.integers(4, 9),
    ending=st.sampled_from([-2.0, 0.0, 1.0]),
)
def test_beam_search_is_its_naive_definition(seed, beam_size, max_length, penalty, vocabulary_size, ending):
    levels = 3 if seed % 2 and penalty == 0 else None  # ties, where sums are exact enough to tie
    stepper = TableStepper(vocabulary_size, seed=seed, levels=levels, bias={2: ending})
    lengths = bounds(*[max_length] * 3)
    found = beam_search(
        stepper,
        *batch(SOURCES),
        max_lengths=lengths,
        beam_size=beam_size,
        num_hypotheses=beam_size,
        length_penalty=penalty,
    )
    for source, hypotheses in zip(SOURCES, found, strict=True):
        expected = naive_beam(stepper, source, max_length, beam_size, penalty)[:beam_size]
        assert [(h.ids, h.truncated) for h in hypotheses] == expected


@given(
    seed=st.integers(0, 10_000),
    max_length=st.integers(0, 8),
    penalty=st.sampled_from([0.0, 1.0, -1.0]),
    levels=st.sampled_from([None, 1, 2]),
)
def test_greedy_is_a_beam_of_one_is_sampling_at_temperature_0(seed, max_length, penalty, levels):
    stepper, lengths = TableStepper(vocabulary_size=7, seed=seed, levels=levels), bounds(*[max_length] * 3)
    greedy = beam_search(stepper, *batch(SOURCES), max_lengths=lengths, length_penalty=penalty)
    chooser = BeamChooser(1, penalty, 1, len(SOURCES), stepper.vocabulary_size)
    assert decode(stepper, *batch(SOURCES), chooser, max_lengths=lengths, length_penalty=penalty) == greedy
    coldest = sample(stepper, *batch(SOURCES), max_lengths=lengths, temperature=0.0)
    one_of_one = sample(stepper, *batch(SOURCES), max_lengths=lengths, top_k=1)
    plain = beam_search(stepper, *batch(SOURCES), max_lengths=lengths)
    assert coldest == plain == one_of_one
    for source, (hypothesis,) in zip(SOURCES, greedy, strict=True):
        for n, token in enumerate(hypothesis.ids):
            log_probs = stepper.distribution(source, hypothesis.ids[:n])
            assert token == 2 + np.argmax([log_probs[2], -np.inf, *log_probs[4:]])
