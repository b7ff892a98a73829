"""Entries that rows of a source share: whatever rows do, each finds that of its own source."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from freerun.search.entries import SharedEntries

moves = st.lists(st.lists(st.integers(0, 20), max_size=8), max_size=4)


def by_the_book(sources):
    """One for each run of equal sources if all are of one length, else one for each row."""
    runs = [list(run) for _, run in groupby(sources)]
    return [run[0] for run in runs] if len({len(run) for run in runs}) == 1 else sources


@given(num_sources=st.integers(1, 5), moves=moves)
@example(3, [[0, 0, 1, 1, 2, 2], [1, 0, 2, 3, 5, 4], [0, 1, 4, 5]])  # hypotheses of a source change places; one leaves
@example(3, [[2, 1, 0], [0, 1, 1]])
@example(2, [[0, 1, 0, 1], [0, 1, 2], [0, 2]])
def test_every_row_finds_the_entry_of_its_source(num_sources, moves):
    shared = SharedEntries(num_sources)
    rows, entries = list(range(num_sources)), list(range(num_sources))
    for move in moves:
        origins = [origin % len(rows) for origin in move] if rows else []
        changed, kept = shared.follow(np.array(origins, int))
        assert changed == (origins != list(range(len(rows))))
        rows, before = [rows[origin] for origin in origins], entries
        entries = entries if kept is None else [entries[entry] for entry in kept]
        assert entries == by_the_book(rows)
        assert (kept is None) == (entries == before)
