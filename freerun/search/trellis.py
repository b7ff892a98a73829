"""The record of a search: every token that was kept, whence it came, and where hypotheses ended.

Layer t holds the rows that step t left alive; a row points at its parent in layer t - 1. Legend: N rows, F endings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.search.hypothesis import Hypothesis, penalised
from freerun.search.stepper import Ids, LogProbs

__all__ = ["Choice", "Trellis"]

Floats = npt.NDArray[np.float64]


class Choice(NamedTuple):
    """Candidates of one step that are kept, each array [M]: the row it continues, its token and log-probability."""

    parents: Ids
    tokens: Ids
    log_probs: LogProbs

    def take(self, index: Ids) -> Choice:
        """Those at ``index``."""
        return Choice(self.parents[index], self.tokens[index], self.log_probs[index])


class _Endings(NamedTuple):
    """Hypotheses that ended, each array [F]: ``rows`` are of layer ``lengths - 1``, ``last`` is for EOS."""

    starts: Ids
    rows: Ids
    lengths: Ids
    scores: Floats
    last: LogProbs
    truncated: npt.NDArray[np.bool_]

    def take(self, index: Ids) -> _Endings:
        return _Endings(
            self.starts[index],
            self.rows[index],
            self.lengths[index],
            self.scores[index],
            self.last[index],
            self.truncated[index],
        )


class Trellis:
    """Grows a layer a step; at the end the best hypotheses are read backwards out of it, all at once."""

    def __init__(self) -> None:
        self._layers: list[Choice] = []
        self._endings: list[_Endings] = []

    def extend(self, live: Choice) -> None:
        """Add the layer of rows that go on."""
        self._layers.append(live)

    def end(self, starts: Ids, rows: Ids, scores: Floats, last: LogProbs | None) -> None:
        """Rows [F] of the newest layer end: with EOS of log-probability ``last`` [F], or truncated (None)."""
        # All rows of a step have written equally many tokens: one a layer.
        lengths = np.full(len(rows), len(self._layers), np.int64)
        eos = np.zeros(len(rows), np.float32) if last is None else last
        self._endings.append(_Endings(starts, rows, lengths, scores, eos, np.full(len(rows), last is None)))

    def best(self, num_starts: int, num_hypotheses: int, length_penalty: float) -> list[list[Hypothesis]]:
        """At most ``num_hypotheses`` of every start, best first, truncated ones after finished ones.

        Equal rank scores keep the order of ending, and within a step that of the search.
        """
        result: list[list[Hypothesis]] = [[] for _ in range(num_starts)]
        every = _Endings(*map(np.concatenate, zip(*self._endings, strict=True)))
        endings, ranks = _best_of_each(every, num_hypotheses, length_penalty)
        tokens, token_scores = self._read_back(endings)
        scalars = (column.tolist() for column in (endings.starts, endings.lengths, endings.scores, endings.truncated))
        for n, (start, length, score, truncated) in enumerate(zip(*scalars, strict=True)):
            kept = token_scores[n, : length + (not truncated)]
            ids = tuple(tokens[n, :length].tolist())
            result[start].append(Hypothesis(ids, score, tuple(kept.tolist()), ranks[n], truncated))
        return result

    def _read_back(self, endings: _Endings) -> tuple[Ids, Floats]:
        """Tokens [F, longest] and scores [F, longest + 1], EOS included, following all parents one layer at a time."""
        longest = int(endings.lengths.max())
        tokens, rows = np.zeros((len(endings.rows), longest), np.int64), endings.rows.copy()
        scores = np.zeros((len(endings.rows), longest + 1))
        scores[np.arange(len(scores)), endings.lengths] = endings.last
        # One small gather a layer for all hypotheses together, instead of a loop over each one's tokens.
        for step in reversed(range(longest)):
            reaching = np.flatnonzero(endings.lengths > step)
            layer, row = self._layers[step], rows[reaching]
            tokens[reaching, step] = layer.tokens[row]
            scores[reaching, step] = layer.log_probs[row]
            rows[reaching] = layer.parents[row]
        return tokens, scores


def _best_of_each(endings: _Endings, limit: int, length_penalty: float) -> tuple[_Endings, list[float]]:
    """The ``limit`` best endings of every start, ordered by start and rank, and their rank scores."""
    num_scored = (endings.lengths + ~endings.truncated).astype(np.float64)
    ranks = penalised(endings.scores, num_scored, length_penalty)
    order = np.lexsort((-ranks, endings.truncated, endings.starts))
    # Place within its start: how far an ending stands behind the first one of the same start.
    starts = endings.starts[order]
    place = np.arange(len(order)) - np.searchsorted(starts, starts)
    order = order[place < limit]
    return endings.take(order), ranks[order].tolist()
