"""Plain greedy decoding by the graph that does all of it: one call a batch, and nothing kept between calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from freerun.data.batching import pad
from freerun.runtime.graphs import Graphs
from freerun.search.hypothesis import Hypothesis
from freerun.search.loop import refuse
from freerun.symbols import EOS

__all__ = ["OnnxGreedy"]


_OUTPUTS = ["tokens", "scores"]


class OnnxGreedy:
    """``beam_search`` with a beam of 1, in onnxruntime. Any number of threads may call it at once."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs

    def __call__(self, sources: Sequence[Sequence[int]], bounds: Sequence[int]) -> list[Hypothesis]:
        """The output for each of the sources, EOS their last id; ``bounds`` are in tokens without EOS."""
        if not sources:
            return []
        source_ids, lengths = pad(sources)
        shortest = min(bounds)
        refuse(shortest < 0, "max_length", shortest, "Expected 0 or more tokens", "Raise the maximum length")
        feeds = {"source": source_ids, "lengths": lengths, "max_lengths": np.array(bounds, np.int64)}
        tokens, scores = self._graphs.session("greedy").run(_OUTPUTS, feeds)
        return [_hypothesis(*row) for row in zip(tokens.tolist(), scores.tolist(), bounds, strict=True)]


def _hypothesis(tokens: list[int], scores: list[float], bound: int) -> Hypothesis:
    """From tokens and scores [T], filled up; without an end among them, ``bound`` tokens were written."""
    truncated = EOS not in tokens
    length = bound if truncated else tokens.index(EOS)
    kept = tuple(scores[: length + (not truncated)])
    score = sum(kept)
    return Hypothesis(tuple(tokens[:length]), score, kept, score, truncated)
