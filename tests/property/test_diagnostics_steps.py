"""Sums over windows of runs against slices of lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from freerun.diagnostics.steps import Steps

ROWS = st.lists(st.lists(st.integers(-5, 5), max_size=6), min_size=1, max_size=5)
PLACE = st.integers(0, 8)


@given(ROWS, PLACE, st.none() | PLACE)
def test_windows_are_slices(rows, first, last):
    sums, counts = Steps([np.array(row) for row in rows], np.int64).window(first, last)
    slices = [row[first:last] if last is None or last > first else [] for row in rows]
    assert sums.tolist() == [sum(each) for each in slices]
    assert counts.tolist() == [len(each) for each in slices]


@given(st.lists(st.tuples(st.lists(st.integers(-5, 5), max_size=6), PLACE, PLACE), min_size=1, max_size=5))
def test_windows_may_differ_by_row(rows):
    made = Steps([np.array(row) for row, _, _ in rows], np.float64)
    sums, counts = made.window(*(np.array(column) for column in list(zip(*rows, strict=True))[1:]))
    slices = [row[first:last] for row, first, last in rows]
    assert sums.tolist() == [sum(each) for each in slices]
    assert counts.tolist() == [len(each) for each in slices]


@given(ROWS)
def test_rows_come_back(rows):
    made = Steps([np.array(row) for row in rows], np.int32)
    assert [made[place].tolist() for place in range(len(made))] == rows
    assert made.lengths.tolist() == [len(row) for row in rows]
