"""Teacher-forced and free-running metrics by target position and by source length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.diagnostics.estimate import Columns, Estimate, Resampled
from freerun.diagnostics.excess_error import forced_columns
from freerun.diagnostics.record import Recorded
from freerun.evaluation.by_length import length_bands

__all__ = ["AtPosition", "InBand", "by_position", "by_source_length"]

MAX_POSITIONS = 60
_TOGETHER = 5
"""Positions that are resampled together: more would take more memory per source, fewer more draws."""


class AtPosition(NamedTuple):
    """Metrics at one target position.

    Attributes:
        position: counted from 1.
        nll_teacher: NLL of the reference token in nats; unknown tokens are left out.
        error_teacher: the teacher-forced step error rate.
        error_free: the free-running step error rate.
        self_nll: NLL of the token that the model predicted itself, a measure of its confidence.
    """

    position: int
    nll_teacher: Estimate
    error_teacher: Estimate
    error_free: Estimate
    self_nll: Estimate


class InBand(NamedTuple):
    """Metrics of the sources with ``shortest`` to ``longest`` tokens, sequence accuracy among them."""

    shortest: int
    longest: int
    nll_teacher: Estimate
    error_teacher: Estimate
    error_free: Estimate
    sequence_accuracy_free: Estimate


def by_position(recorded: Recorded) -> list[AtPosition]:
    """Measure each position up to the last that 1 % of the references have, at most ``MAX_POSITIONS``."""
    lengths = recorded.forced.errors.lengths
    last = min(MAX_POSITIONS, int(np.quantile(lengths, 0.99)) if len(lengths) else 0)
    result = []
    for start in range(0, last, _TOGETHER):
        part = range(start, min(last, start + _TOGETHER))
        resampled = Resampled(
            {f"{name} {t}": columns for t in part for name, columns in _columns(recorded, t, t + 1).items()}
        )
        names = AtPosition._fields[1:]
        result += [AtPosition(t + 1, *(resampled.ratio(f"{name} {t}") for name in names)) for t in part]
    return result


def by_source_length(recorded: Recorded, lengths: Sequence[int]) -> list[InBand]:
    """Measure bands with about the same number of sources; ``lengths`` [N] are the sources' tokens without EOS."""
    sizes = np.asarray(lengths)
    columns = _columns(recorded, 0, None)
    columns["sequence_accuracy_free"] = _is_correct(recorded), np.ones(len(sizes))
    result = []
    for shortest, longest in length_bands(sizes):
        inside = np.flatnonzero((sizes >= shortest) & (sizes <= longest))
        resampled = Resampled({name: (above[inside], below[inside]) for name, (above, below) in columns.items()})
        result.append(InBand(shortest, longest, *(resampled.ratio(name) for name in InBand._fields[2:])))
    return result


def _columns(recorded: Recorded, first: int, last: int | None) -> dict[str, Columns]:
    log_probs = recorded.free.log_probs.window(first, last)
    return {
        "nll_teacher": _nll_columns(recorded, first, last),
        "error_teacher": forced_columns(recorded, recorded.forced.errors, first, last),
        "error_free": recorded.free.errors.window(first, last),
        "self_nll": (-log_probs[0], log_probs[1]),
    }


def _nll_columns(recorded: Recorded, first: int, last: int | None) -> Columns:
    """Return the NLL of the reference tokens and their number, both without unknown tokens."""
    log_probs, _ = forced_columns(recorded, recorded.likelihood[0], first, last)
    tokens, _ = forced_columns(recorded, recorded.likelihood[1], first, last)
    return -log_probs, tokens


def _is_correct(recorded: Recorded) -> npt.NDArray[np.bool_]:
    """Return which outputs [N] equal a reference: no step is wrong, and EOS was reached."""
    errors, _ = recorded.free.errors.window(0)
    correct: npt.NDArray[np.bool_] = (errors == 0) & recorded.free.ended
    return correct
