"""Randomness without state: every random number is a pure function of (seed, purpose, keys).

Strategies under one seed then share initial weights, data order and dropout; resuming needs no generator state, and
prefetching cannot disturb it.
"""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["numpy_generator", "seed_of"]


def seed_of(seed: int, purpose: str, *keys: int | str) -> int:
    """A 63-bit seed for one purpose, independent of every other (purpose, keys) under the same ``seed``."""
    name = repr((seed, purpose, *keys)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, purpose: str, *keys: int | str) -> np.random.Generator:
    """A NumPy generator that starts at the place belonging to (seed, purpose, keys)."""
    return np.random.Generator(np.random.Philox(key=seed_of(seed, purpose, *keys)))
