from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from freerun.data.normalisation import collapse_whitespace
from freerun.data.split import held_out_sources, hold_out

# texts that differ only in whitespace are one source
sources = st.lists(st.text(max_size=4), min_size=2, max_size=60, unique_by=collapse_whitespace)


@given(sources, st.floats(0, 1), st.integers(1, 50))
def test_neither_side_is_empty(texts, share, most):
    held = held_out_sources(texts, fraction=share, limit=most)
    assert sum(text in held for text in texts) == held.count
    assert 1 <= held.count <= min(most, len(texts) - 1)


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_keeps_what_a_smaller_one_holds_out(text, one, other):
    low, high = sorted((one, other))
    assert hold_out(text, high) or not hold_out(text, low)
