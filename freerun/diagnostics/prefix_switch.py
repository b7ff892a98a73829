"""Prefix switch (after He et al. 2021): right tokens for a while, then free.

Of the sources whose own first l tokens are not those of the reference, how often does a step after l err, when the
first l tokens were right, and when they were the model's own?
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from freerun.diagnostics.estimate import Estimate, Resampled
from freerun.diagnostics.record import Recorded, Recorder, sampled

__all__ = ["Switch", "prefix_switch", "switch_lengths"]

POINTS = 6
MOST_SOURCES = 5000


class Switch(NamedTuple):
    """After ``length`` tokens: errors a step after its own prefix and after the right one, and the one by the other."""

    length: int
    own: Estimate
    right: Estimate
    ratio: Estimate


def switch_lengths(recorded: Recorded, points: int = POINTS) -> list[int]:
    """Up to ``points`` lengths of prefixes, from 1 to what nine of ten references have."""
    lengths = recorded.forced.errors.lengths - 1
    longest = int(np.quantile(lengths, 0.9)) if len(lengths) else 0
    return sorted({round(float(length)) for length in np.linspace(1, longest, points)}) if longest else []


def prefix_switch(
    recorded: Recorded, recorder: Recorder, tick: Callable[[int], None] = lambda count: None
) -> list[Switch]:
    """Run the model again after right prefixes of several lengths; none where no source's own prefix differs."""
    found = [_switch(recorded, recorder, length, tick) for length in switch_lengths(recorded)]
    return [each for each in found if each is not None]


def _switch(recorded: Recorded, recorder: Recorder, length: int, tick: Callable[[int], None]) -> Switch | None:
    subjects = recorded.subjects
    right = [subjects.targets[row] for row in recorded.followed]
    # at least EOS is still to come in both
    running = (recorded.free.tokens.lengths > length) & np.array([len(each) > length for each in right])
    differs = np.array(
        [not np.array_equal(recorded.free.tokens[row][:length], each[:length]) for row, each in enumerate(right)]
    )
    rows = sampled(np.flatnonzero(running & differs), MOST_SOURCES, "prefix switch")
    tick(len(subjects) - len(rows))
    if not len(rows):
        return None
    after_right = recorder.free(subjects.take(rows), [right[row][:length] for row in rows], tick)
    own_sums, own_counts = recorded.free.errors.window(length)
    resampled = Resampled({"own": (own_sums[rows], own_counts[rows]), "right": after_right.errors.window(length)})
    return Switch(length, resampled.ratio("own"), resampled.ratio("right"), resampled.quotient("own", "right"))
