"""Prefix switch (after He et al. 2021): reference tokens first, then free-running.

Consider the sources whose first l predicted tokens differ from the reference. How often is a step after l wrong, given
the first l reference tokens, and given the model's own?
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from freerun.diagnostics.estimate import Estimate, Resampled
from freerun.diagnostics.record import Recorded, Recorder, sample_rows

__all__ = ["Switch", "prefix_switch", "switch_lengths"]

POINTS = 6
MAX_SOURCES = 5000


class Switch(NamedTuple):
    """Step error rates after ``length`` tokens: of the model's own prefix, of the reference prefix, their ratio."""

    length: int
    own: Estimate
    right: Estimate
    ratio: Estimate


def switch_lengths(recorded: Recorded, points: int = POINTS) -> list[int]:
    """Return up to ``points`` prefix lengths, from 1 to a length that nine of ten references have."""
    lengths = recorded.forced.errors.lengths - 1
    longest = int(np.quantile(lengths, 0.9)) if len(lengths) else 0
    return sorted({round(float(length)) for length in np.linspace(1, longest, points)}) if longest else []


def prefix_switch(
    recorded: Recorded, recorder: Recorder, tick: Callable[[int], None] = lambda count: None
) -> list[Switch]:
    """Run the model after reference prefixes of several lengths; leave out lengths at which no prefix differs."""
    switches = [_switch(recorded, recorder, length, tick) for length in switch_lengths(recorded)]
    return [switch for switch in switches if switch is not None]


def _switch(recorded: Recorded, recorder: Recorder, length: int, tick: Callable[[int], None]) -> Switch | None:
    pairs = recorded.pairs
    references = [pairs.targets[row] for row in recorded.followed]
    # in both, at least EOS is left
    running = (recorded.free.tokens.lengths > length) & np.array([len(each) > length for each in references])
    differs = np.array(
        [not np.array_equal(recorded.free.tokens[row][:length], each[:length]) for row, each in enumerate(references)]
    )
    rows = sample_rows(np.flatnonzero(running & differs), MAX_SOURCES, "prefix switch")
    tick(len(pairs) - len(rows))
    if not len(rows):
        return None
    after_reference = recorder.free(pairs.take(rows), [references[row][:length] for row in rows], tick)
    own_sums, own_counts = recorded.free.errors.window(length)
    resampled = Resampled({"own": (own_sums[rows], own_counts[rows]), "right": after_reference.errors.window(length)})
    return Switch(length, resampled.ratio("own"), resampled.ratio("right"), resampled.quotient("own", "right"))
