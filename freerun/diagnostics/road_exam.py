"""Road exam (Xu et al. 2019): the first half of a reference, corrupted at a rate, then free-running.

How much worse is a model after prefixes that it would not have predicted? Errors are counted only after the prefix and
relative to what can still be reached, so the corruption itself does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.diagnostics.estimate import Columns, Estimate, Resampled
from freerun.diagnostics.record import Recorded, Recorder, sample_rows
from freerun.randomness import numpy_generator
from freerun.symbols import EOS, NEVER_WRITTEN

__all__ = ["RATES", "AtRate", "road_exam"]

Ids = npt.NDArray[np.int64]
RATES = (0.0, 0.1, 0.2, 0.4)
MAX_SOURCES = 2000


class AtRate(NamedTuple):
    """The step error rate after prefixes with ``rate`` of their tokens replaced, and its ratio to that at rate 0."""

    rate: float
    errors: Estimate
    ratio: Estimate


def road_exam(recorded: Recorded, recorder: Recorder, tick: Callable[[int], None] = lambda count: None) -> list[AtRate]:
    """Run the model after corrupted prefixes; returns an empty list if no reference has a first half.

    Tokens replaced at a low rate are replaced by the same tokens at a higher rate.
    """
    references = [recorded.pairs.targets[row] for row in recorded.followed]
    long_enough = np.flatnonzero([len(each) > 1 for each in references])
    rows = sample_rows(long_enough, MAX_SOURCES, "road exam")
    others = np.setdiff1d(np.arange(recorder.vocabulary_size), (*NEVER_WRITTEN, EOS))
    if not len(rows) or len(others) < 2:
        return []
    pairs = recorded.pairs.take(rows)
    halves = [references[row][: len(references[row]) // 2] for row in rows]
    lengths = np.array([len(each) for each in halves])
    ratios: dict[str, Columns] = {}
    for rate in RATES:
        runs = recorder.free(
            pairs, [_corrupted(each, rate, others, int(r)) for each, r in zip(halves, rows, strict=True)], tick
        )
        ratios[str(rate)] = runs.errors.window(lengths)
    resampled = Resampled(ratios)
    return [AtRate(rate, resampled.ratio(str(rate)), resampled.quotient(str(rate), str(RATES[0]))) for rate in RATES]


def _corrupted(prefix: Ids, rate: float, others: Ids, row: int) -> Ids:
    """Replace each token with probability ``rate`` by another token that can be predicted."""
    generator = numpy_generator(0, "road exam", row)
    coins, draws = generator.random(len(prefix)), generator.integers(len(others) - 1, size=len(prefix))
    # uniform over the other tokens: the position of the token itself is skipped
    draws += others[draws] >= prefix
    return np.where(coins < rate, others[np.minimum(draws, len(others) - 1)], prefix)
