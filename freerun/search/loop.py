"""The one decoding loop: greedy, beam search and sampling differ only in the chooser they hand to it.

Legend: B sources, N rows alive, M candidates kept, V vocabulary. A *start* is a source, or one of several copies of it
that are decoded on their own (sampling).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from freerun.errors import ConfigError
from freerun.search.hypothesis import Hypothesis
from freerun.search.stepper import Ids, LogProbs, Stepper
from freerun.search.trellis import Choice, Trellis
from freerun.symbols import BOS, EOS, NEVER_WRITTEN

__all__ = ["Chooser", "Rows", "decode", "refuse", "writable"]


class Rows(NamedTuple):
    """The rows alive, grouped by start and best first within it: start [N] and log-probability so far [N]."""

    starts: Ids
    scores: npt.NDArray[np.float64]


class Chooser(Protocol):
    """What is fed next."""

    @property
    def width(self) -> int | None:
        """How many candidates a row it needs to see; None: the whole vocabulary in the order of ids."""
        ...

    def choose(self, step: int, rows: Rows, ids: Ids, log_probs: LogProbs) -> Choice:
        """Keep some candidates (``ids``, ``log_probs`` [N, width]), ordered as ``Rows``; those with EOS will end."""
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
) -> list[list[Hypothesis]]:
    """Decode every source ``copies`` times; returns the hypotheses of each start, best first.

    source_ids [B, S], lengths [B], max_lengths [B] (tokens without EOS). While rows are alive:
      1. feed each row its token and get its candidates,
      2. let the chooser keep some of them,
      3. those with EOS end; a row that has written its ``max_length`` and did not end now is truncated,
      4. what is left is the next layer.
    """
    if not len(lengths):
        return []
    bounds = np.repeat(max_lengths, copies)
    shortest = int(bounds.min())
    refuse(shortest < 0, "max_length", shortest, "Expected 0 or more tokens", "Raise the maximum length")
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
        # 3.: most steps of greedy search end nothing, and then cost no more than two looks at an array
        leaving = choice.tokens == EOS
        if leaving.any():
            ended = np.flatnonzero(leaving)
            trellis.end(starts[ended], choice.parents[ended], scores[ended], choice.log_probs[ended])
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
    trellis: Trellis, rows: Rows, choice: Choice, ending: npt.NDArray[np.bool_], full: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """End the ``full`` rows [N] that do not end with EOS now; returns which candidates [M] leave the search."""
    unfinished = full.copy()
    unfinished[choice.parents[ending]] = False
    given_up = np.flatnonzero(unfinished)
    trellis.end(rows.starts[given_up], given_up, rows.scores[given_up], None)
    leaving: npt.NDArray[np.bool_] = ending | full[choice.parents]
    return leaving


def writable(vocabulary_size: int) -> int:
    """How many ids of a vocabulary a search may write, EOS included."""
    return vocabulary_size - len(NEVER_WRITTEN)


def refuse(wrong: bool, name: str, value: object, expected: str, fix: str) -> None:
    """Raise ``ConfigError`` about the search setting ``name`` if ``wrong``."""
    if wrong:
        raise ConfigError.single(name, f"it is {value}", expected, fix)
