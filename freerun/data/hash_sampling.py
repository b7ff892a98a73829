"""Samples of a stream that depend on what it holds and not on its order: by hash, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["hash_of", "hash_sample"]

T = TypeVar("T")


def hash_of(text: str, purpose: str, seed: int = 0) -> int:
    """A 64-bit hash of ``text``, uniform and stable across machines, independent for each purpose and seed."""
    key = f"{purpose}:{seed}".encode()
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest(), "little")


def hash_sample(items: Iterable[T], key: Callable[[T], str], size: int, purpose: str) -> tuple[list[T], int]:
    """Up to ``size`` items with different keys, and how many items the stream had.

    Of items with the same key the first counts, so that what is repeated often does not fill the sample. Those with the
    smallest hashes are chosen and given in the stream's order. At most ``2 * size`` items are in memory.
    """
    kept: dict[int, tuple[int, T]] = {}
    limit = 1 << 64
    count = 0
    for item in items:
        place = hash_of(key(item), purpose)
        if place < limit:
            kept.setdefault(place, (count, item))
        count += 1
        # Cutting back only at twice the size makes the sorting cheap: once for every ``size`` items that are let in.
        if len(kept) >= 2 * size:
            kept = _smallest(kept, size)
            limit = max(kept)  # what hashes to more would be dropped at the next cut
    chosen = sorted(_smallest(kept, size).values(), key=lambda entry: entry[0])
    return [item for _, item in chosen], count


def _smallest(kept: dict[int, tuple[int, T]], size: int) -> dict[int, tuple[int, T]]:
    return {place: kept[place] for place in sorted(kept)[:size]}
