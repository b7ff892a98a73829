"""Figures by position in the target, and by length of the source, fed in both ways."""

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
"""Positions that are resampled together: more would take more memory a source, fewer more draws."""


class AtPosition(NamedTuple):
    """At ``position`` (from 1): NLL of the right token in nats (unknown ones left out), and errors a step fed with
    right and with own tokens.

    ``surprise_free`` is the NLL of what the model wrote itself: how sure it is of it.
    """

    position: int
    nll_teacher: Estimate
    error_teacher: Estimate
    error_free: Estimate
    surprise_free: Estimate


class InBand(NamedTuple):
    """Sources of ``shortest`` to ``longest`` tokens: the same figures a step, and whole outputs that are right."""

    shortest: int
    longest: int
    nll_teacher: Estimate
    error_teacher: Estimate
    error_free: Estimate
    sequence_accuracy_free: Estimate


def by_position(recorded: Recorded) -> list[AtPosition]:
    """From the first position to the last that 1 % of the references have, at most ``MAX_POSITIONS``."""
    lengths = recorded.forced.errors.lengths
    last = min(MAX_POSITIONS, int(np.quantile(lengths, 0.99)) if len(lengths) else 0)
    found = []
    for start in range(0, last, _TOGETHER):
        part = range(start, min(last, start + _TOGETHER))
        resampled = Resampled(
            {f"{name} {t}": columns for t in part for name, columns in _columns(recorded, t, t + 1).items()}
        )
        names = AtPosition._fields[1:]
        found += [AtPosition(t + 1, *(resampled.ratio(f"{name} {t}") for name in names)) for t in part]
    return found


def by_source_length(recorded: Recorded, lengths: Sequence[int]) -> list[InBand]:
    """In bands with about as many sources each; ``lengths`` [N] are the sources' tokens without EOS."""
    sizes = np.asarray(lengths)
    columns = _columns(recorded, 0, None)
    columns["sequence_accuracy_free"] = _right(recorded), np.ones(len(sizes))
    found = []
    for shortest, longest in length_bands(sizes):
        inside = np.flatnonzero((sizes >= shortest) & (sizes <= longest))
        resampled = Resampled({name: (above[inside], below[inside]) for name, (above, below) in columns.items()})
        found.append(InBand(shortest, longest, *(resampled.ratio(name) for name in InBand._fields[2:])))
    return found


def _columns(recorded: Recorded, first: int, last: int | None) -> dict[str, Columns]:
    log_probs = recorded.free.log_probs.window(first, last)
    return {
        "nll_teacher": _nll_columns(recorded, first, last),
        "error_teacher": forced_columns(recorded, recorded.forced.errors, first, last),
        "error_free": recorded.free.errors.window(first, last),
        "surprise_free": (-log_probs[0], log_probs[1]),
    }


def _nll_columns(recorded: Recorded, first: int, last: int | None) -> Columns:
    """NLL of the right tokens and how many they are; unknown ones are left out of both."""
    log_probs, _ = forced_columns(recorded, recorded.likelihood[0], first, last)
    tokens, _ = forced_columns(recorded, recorded.likelihood[1], first, last)
    return -log_probs, tokens


def _right(recorded: Recorded) -> npt.NDArray[np.bool_]:
    """Whether an output [N] equals a reference: no step of it errs, and it came to EOS."""
    errors, _ = recorded.free.errors.window(0)
    right: npt.NDArray[np.bool_] = (errors == 0) & recorded.free.ended
    return right
