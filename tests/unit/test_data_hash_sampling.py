from __future__ import annotations

import pytest

from freerun.data.hash_sampling import hash_of, hash_sample


def sample(items, size: int, purpose: str = "test") -> tuple[list[str], int]:
    return hash_sample(items, str, size, purpose)


def test_a_hash_is_the_same_on_every_machine():
    assert hash_of("word", "hold out") == 10223025957675348743
    assert hash_of("word", "hold out", 1) != hash_of("word", "hold out") != hash_of("word", "folds")


def test_a_small_stream_is_its_own_sample():
    assert sample(["b", "a", "c"], 3) == (["b", "a", "c"], 3)
    assert sample([], 3) == ([], 0)


def test_repeated_items_count_once():
    assert sample(["a"] * 1000 + ["b"], 2) == (["a", "b"], 1001)


@pytest.mark.parametrize("size", [1, 7, 50, 99])
def test_the_smallest_hashes_in_the_streams_order(size):
    items = [str(number) for number in range(100)]
    smallest = set(sorted(items, key=lambda item: hash_of(item, "test"))[:size])
    assert sample(items * 3, size) == ([item for item in items if item in smallest], 300)
    backwards = items[::-1]
    assert set(sample(backwards, size)[0]) == smallest
