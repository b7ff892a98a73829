from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from freerun.data.batching import make_batch, plan_epoch
from freerun.data.codec import Codec
from freerun.data.corpus import encode_corpus
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.symbols import BOS, PAD

lengths = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=60)
budgets = st.one_of(
    st.fixed_dictionaries({"batch_size": st.integers(1, 9), "batch_tokens": st.none()}),
    st.fixed_dictionaries({"batch_size": st.none(), "batch_tokens": st.integers(1, 90)}),
)
FIRST_BATCHES = [[12, 33, 19, 48], [15, 1, 36, 22], [13, 34]]
CHARS = Codec(CharTokenizer(), Vocabulary("abc"), reverse=True)
pairs = st.lists(st.tuples(st.text("abcd", max_size=5), st.text("abcd", max_size=5)), min_size=1, max_size=20)


def columns(rows):
    array = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


@given(lengths, budgets, st.integers(0, 5))
def test_each_pair_is_in_one_batch_within_the_budget(rows, budget, epoch):
    sources, targets = columns(rows)
    batches = plan_epoch(sources, targets, **budget, seed=1, epoch=epoch)
    assert sorted(number for batch in batches for number in batch) == list(range(len(rows)))
    for batch in batches:
        if budget["batch_size"] is not None:
            assert 1 <= len(batch) <= budget["batch_size"]
        else:
            cost = len(batch) * (sources[batch].max() + targets[batch].max())
            assert len(batch) == 1 or cost <= budget["batch_tokens"]


@given(lengths, budgets, st.integers(2, 7), st.integers(1, 6))
def test_batches_of_one_update_have_similar_sizes(rows, budget, together, epochs):
    """Cut over all epochs into groups, which may begin in one epoch and end in the next."""
    sources, targets = columns(rows)
    plans = [plan_epoch(sources, targets, **budget, seed=1, epoch=epoch, together=together) for epoch in range(epochs)]
    start = 0
    for plan in plans:
        assert sorted(number for batch in plan for number in batch) == list(range(len(rows)))
        positions = [len(batch) * int(sources[batch].max() + targets[batch].max()) for batch in plan]
        head = -start % together
        groups = [positions[at : at + together] for at in range(head, len(plan) - together + 1, together)]
        ends = sorted((min(group), max(group)) for group in groups)
        assert all(low[1] <= high[0] for low, high in itertools.pairwise(ends)), "neighbours by size"
        start += len(plan)


def test_groups_differ_between_epochs_and_no_process_always_has_the_largest_batch():
    sources = np.repeat(np.arange(1, 41), 3)
    firsts, orders = [], []
    for epoch in range(20):
        plan = plan_epoch(sources, sources, batch_size=3, batch_tokens=None, seed=1, epoch=epoch, together=2)
        lengths_of = [int(sources[batch].max()) for batch in plan]
        orders.append(tuple(lengths_of))
        firsts += [one > two for one, two in zip(lengths_of[::2], lengths_of[1::2], strict=True)]
    assert len(set(orders)) == 20
    assert 0.4 < np.mean(firsts) < 0.6


def test_a_group_may_begin_in_one_epoch_and_end_in_the_next():
    sizes = np.arange(1, 41)
    plans = [
        [
            int(sizes[batch[0]])
            for batch in plan_epoch(sizes, sizes, batch_size=1, batch_tokens=None, seed=4, epoch=n, together=3)
        ]
        for n in range(4)
    ]
    heads = [0, 2, 1, 0]  # 40 batches leave one over, which two of the next epoch join, and so on
    for plan, head in zip(plans, heads, strict=True):
        groups = [sorted(plan[at : at + 3]) for at in range(head, 38, 3)]
        loose = {*range(1, 41)} - {size for group in groups for size in group}
        left = [size for size in range(1, 41) if size not in loose]
        assert sorted(groups) == [left[at : at + 3] for at in range(0, len(left), 3)]
        assert groups != sorted(groups), "large and small ones take turns"
        assert groups != sorted(groups, reverse=True)


def test_one_batch_per_update_has_the_order_of_earlier_versions():
    sources, targets = columns([(n % 7 + 1, n % 5 + 1) for n in range(50)])
    plan = plan_epoch(sources, targets, batch_size=4, batch_tokens=None, seed=3, epoch=2)
    assert [batch.tolist() for batch in plan[:3]] == FIRST_BATCHES


@given(lengths, st.integers(1, 9))
def test_there_are_no_more_batches_than_needed(rows, size):
    sources, targets = columns(rows)
    batches = plan_epoch(sources, targets, batch_size=size, batch_tokens=None, seed=0, epoch=0)
    assert len(batches) == -(-len(rows) // size)
    full = [batch for batch in batches if len(batch) == size and len(set(sources[batch])) == 1]
    assert len(full) >= sum(count // size for count in Counter(sources.tolist()).values())
    assert sum(len(batch) < size for batch in batches) <= 1


@given(pairs, st.randoms(use_true_random=False))
def test_a_batch_holds_its_pairs(rows, draw):
    corpus, _ = encode_corpus((Pair(*row, 0) for row in rows), CHARS, CHARS)
    chosen = draw.sample(range(len(rows)), k=draw.randint(1, len(rows)))
    batch = make_batch(corpus, np.array(chosen))
    for row, number in enumerate(chosen):
        target = CHARS.encode(rows[number][1])
        source = CHARS.encode(rows[number][0])
        blank = [PAD] * (batch.target_out.shape[1] - len(target))
        assert batch.source[row].tolist() == source + [PAD] * (batch.source.shape[1] - len(source))
        assert batch.target_out[row].tolist() == target + blank
        assert batch.target_in[row].tolist() == [BOS, *target[:-1], *blank]
        assert (batch.source_lengths[row], batch.target_lengths[row]) == (len(source), len(target))


@given(pairs)
def test_references_are_all_targets_of_equal_sources(rows):
    corpus, _ = encode_corpus((Pair(*row, 0) for row in rows), CHARS, CHARS)
    sources = [CHARS.encode(source) for source, _ in rows]
    assert corpus.num_sources == len({tuple(source) for source in sources})
    for number, source in enumerate(sources):
        expected = [tuple(CHARS.encode(t)) for (_, t), other in zip(rows, sources, strict=True) if other == source]
        assert [tuple(row.tolist()) for row in corpus.references(number)] == list(dict.fromkeys(expected))
