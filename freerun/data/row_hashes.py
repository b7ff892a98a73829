"""64-bit hashes of rows of ids, thousands at a time: rows that differ have different ones, but for chance.

Shape suffixes: N rows, M ids of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Encoded", "encoded_rows", "row_hashes", "source_hashes"]

Encoded = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]
"""The ids [M] of all rows, one after another, and the length of each [N]; without EOS, in reading order."""


def encoded_rows(rows: Sequence[Sequence[int]]) -> Encoded:
    """Return rows of ids in one array."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths


# odd constants of SplitMix64 (Steele et al. 2014) and of its finalizer
_TOKEN, _POSITION, _LENGTH = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0x8CB92BA72F3D8DD7)
)
_SHIFTS: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def row_hashes(encoded: Encoded, purpose: int = 0) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each row of ids: uint64 [N].

    Equal rows have equal hashes; among 10^8 different ones the probability that any two are equal is 3e-4.
    """
    ids_M, lengths_N = encoded
    ends_N = np.cumsum(lengths_N)
    position_M = np.arange(len(ids_M), dtype=np.int64) - np.repeat(ends_N - lengths_N, lengths_N)
    mixed_M = _mix((ids_M.astype(np.uint64) + np.uint64(1)) * _TOKEN + (position_M.astype(np.uint64)) * _POSITION)
    # sums wrap around, so the difference of two of them is exact
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed_M, dtype=np.uint64)])
    sum_N = sums[ends_N] - sums[ends_N - lengths_N]
    return _mix(sum_N + (lengths_N.astype(np.uint64) + np.uint64(1 + purpose)) * _LENGTH)


def source_hashes(sources: Encoded, features: Encoded | None) -> npt.NDArray[np.uint64]:
    """Return a hash of each source, with its features if the model reads some: uint64 [N]."""
    hashes_N = row_hashes(sources)
    return hashes_N if features is None else hashes_N * np.uint64(3) + row_hashes(features, purpose=1)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    for shift, factor in _SHIFTS:
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))
