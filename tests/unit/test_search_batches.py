from __future__ import annotations

import numpy as np

from freerun.search.batches import MAX_POSITIONS, ROWS, pad, similar_lengths
from freerun.symbols import PAD


def test_pad():
    ids, lengths = pad([[4, 2], [], [5, 6, 2]])
    assert ids.tolist() == [[4, 2, PAD], [PAD, PAD, PAD], [5, 6, 2]]
    assert lengths.tolist() == [2, 0, 3]
    assert pad([])[0].shape == (0, 0)
    assert ids.dtype == lengths.dtype == np.int64


def test_batches_of_similar_lengths_hold_each_sequence_once_and_the_shortest_first():
    first, second = [5, 2, 2, 9, 2], [1, 4, 3, 1, 2]
    batches = similar_lengths(first, second, rows=2)
    assert [batch.tolist() for batch in batches] == [[4, 2], [1, 0], [3]]


def test_a_sequence_takes_as_many_rows_as_it_is_wide():
    assert [len(batch) for batch in similar_lengths([1] * 7, [1] * 7, rows=6, width=2)] == [3, 3, 1]
    assert [len(batch) for batch in similar_lengths([1] * 3, [1] * 3, rows=6, width=9)] == [1, 1, 1]


def test_long_sequences_come_in_smaller_batches():
    lengths = [1] * 600 + [MAX_POSITIONS // 4] * 9 + [2 * MAX_POSITIONS] * 2
    batches = similar_lengths(lengths, lengths)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * longest <= MAX_POSITIONS
    assert len(batches[0]) == ROWS


def test_no_sequences_make_no_batches():
    assert similar_lengths([], []) == []
