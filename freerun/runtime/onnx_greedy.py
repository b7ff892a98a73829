"""Greedy search in one ONNX graph: one call per batch, without state between calls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from freerun.runtime.graphs import Graphs, source_feeds
from freerun.search.batches import pad_sources
from freerun.search.hypothesis import Hypothesis
from freerun.symbols import EOS, NUM_SPECIAL

__all__ = ["OnnxGreedy"]

_OUTPUTS = ["tokens", "scores"]
_INT64 = np.dtype(np.int64)


class OnnxGreedy:
    """A ``GreedyDecoder`` in onnxruntime. Any number of threads may call it at once."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs

    def __call__(self, sources: Sequence[Sequence[int]], bounds: Sequence[int]) -> list[Hypothesis]:
        """Return the output for each encoded source; ``bounds`` are in tokens without EOS.

        If the model's numbers overflow for a source, its score is NaN.

        Raises:
            BundleError: the graph fails, or returns something that cannot be an output of this model.
        """
        feeds = source_feeds(*pad_sources(sources), self._graphs.has_features)
        feeds["max_lengths"] = np.array(bounds, np.int64)
        session = self._graphs.session("greedy")
        steps = feeds["source"].shape[1] + max(bounds) + 1
        tokens, scores = session.run(_OUTPUTS, feeds, rows=len(sources), steps=steps)
        if tokens.shape != scores.shape or tokens.ndim != 2 or len(tokens) != len(sources) or tokens.dtype != _INT64:
            shapes = f"tokens {tokens.dtype} {tokens.shape} and scores {scores.dtype} {scores.shape}"
            raise session.damaged(f"the graph returned {shapes} for {len(sources)} sources")
        size = self._graphs.vocabulary_size
        try:
            return [_hypothesis(*row, size) for row in zip(tokens.tolist(), scores.tolist(), bounds, strict=True)]
        except IndexError as error:
            raise session.damaged(str(error)) from None


def _hypothesis(tokens: list[int], scores: list[float], bound: int, size: int) -> Hypothesis:
    """Return the hypothesis of padded tokens and scores [T]; without EOS among them, ``bound`` tokens were written.

    Raises:
        IndexError: an id is outside the vocabulary of ``size``, or tokens are missing.
    """
    truncated = EOS not in tokens
    length = bound if truncated else tokens.index(EOS)
    ids = tokens[:length]
    token_scores = tuple(scores[: length + (not truncated)])
    if length > len(tokens):
        raise IndexError(f"the graph wrote {len(tokens)} ids without an end token, but the length bound is {bound}")
    if ids:
        lowest, highest = min(ids), max(ids)
        if lowest < 0 or highest >= size:
            raise IndexError(f"the graph wrote an id outside 0 to {size - 1}")
        if lowest < NUM_SPECIAL:
            token_scores = (math.nan,)  # PAD, BOS and UNK are the best only if no probability is a number
    score = sum(token_scores)
    return Hypothesis(tuple(ids), score, token_scores, score, truncated)
