"""The record of a search: every token that was chosen, the row that it continues, and the finished hypotheses.

Layer t holds the rows that are active after step t; each points at its parent in layer t - 1. Shape suffixes: N rows,
F finished hypotheses.
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
    """The candidates chosen in one step, each array [M]: the row that it continues, its token and log-probability."""

    parents: Ids
    tokens: Ids
    log_probs: LogProbs

    def take(self, index: Ids) -> Choice:
        """Return those at ``index``."""
        return Choice(self.parents[index], self.tokens[index], self.log_probs[index])


class _Finished(NamedTuple):
    """Hypotheses that left the search, each array [F].

    ``rows`` are those of layer ``lengths - 1``; ``eos_scores`` are undefined for truncated hypotheses.
    """

    starts: Ids
    rows: Ids
    lengths: Ids
    scores: Floats
    eos_scores: LogProbs
    truncated: npt.NDArray[np.bool_]

    def take(self, index: Ids) -> _Finished:
        return _Finished(*(column[index] for column in self))  # type: ignore[arg-type]


class Trellis:
    """Grows by a layer per step; at the end the best hypotheses are traced back through it, all at once."""

    def __init__(self) -> None:
        self._layers: list[Choice] = []
        self._finished: list[_Finished] = []

    def extend(self, active: Choice) -> None:
        """Add the layer of the rows that stay active."""
        self._layers.append(active)

    def finish(self, starts: Ids, rows: Ids, scores: Floats, eos_scores: LogProbs | None) -> None:
        """Record rows [F] of the newest layer as finished, with EOS of these log-probabilities [F], or truncated."""
        # All rows of a step have written equally many tokens: one per layer.
        lengths = np.full(len(rows), len(self._layers), np.int64)
        is_truncated = eos_scores is None
        eos = np.zeros(len(rows), np.float32) if eos_scores is None else eos_scores
        self._finished.append(_Finished(starts, rows, lengths, scores, eos, np.full(len(rows), is_truncated)))

    def best(self, num_starts: int, num_hypotheses: int, length_penalty: float) -> list[list[Hypothesis]]:
        """Return at most ``num_hypotheses`` of every start, best first, truncated ones after finished ones.

        Equal rank scores keep the order in which they finished, and within a step that of the search.
        """
        result: list[list[Hypothesis]] = [[] for _ in range(num_starts)]
        every = _Finished(*map(np.concatenate, zip(*self._finished, strict=True)))
        best, ranks = _best_of_each(every, num_hypotheses, length_penalty)
        tokens, token_scores = self._trace_back(best)
        scalars = (column.tolist() for column in (best.starts, best.lengths, best.scores, best.truncated))
        for n, (start, length, score, truncated) in enumerate(zip(*scalars, strict=True)):
            written = token_scores[n, : length + (not truncated)]
            ids = tuple(tokens[n, :length].tolist())
            result[start].append(Hypothesis(ids, score, tuple(written.tolist()), ranks[n], truncated))
        return result

    def _trace_back(self, finished: _Finished) -> tuple[Ids, Floats]:
        """Return tokens [F, longest] and scores [F, longest + 1], EOS included, by following the parents."""
        longest = int(finished.lengths.max())
        tokens, rows = np.zeros((len(finished.rows), longest), np.int64), finished.rows.copy()
        scores = np.zeros((len(finished.rows), longest + 1))
        scores[np.arange(len(scores)), finished.lengths] = finished.eos_scores
        # One small gather per layer for all hypotheses together, instead of a loop over the tokens of each.
        for step in reversed(range(longest)):
            reaching = np.flatnonzero(finished.lengths > step)
            layer, row = self._layers[step], rows[reaching]
            tokens[reaching, step] = layer.tokens[row]
            scores[reaching, step] = layer.log_probs[row]
            rows[reaching] = layer.parents[row]
        return tokens, scores


def _best_of_each(finished: _Finished, limit: int, length_penalty: float) -> tuple[_Finished, list[float]]:
    """Return the ``limit`` best finished hypotheses of every start, by start and rank, and their rank scores."""
    num_scored = (finished.lengths + ~finished.truncated).astype(np.float64)
    ranks = penalised(finished.scores, num_scored, length_penalty)
    order = np.lexsort((-ranks, finished.truncated, finished.starts))
    # Position within a start: the distance from the first hypothesis of the same start.
    starts = finished.starts[order]
    position = np.arange(len(order)) - np.searchsorted(starts, starts)
    order = order[position < limit]
    return finished.take(order), ranks[order].tolist()
