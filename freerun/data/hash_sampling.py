"""Samples of a stream by hash: they depend on its items and not on their order, and need bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["SUBWORDS", "hash_of", "hash_sample", "hashes_of"]

SUBWORDS: Final = "sentencepiece"
"""The purpose of the sample of texts that subwords are learned from."""

T = TypeVar("T")


def hash_of(text: str, purpose: str, seed: int = 0) -> int:
    """Return a 64-bit hash of ``text``, uniform, stable across machines, independent for each purpose and seed."""
    key = f"{purpose}:{seed}".encode()
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest(), "little")


def hashes_of(texts: Iterable[str], purpose: str, seed: int = 0) -> npt.NDArray[np.uint64]:
    """Return ``hash_of`` each text."""
    key = f"{purpose}:{seed}".encode()
    blake2b = hashlib.blake2b
    digests = [blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts]
    return np.frombuffer(b"".join(digests), "<u8")


def hash_sample(items: Iterable[T], key: Callable[[T], str], size: int, purpose: str) -> tuple[list[T], int]:
    """Return up to ``size`` items with distinct keys, and the number of items in the stream.

    Of items with equal keys only the first counts, so that repetitions do not fill the sample. Those with the smallest
    hashes are chosen and returned in the stream's order. At most ``2 * size`` items are in memory.
    """
    sample: dict[int, tuple[int, T]] = {}
    limit = 1 << 64
    count = 0
    for item in items:
        value = hash_of(key(item), purpose)
        if value < limit:
            sample.setdefault(value, (count, item))
        count += 1
        # Truncating only at twice the size keeps sorting cheap: once for every ``size`` items that were added.
        if len(sample) >= 2 * size:
            sample = _smallest(sample, size)
            limit = max(sample)  # items with larger hashes would be dropped at the next truncation
    chosen = sorted(_smallest(sample, size).values(), key=lambda entry: entry[0])
    return [item for _, item in chosen], count


def _smallest(sample: dict[int, tuple[int, T]], size: int) -> dict[int, tuple[int, T]]:
    return {value: sample[value] for value in sorted(sample)[:size]}
