"""Length bounds, against their formula."""

from __future__ import annotations

import numpy as np
import pytest

from freerun.search.bound import LengthBound, length_bound


@pytest.mark.parametrize(
    ("source_length", "longest_target", "largest_ratio", "expected"),
    [(5, 10, 1.0, 40), (50, 10, 1.5, 160), (0, 0, 0.0, 10), (3, 1, 1.25, 18)],
)
def test_the_larger_of_both_terms_and_ten(source_length, longest_target, largest_ratio, expected):
    assert length_bound(source_length, longest_target, largest_ratio) == expected


def test_a_bound_for_each_encoded_source_whose_length_counts_eos():
    assert LengthBound(10, 1.5).of(np.array([1, 6, 51])).tolist() == [40, 40, 160]


@pytest.mark.parametrize("fixed", [0, 7])
def test_a_fixed_bound_is_the_same_for_all(fixed):
    bounds = LengthBound(10, 1.5, fixed).of(np.array([5, 50]))
    assert bounds.tolist() == [fixed, fixed]
    assert bounds.dtype == np.int64


@pytest.mark.parametrize("bound", [LengthBound(1, 1e308), LengthBound(2**70, 1.0), LengthBound(1, 1.0, 2**70)])
def test_no_bound_is_too_large_for_an_array(bound):
    assert bound.of(np.array([100])).tolist() == [bound.of_one(100)] == [2**16]
