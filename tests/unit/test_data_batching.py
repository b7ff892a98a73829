from __future__ import annotations

import numpy as np
import pytest

from freerun.data.batching import make_batch, plan_epoch
from freerun.data.codec import Codec
from freerun.data.corpus import encode_corpus
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.symbols import BOS, EOS, PAD

CHARS = Codec(CharTokenizer(), Vocabulary("abc"))
CORPUS, _ = encode_corpus(
    (Pair(*pair) for pair in [("ab", "abc", 1), ("", "", 2), ("abc", "c", 3), ("ab", "a", 4)]), CHARS, CHARS
)


def plan(sources, targets, *, batch_size=None, batch_tokens=None, seed=0, epoch=0) -> list[list[int]]:
    lengths = (np.array(sources, np.int64), np.array(targets, np.int64))
    batches = plan_epoch(*lengths, batch_size=batch_size, batch_tokens=batch_tokens, seed=seed, epoch=epoch)
    return [batch.tolist() for batch in batches]


def test_batch_arrays():
    batch = make_batch(CORPUS, np.array([0, 1, 2]))
    assert batch.source.tolist() == [[4, 5, EOS, PAD], [EOS, PAD, PAD, PAD], [4, 5, 6, EOS]]
    assert batch.source_lengths.tolist() == [3, 1, 4]
    assert batch.target_out.tolist() == [[4, 5, 6, EOS], [EOS, PAD, PAD, PAD], [6, EOS, PAD, PAD]]
    assert batch.target_in.tolist() == [[BOS, 4, 5, 6], [BOS, PAD, PAD, PAD], [BOS, 6, PAD, PAD]]
    assert batch.target_lengths.tolist() == [4, 1, 2]
    assert (batch.num_pairs, batch.num_tokens) == (3, 7)
    assert {batch.source.dtype, batch.target_in.dtype, batch.target_out.dtype} == {np.dtype(np.int64)}


def test_a_batch_is_no_wider_than_its_rows():
    assert make_batch(CORPUS, np.array([1])).source.shape == (1, 1)
    assert make_batch(CORPUS, np.array([3, 2])).pairs.tolist() == [3, 2]


def test_references_of_a_batch():
    references = make_batch(CORPUS, np.array([3, 1, 0])).references
    assert [[row.tolist() for row in rows] for rows in references] == [
        [[4, 5, 6, EOS], [4, EOS]],
        [[EOS]],
        [[4, 5, 6, EOS], [4, EOS]],
    ]
    assert references[0] is references[2]


def test_references_belong_to_the_row():
    pairs = [Pair("a", "a", 1), Pair("a", "b", 2), Pair("c", "c", 3)]
    corpus, _ = encode_corpus(iter(pairs), CHARS, CHARS)
    assert [[row.tolist() for row in rows] for rows in make_batch(corpus, np.array([2])).references] == [[[6, EOS]]]


def test_equal_source_lengths_go_together():
    batches = plan([3] * 8 + [5] * 8, [1] * 16, batch_size=4)
    assert sorted(len(batch) for batch in batches) == [4, 4, 4, 4]
    assert all(len({index < 8 for index in batch}) == 1 for batch in batches)


def test_equal_source_lengths_go_together_whatever_the_targets():
    sources, targets = [3, 5] * 8, [1, 2, 3, 4] * 4
    batches = plan(sources, targets, batch_size=4)
    assert all(len({sources[index] for index in batch}) == 1 for batch in batches)


def test_leftovers_under_a_token_budget():
    batches = plan([1] * 4 + [2] * 3, [1] * 7, batch_tokens=6)
    assert sorted((len({index < 4 for index in batch}), len(batch)) for batch in batches) == [(1, 2), (1, 3), (2, 2)]
    full = plan([1] * 4 + [2] * 2, [1] * 6, batch_tokens=6)  # the two of length 2 fill a batch and are no leftovers
    assert [4, 5] in map(sorted, full)


def test_leftovers_go_with_their_neighbours():
    batches = plan([1] * 3 + [2] * 3 + [30] * 3 + [31] * 3, [1] * 12, batch_size=2)
    mixed = [sorted(batch) for batch in batches if len({index // 3 for index in batch}) == 2]
    assert len(batches) == 6
    assert sorted({tuple(index // 3 for index in batch) for batch in mixed}) == [(0, 1), (2, 3)]


def test_targets_of_a_batch_are_alike():
    targets = [1, 9, 2, 8, 1, 9, 2, 8]
    batches = plan([4] * 8, targets, batch_size=2)
    assert sorted(sorted(targets[index] for index in batch) for batch in batches) == [[1, 1], [2, 2], [8, 8], [9, 9]]


def test_token_budget():
    assert sorted(map(len, plan([4] * 10, [6] * 10, batch_tokens=40))) == [2, 4, 4]
    assert sorted(map(len, plan([4] * 10, [6] * 10, batch_tokens=39))) == [1, 3, 3, 3]


def test_a_pair_over_the_token_budget_is_alone():
    batches = plan([2, 50, 2, 60], [2, 50, 2, 1], batch_tokens=8)
    assert sorted(map(sorted, batches)) == [[0, 2], [1], [3]]


def test_order_depends_on_seed_and_epoch_only():
    lengths = ([3] * 64, [4] * 64)
    first = plan(*lengths, batch_size=8)
    assert first == plan(*lengths, batch_size=8)
    assert first != plan(*lengths, batch_size=8, epoch=1)
    assert first != plan(*lengths, batch_size=8, seed=1)
    assert first[0] != sorted(first[0])
    sets = [sorted(map(sorted, plan(*lengths, batch_size=8, epoch=epoch))) for epoch in (0, 1)]
    assert sets[0] != sets[1]  # other company, not just another order


def test_batches_do_not_come_by_length():
    sources = np.repeat(np.arange(1, 33), 4)
    lengths = [sources[batch[0]] for batch in plan(sources, sources, batch_size=4)]
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))


@pytest.mark.parametrize("budget", [{}, {"batch_size": 2, "batch_tokens": 2}, {"batch_size": 0}, {"batch_tokens": -1}])
def test_exactly_one_positive_budget(budget):
    with pytest.raises(ValueError, match="one positive budget is needed"):
        plan([1], [1], **budget)


def test_no_pairs_no_batches():
    assert plan([], [], batch_size=4) == []
