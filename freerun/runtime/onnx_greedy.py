"""Plain greedy decoding by the graph that does all of it: one call a batch, and nothing kept between calls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from freerun.data.batching import pad
from freerun.runtime.graphs import Graphs
from freerun.search.hypothesis import Hypothesis
from freerun.search.loop import refuse
from freerun.symbols import EOS, NUM_SPECIAL

__all__ = ["OnnxGreedy"]

_OUTPUTS = ["tokens", "scores"]
_INT64 = np.dtype(np.int64)


class OnnxGreedy:
    """``beam_search`` with a beam of 1, in onnxruntime. Any number of threads may call it at once."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs

    def __call__(self, sources: Sequence[Sequence[int]], bounds: Sequence[int]) -> list[Hypothesis]:
        """The output for each of the sources, EOS their last id; ``bounds`` are in tokens without EOS.

        A source that the model has no probabilities for (its numbers overflow) gives a score of NaN.

        Raises:
            BundleError: the graph fails, or gives what is no output of this model.
        """
        if not sources:
            return []
        source_ids, lengths = pad(sources)
        shortest = min(bounds)
        refuse(shortest < 0, "max_length", shortest, "Expected 0 or more tokens", "Raise the maximum length")
        feeds = {"source": source_ids, "lengths": lengths, "max_lengths": np.array(bounds, np.int64)}
        session = self._graphs.session("greedy")
        steps = source_ids.shape[1] + max(bounds) + 1
        tokens, scores = session.run(_OUTPUTS, feeds, rows=len(sources), steps=steps)
        if tokens.shape != scores.shape or tokens.ndim != 2 or len(tokens) != len(sources) or tokens.dtype != _INT64:
            shapes = f"tokens {tokens.dtype} {tokens.shape} and scores {scores.dtype} {scores.shape}"
            raise session.damaged(f"it gave {shapes} for {len(sources)} sources")
        size = self._graphs.vocabulary_size
        try:
            return [_hypothesis(*row, size) for row in zip(tokens.tolist(), scores.tolist(), bounds, strict=True)]
        except IndexError as error:
            raise session.damaged(str(error)) from None


def _hypothesis(tokens: list[int], scores: list[float], bound: int, size: int) -> Hypothesis:
    """From tokens and scores [T], padded; without an end among them, ``bound`` tokens were written.

    IndexError for ids beyond the vocabulary of ``size``, or fewer than there have to be.
    """
    truncated = EOS not in tokens
    length = bound if truncated else tokens.index(EOS)
    ids = tokens[:length]
    kept = tuple(scores[: length + (not truncated)])
    if length > len(tokens):
        raise IndexError(f"it wrote {len(tokens)} ids and no end, and the length bound is {bound}")
    if ids:
        least, most = min(ids), max(ids)
        if least < 0 or most >= size:
            raise IndexError(f"it wrote an id outside of 0 to {size - 1}")
        if least < NUM_SPECIAL:
            kept = (math.nan,)  # PAD, BOS and UNK are the best only where no probability is a number
    score = sum(kept)
    return Hypothesis(tuple(ids), score, kept, score, truncated)
