"""Road exam (Xu et al. 2019): the first half of a reference, corrupted at a rate, then free.

How much worse is a model after prefixes that it would not have written? Errors are counted after the prefix only, and
against what can still be reached, so the corruption itself is not held against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.diagnostics.estimate import Columns, Estimate, Resampled
from freerun.diagnostics.record import Recorded, Recorder, sampled
from freerun.randomness import numpy_generator
from freerun.symbols import EOS, NEVER_WRITTEN

__all__ = ["RATES", "AtRate", "road_exam"]

Ids = npt.NDArray[np.int64]
RATES = (0.0, 0.1, 0.2, 0.4)
MOST_SOURCES = 2000


class AtRate(NamedTuple):
    """Prefixes with ``rate`` of their tokens replaced: errors a step after them, and that by the one at rate 0."""

    rate: float
    errors: Estimate
    ratio: Estimate


def road_exam(recorded: Recorded, recorder: Recorder, tick: Callable[[int], None] = lambda count: None) -> list[AtRate]:
    """Run the model after corrupted prefixes; none where no reference has a token to begin with.

    What is replaced at a low rate is replaced by the same token at a higher one.
    """
    right = [recorded.subjects.targets[row] for row in recorded.followed]
    long_enough = np.flatnonzero([len(each) > 1 for each in right])
    rows = sampled(long_enough, MOST_SOURCES, "road exam")
    others = np.setdiff1d(np.arange(recorder.vocabulary_size), (*NEVER_WRITTEN, EOS))
    if not len(rows) or len(others) < 2:
        return []
    subjects = recorded.subjects.take(rows)
    halves = [right[row][: len(right[row]) // 2] for row in rows]
    lengths = np.array([len(each) for each in halves])
    ratios: dict[str, Columns] = {}
    for rate in RATES:
        runs = recorder.free(
            subjects, [_corrupted(each, rate, others, int(r)) for each, r in zip(halves, rows, strict=True)], tick
        )
        ratios[str(rate)] = runs.errors.window(lengths)
    resampled = Resampled(ratios)
    return [AtRate(rate, resampled.ratio(str(rate)), resampled.quotient(str(rate), str(RATES[0]))) for rate in RATES]


def _corrupted(prefix: Ids, rate: float, others: Ids, row: int) -> Ids:
    """Each token replaced with probability ``rate``, by any other that can be written."""
    generator = numpy_generator(0, "road exam", row)
    coins, draws = generator.random(len(prefix)), generator.integers(len(others) - 1, size=len(prefix))
    # a draw among the others but the right one itself: its place is left out
    draws += others[draws] >= prefix
    return np.where(coins < rate, others[np.minimum(draws, len(others) - 1)], prefix)
