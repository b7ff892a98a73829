"""Laws of search, on random models and batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freerun.search.forced_scoring import score_targets
from freerun.search.top import top
from freerun.symbols import EOS
from tests.searching import beam_search, sample
from tests.steppers import TableStepper, batch, bounds

SOURCES = st.lists(st.lists(st.integers(4, 8), min_size=1, max_size=6), min_size=1, max_size=6)
SEEDS = st.integers(0, 1000)


def steppers(seed):
    return TableStepper(vocabulary_size=7, seed=seed, levels=3 if seed % 2 else None)


def decoded(how, seed, sources, rows, extra_padding):
    stepper, source = steppers(seed), batch(sources, extra_padding)
    lengths = bounds(*[len(each) + 3 for each in sources])
    if how == "sample":
        return sample(stepper, *source, max_lengths=lengths, rows=rows, num_hypotheses=2, top_p=0.9)
    if how == "score":
        targets = [[5] * (len(each) % 3) + [EOS] for each in sources]
        return [scores.tolist() for scores in score_targets(stepper, *source, targets).log_probs]
    return beam_search(
        stepper, *source, max_lengths=lengths, beam_size=how, num_hypotheses=how, length_penalty=seed % 3 / 2
    )


@pytest.mark.parametrize("how", [1, 3, "sample", "score"])
@given(seed=SEEDS, sources=SOURCES, order=st.randoms(use_true_random=False), padding=st.integers(0, 3))
def test_a_result_does_not_depend_on_batch_mates_order_or_padding(how, seed, sources, order, padding):
    alone = [decoded(how, seed, [source], np.array([row]), 0)[0] for row, source in enumerate(sources)]
    rows = list(range(len(sources)))
    order.shuffle(rows)
    together = decoded(how, seed, [sources[row] for row in rows], np.array(rows), padding)
    assert together == [alone[row] for row in rows]


@given(seed=SEEDS, sources=SOURCES, beam_size=st.integers(1, 5), max_length=st.integers(0, 6))
def test_hypotheses_are_distinct_and_add_up(seed, sources, beam_size, max_length):
    lengths = bounds(*[max_length] * len(sources))
    found = beam_search(
        steppers(seed), *batch(sources), max_lengths=lengths, beam_size=beam_size, num_hypotheses=beam_size
    )
    for hypotheses in found:
        assert 1 <= len(hypotheses) <= beam_size
        assert len({(h.ids, h.truncated) for h in hypotheses}) == len(hypotheses)
        for hypothesis in hypotheses:
            assert hypothesis.score == pytest.approx(sum(hypothesis.token_scores))
            assert len(hypothesis.token_scores) == len(hypothesis.ids) + (not hypothesis.truncated)
            assert not hypothesis.truncated or len(hypothesis.ids) == max_length


@given(
    values=st.lists(st.lists(st.integers(-3, 0), min_size=5, max_size=5), min_size=1, max_size=4), k=st.integers(1, 5)
)
def test_top_is_a_stable_sort(values, k):
    array = np.array(values, np.float32)
    columns, best = top(array, k)
    assert columns.tolist() == np.argsort(-array, axis=1, kind="stable")[:, :k].tolist()
    assert (best == np.take_along_axis(array, columns, 1)).all()


@pytest.mark.parametrize("k", [0, 4])
def test_top_wants_no_more_than_there_is(k):
    with pytest.raises(ValueError, match=f"the {k} best of 3 entries"):
        top(np.zeros((2, 3)), k)
