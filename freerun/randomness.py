"""Stateless random numbers: each is a pure function of (seed, purpose, keys).

So strategies under one seed share initial weights, data order and dropout; resuming needs no generator state, and
prefetching cannot disturb it. All numbers come from Philox (Salmon et al. 2011), a counter-based generator: number n is
a function of a key and n.
"""

from __future__ import annotations

import hashlib
import math
import threading

import numpy as np
from numpy.typing import NDArray

__all__ = ["STREAMS_SINCE", "CounterGenerator", "numpy_generator", "seed_of"]

STREAMS_SINCE = "0.2.0"
"""First version of freerun with these random numbers; runs of earlier versions cannot be resumed."""


def seed_of(seed: int, purpose: str, *keys: int | str) -> int:
    """Return a 63-bit seed for one purpose, independent of all other (purpose, keys) under the same ``seed``."""
    name = repr((seed, purpose, *keys)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, purpose: str, *keys: int | str) -> np.random.Generator:
    """Return a NumPy generator that is seeded by (seed, purpose, keys)."""
    return np.random.Generator(np.random.Philox(key=seed_of(seed, purpose, *keys)))


class _Workspace(threading.local):
    """A Philox generator per thread that is restarted for each array: six times faster than a new one."""

    def __init__(self) -> None:
        self.words = np.random.Philox(0)
        self.numbers = np.random.Generator(self.words)


_WORKSPACE = _Workspace()
_ZEROS = np.zeros(4, np.uint64)


class CounterGenerator:
    """Arrays of random numbers, a pure function of (seed, purpose, keys).

    The key of Philox4x64-10 is a 128-bit hash of all three. There is no state: every call starts at the beginning of
    the stream, so two arrays need two generators, for example two children. A longer array begins with the shorter one.
    """

    def __init__(self, seed: int, purpose: str, *keys: int | str) -> None:
        self._seed, self._purpose, self._keys = seed, purpose, keys

    def child(self, *keys: int | str) -> CounterGenerator:
        """Return the generator with these additional keys, independent of this one and of other children."""
        return CounterGenerator(self._seed, self._purpose, *self._keys, *keys)

    @property
    def word(self) -> int:
        """A 64-bit hash of (seed, purpose, keys): the seed of a generator elsewhere, such as on a GPU."""
        return int.from_bytes(self._hash()[:8], "little")

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """Return numbers in [0, 1), multiples of 2^-53."""
        return self._restart().numbers.random(shape)

    def normal(self, *shape: int) -> NDArray[np.float32]:
        """Return numbers from N(0, 1)."""
        return self._restart().numbers.standard_normal(shape, np.float32)

    def coin_flips(self, probability: float, *shape: int) -> NDArray[np.bool_]:
        """Return coin flips, True with ``probability`` (in [0, 1], rounded to a multiple of 2^-32)."""
        size = math.prod(shape)
        words = self._restart().words.random_raw((size + 1) // 2)
        # two flips per word, the lower half first, on machines of either byte order
        halves = words.astype("<u8", copy=False).view("<u4")[:size]
        flips: NDArray[np.bool_] = halves < round(probability * 2**32)
        return flips.reshape(shape)

    def _restart(self) -> _Workspace:
        """Return this thread's Philox generator, set to the beginning of the stream."""
        key = np.frombuffer(self._hash(), "<u8").astype(np.uint64)
        _WORKSPACE.words.state = {
            "bit_generator": "Philox",
            "state": {"counter": _ZEROS, "key": key},
            "buffer": _ZEROS,
            "buffer_pos": 4,  # the buffer is empty
            "has_uint32": 0,
            "uinteger": 0,
        }
        return _WORKSPACE

    def _hash(self) -> bytes:
        name = repr((self._seed, self._purpose, *self._keys)).encode()
        return hashlib.blake2b(name, digest_size=16).digest()
