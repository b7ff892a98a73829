"""A ``Stepper`` that runs the exported encoder and step graphs.

Shape suffixes: B sources, N rows, E entries, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from freerun.runtime.graphs import Graphs, source_feeds
from freerun.runtime.session import import_onnxruntime
from freerun.search.entries import SharedEntries
from freerun.search.loop import writable
from freerun.search.stepper import Ids, LogProbs
from freerun.search.top import best_allowed
from freerun.symbols import NEVER_WRITTEN

__all__ = ["OnnxStepper"]

_STATE, _LOG_PROBS, _IDS, _BEST = "new_state", "log_probs", "ids", "best"


class OnnxStepper:
    """Steps a model in onnxruntime, which keeps the state; only ids and log-probabilities are copied out.

    It holds the state of one search, so each thread needs its own; they may share their ``graphs``.
    """

    def __init__(self, graphs: Graphs) -> None:
        self.vocabulary_size = graphs.vocabulary_size
        self._graphs = graphs
        self._state: Any = None
        self._statics: dict[str, Any] = {}
        self._entries = SharedEntries(0)
        self._log_probs: Any = None
        self._number, self._k = 0, None

    def start(self, source_ids: Ids, lengths: Ids) -> None:
        """See ``Stepper``.

        Raises:
            BundleError: the graph fails, or does not return a state per source.
        """
        session = self._graphs.session("encoder")
        names = session.output_names
        feeds = source_feeds(source_ids, lengths, self._graphs.has_features)
        rows, steps = feeds["source"].shape
        values = {name: _value(array) for name, array in feeds.items()}
        self._statics = dict(zip(names, session.run_with_ort_values(names, values, rows, steps), strict=True))
        for name, value in self._statics.items():
            if value.shape()[:1] != [rows]:
                raise session.damaged(f"the graph returned {name} {value.shape()} for {rows} sources")
        self._state = self._statics.pop("state")
        self._entries = SharedEntries(len(lengths))
        self._log_probs = None

    def step(self, tokens: Ids, origins: Ids, k: int | None = None, banned: Sequence[int] = ()) -> tuple[Ids, LogProbs]:
        """See ``Stepper``; the graph itself finds the k best if ``banned`` is ``NEVER_WRITTEN``.

        Raises:
            BundleError: the graph fails, or returns something that cannot be ids and log-probabilities of this model.
        """
        assert self._state is not None, "start() comes first"
        self._select(self._entries.follow(origins)[1])
        in_graph = k is not None and set(banned) == set(NEVER_WRITTEN)
        outputs = [_STATE, _LOG_PROBS, *([_IDS, _BEST] if in_graph else [])]
        number = min(k, writable(self.vocabulary_size)) if in_graph and k is not None else 1
        if number != self._number:
            self._number, self._k = number, _value(np.array([number]))
        feeds = {"tokens": _value(tokens), "origins": _value(origins), "k": self._k}
        feeds |= {"state": self._state, **self._statics}
        session = self._graphs.session("step")
        self._state, self._log_probs, *best = session.run_with_ort_values(outputs, feeds, len(tokens))
        if not in_graph:
            return best_allowed(self._all_log_probs(len(tokens)), k, banned)
        ids, values = best[0].numpy(), best[1].numpy()
        if not ids.shape == values.shape == (len(tokens), number):
            shapes = f"ids {ids.shape} and scores {values.shape}"
            raise session.damaged(f"the graph returned {shapes} for the {number} best of {len(tokens)} rows")
        # as unsigned integers, negative ids are the largest
        if ids.view(np.uint64).max(initial=0) >= self.vocabulary_size:
            raise session.damaged(f"the graph returned an id outside 0 to {self.vocabulary_size - 1}")
        return ids, values

    def log_prob_of(self, tokens: Ids) -> LogProbs:
        """See ``Stepper``."""
        assert self._log_probs is not None, "step() comes first"
        values: LogProbs = np.take_along_axis(self._all_log_probs(len(tokens)), tokens[:, None], 1)[:, 0]
        return values

    def _all_log_probs(self, rows: int) -> LogProbs:
        """Return the log-probabilities [N, V] of the last step."""
        values: LogProbs = self._log_probs.numpy()
        if values.shape != (rows, self.vocabulary_size):
            what = f"the graph returned log-probabilities {values.shape} for {rows} rows and {self.vocabulary_size} ids"
            raise self._graphs.session("step").damaged(what)
        return values

    def _select(self, entries: Ids | None) -> None:
        """Select ``entries`` [E] of the constant arrays (None: all, unchanged)."""
        if entries is not None:
            self._statics = {name: _value(value.numpy()[entries]) for name, value in self._statics.items()}


def _value(array: np.ndarray[Any, Any]) -> Any:
    """Return an array as a tensor of onnxruntime."""
    return _from_numpy()(np.ascontiguousarray(array))


@cache
def _from_numpy() -> Callable[[np.ndarray[Any, Any]], Any]:
    make: Callable[[np.ndarray[Any, Any]], Any] = import_onnxruntime().OrtValue.ortvalue_from_numpy
    return make
