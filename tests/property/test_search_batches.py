from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from freerun.search.batches import pad
from freerun.symbols import PAD


@given(st.lists(st.lists(st.integers(1, 9), max_size=5), max_size=6))
def test_padding_keeps_the_rows(rows):
    ids, lengths = pad(rows)
    assert [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)] == rows
    assert all((row[length:] == PAD).all() for row, length in zip(ids, lengths, strict=True))
