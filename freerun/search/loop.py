"""The one decoding loop: greedy search, beam search and sampling differ only in the chooser that they pass to it.

Shape suffixes: B sources, N active rows, M chosen candidates, V vocabulary. A *start* is a source, or one of several
copies of it that are decoded independently (sampling).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from freerun.search.bound import check_shortest
from freerun.search.hypothesis import Hypothesis
from freerun.search.prefix import with_prefixes
from freerun.search.stepper import Ids, LogProbs, Stepper
from freerun.search.trellis import Choice, Trellis
from freerun.symbols import BOS, EOS, NEVER_WRITTEN

__all__ = ["Chooser", "Rows", "decode", "writable"]


class Rows(NamedTuple):
    """The active rows, grouped by start, best first within each: start [N] and log-probability so far [N]."""

    starts: Ids
    scores: npt.NDArray[np.float64]


class Chooser(Protocol):
    """The choice of the tokens to feed next."""

    @property
    def width(self) -> int | None:
        """Number of candidates per row to choose from; None: the whole vocabulary in the order of ids."""
        ...

    def choose(self, step: int, rows: Rows, ids: Ids, log_probs: LogProbs) -> Choice:
        """Choose candidates from ``ids``, ``log_probs`` [N, width], ordered as ``Rows``; those with EOS finish."""
        ...


def decode(
    stepper: Stepper,
    source_ids: Ids,
    lengths: Ids,
    chooser: Chooser,
    *,
    max_lengths: Ids,
    copies: int = 1,
    num_hypotheses: int = 1,
    length_penalty: float = 0.0,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """Decode every source ``copies`` times; return the hypotheses of each start, best first.

    source_ids [B, S], lengths [B], max_lengths [B] (tokens without EOS), ``prefixes`` of the outputs of each source.
    While there are active rows:
      1. feed each row its token and get its candidates,
      2. let the chooser choose among them,
      3. those with EOS finish; a row that has written its ``max_length`` and does not finish now is truncated,
      4. the others are the next layer.
    """
    if prefixes is not None:
        stepper = with_prefixes(stepper, prefixes, max_lengths)
    if not len(lengths):
        return []
    bounds = np.repeat(max_lengths, copies)
    shortest = int(bounds.min())
    check_shortest(shortest)
    origins = np.repeat(np.arange(len(lengths)), copies)
    tokens = np.full(len(bounds), BOS, np.int64)
    rows = Rows(np.arange(len(bounds)), np.zeros(len(bounds)))
    trellis, step = Trellis(), 0
    stepper.start(source_ids, lengths)
    while len(tokens):
        # 1. and 2.: small arrays come out of the model, smaller ones out of the chooser
        ids, log_probs = stepper.step(tokens, origins, chooser.width, NEVER_WRITTEN)
        choice = chooser.choose(step, rows, ids, log_probs)
        scores = rows.scores[choice.parents] + choice.log_probs
        starts = rows.starts[choice.parents]
        # 3.: in most steps of greedy search nothing finishes, and then this costs two checks of an array
        leaving = choice.tokens == EOS
        if leaving.any():
            done = np.flatnonzero(leaving)
            trellis.finish(starts[done], choice.parents[done], scores[done], choice.log_probs[done])
        if step >= shortest:
            leaving = _truncate(trellis, rows, choice, leaving, bounds[rows.starts] <= step)
        if leaving.any():
            staying = np.flatnonzero(~leaving)
            choice, scores, starts = choice.take(staying), scores[staying], starts[staying]
        # 4.
        trellis.extend(choice)
        rows, tokens, origins, step = Rows(starts, scores), choice.tokens, choice.parents, step + 1
    return trellis.best(len(bounds), num_hypotheses, length_penalty)


def _truncate(
    trellis: Trellis, rows: Rows, choice: Choice, finishing: npt.NDArray[np.bool_], full: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Truncate the ``full`` rows [N] that do not finish now; return which candidates [M] leave the search."""
    unfinished = full.copy()
    unfinished[choice.parents[finishing]] = False
    truncated = np.flatnonzero(unfinished)
    trellis.finish(rows.starts[truncated], truncated, rows.scores[truncated], None)
    leaving: npt.NDArray[np.bool_] = finishing | full[choice.parents]
    return leaving


def writable(vocabulary_size: int) -> int:
    """Return the number of ids of a vocabulary that a search may write, EOS included."""
    return vocabulary_size - len(NEVER_WRITTEN)
