"""Greedy output = reference if and only if every argmax forced on that reference is right (derived).

Written freely, the first token that leaves a reference is the first one at which the forced argmax is wrong, since up
to there both were fed the same. So at fixed parameters exposure bias cannot change how many outputs are right as a
whole; it changes what follows a first error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from freerun.diagnostics.record import Recorded

__all__ = ["Identity", "identity"]


class Identity(NamedTuple):
    """How many sources are right when the model runs on its own, and when forced, and on how many both say the same.

    Where they do not, two tokens were as probable as rounding can tell, or the length bound cut an output off.
    """

    right_free: int
    right_forced: int
    agree: int
    sources: int


def identity(recorded: Recorded) -> Identity:
    """Check it on the data."""
    subjects, size = recorded.subjects, len(recorded.subjects)
    free, forced = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    for row, (owner, reference) in enumerate(zip(subjects.owners_P, subjects.targets, strict=True)):
        free[owner] |= np.array_equal(recorded.free.tokens[owner], reference)
        forced[owner] |= np.array_equal(recorded.forced.tokens[row], reference)
    return Identity(int(free.sum()), int(forced.sum()), int((free == forced).sum()), size)
