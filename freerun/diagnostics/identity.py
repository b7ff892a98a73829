"""The identity: a greedy output equals a reference if and only if every teacher-forced argmax on it is correct.

The first free-running token that differs from a reference is the first at which the teacher-forced argmax is wrong,
since both were fed the same tokens before it. So at fixed parameters, exposure bias cannot change the number of correct
outputs; it changes what follows a first error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from freerun.diagnostics.record import Recorded

__all__ = ["Identity", "identity"]


class Identity(NamedTuple):
    """The numbers of sources with a correct output, free-running and teacher-forced, and of those on which both agree.

    They disagree if two tokens are equally probable up to rounding, or if the length bound truncated an output.
    """

    right_free: int
    right_forced: int
    agree: int
    sources: int


def identity(recorded: Recorded) -> Identity:
    """Check the identity on the data."""
    pairs, size = recorded.pairs, len(recorded.pairs)
    free, forced = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    for row, (owner, reference) in enumerate(zip(pairs.owners_P, pairs.targets, strict=True)):
        free[owner] |= np.array_equal(recorded.free.tokens[owner], reference)
        forced[owner] |= np.array_equal(recorded.forced.tokens[row], reference)
    return Identity(int(free.sum()), int(forced.sum()), int((free == forced).sum()), size)
