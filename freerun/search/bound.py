"""How long an output may become before it is given up as endless."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from freerun.search.stepper import Ids

__all__ = ["MOST_TOKENS", "LengthBound", "length_bound"]

MOST_TOKENS: Final = 2**16
"""What no bound exceeds: more than any output that makes sense, and few enough for memory that is taken in advance."""


def length_bound(source_length: int, longest_target: int, largest_ratio: float) -> int:
    """Most tokens (without EOS) to write for a source: far above anything that training saw.

    source_length: tokens without EOS. longest_target, largest_ratio: of the training data, the ratio being target
    tokens for each source token, both without EOS.
    """
    by_ratio = math.ceil(min(2 * largest_ratio * source_length, MOST_TOKENS))
    return min(max(3 * longest_target, by_ratio) + 10, MOST_TOKENS)


@dataclass(frozen=True, slots=True)
class LengthBound:
    """A length bound for every source, or the same one for all when ``fixed`` is set.

    longest_target, largest_ratio: as in ``length_bound``. fixed: tokens without EOS, at least 0.
    """

    longest_target: int
    largest_ratio: float
    fixed: int | None = None

    def of(self, lengths: Ids) -> Ids:
        """Bounds [B] for encoded sources of these lengths [B], which count EOS as a ``Stepper`` does."""
        return np.array([self.of_one(length) for length in lengths.tolist()], np.int64)

    def of_one(self, length: int) -> int:
        """The bound for an encoded source of ``length``, EOS counted."""
        if self.fixed is not None:
            return min(self.fixed, MOST_TOKENS)
        return length_bound(length - 1, self.longest_target, self.largest_ratio)
