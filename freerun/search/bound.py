"""The length at which an output is truncated, because a model stuck in a loop would never end it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from freerun.bounds import MAX_LENGTH
from freerun.errors import ConfigError
from freerun.search.stepper import Ids

__all__ = ["LengthBound", "check_shortest", "length_bound"]

_MAX: int = int(MAX_LENGTH.high)


def length_bound(source_length: int, longest_target: int, largest_ratio: float) -> int:
    """Return the maximum output length of a source in tokens (without EOS): far above that of all training targets.

    source_length: tokens without EOS. longest_target, largest_ratio: of the training data; the ratio is target tokens
    per source token, both without EOS.
    """
    by_ratio = math.ceil(min(2 * largest_ratio * source_length, _MAX))
    return min(max(3 * longest_target, by_ratio) + 10, _MAX)


@dataclass(frozen=True, slots=True)
class LengthBound:
    """A length bound for every source, or the same one for all when ``fixed`` is set.

    longest_target, largest_ratio: as in ``length_bound``. fixed: tokens without EOS, at least 0.
    """

    longest_target: int
    largest_ratio: float
    fixed: int | None = None

    def of(self, lengths: Ids) -> Ids:
        """Return the bounds [B] of encoded sources of these lengths [B], which count EOS as a ``Stepper`` does."""
        return np.array([self.of_one(length) for length in lengths.tolist()], np.int64)

    def of_one(self, length: int) -> int:
        """Return the bound of an encoded source of ``length``, EOS counted."""
        if self.fixed is not None:
            return min(self.fixed, _MAX)
        return length_bound(length - 1, self.longest_target, self.largest_ratio)


def check_shortest(bound: int) -> None:
    """Check the shortest of a search's length bounds.

    Raises:
        ConfigError: it is negative.
    """
    if bound < 0:
        expected, fix = "Expected 0 or more tokens", "Raise the maximum length"
        raise ConfigError.single("max_length", f"the value is {bound}", expected, fix)
