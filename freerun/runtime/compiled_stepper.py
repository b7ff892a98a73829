"""A ``Stepper`` in the compiled library: every search but greedy search, which has a call of its own.

Shape suffixes: B sources, N rows, S memory entries, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from freerun.runtime.compiled_model import BAD_SOURCE, STOPPED, CompiledModel
from freerun.runtime.interruptible import stop_flag
from freerun.search.loop import writable
from freerun.search.stepper import Ids, LogProbs, Weights
from freerun.search.top import best_allowed
from freerun.symbols import NEVER_WRITTEN, PAD

__all__ = ["CompiledStepper"]


class CompiledStepper:
    """Steps a model in the C library, which keeps the state; only ids, log-probabilities and weights are copied out.

    It holds the state of one search, so each thread needs its own; they may share their ``model``. A row does not
    depend, to the last bit, on the other rows.
    """

    def __init__(self, model: CompiledModel) -> None:
        self.vocabulary_size = model.sizes.target_vocabulary
        self._model = model
        self._steps = ctypes.c_void_p()
        self._entries = 0
        self._log_probs_NV: Any = None

    @property
    def attends(self) -> bool:
        """See ``AttendingStepper``."""
        return self._model.sizes.attention_spec.reads_memory

    @property
    def attends_features(self) -> bool:
        """See ``AttendingStepper``."""
        return self._model.sizes.has_feature_entries

    def __del__(self) -> None:
        self._end()

    def _end(self) -> None:
        steps, self._steps = self._steps, ctypes.c_void_p()
        self._model.library.freerun_end(steps)

    def start(self, source_ids: Ids, lengths: Ids) -> None:
        """See ``Stepper``.

        Raises:
            BundleError: the arrays are damaged or not of this bundle's sizes.
            ValueError: a source is empty, or has an id outside the vocabulary.
        """
        self._end()
        self._log_probs_NV = None
        positions = np.arange(source_ids.shape[1])
        inside = positions < lengths[:, None]
        arrays: list[Any] = [_filled(source_ids[inside]), np.ascontiguousarray(lengths, np.int64)]
        if self._model.sizes.has_features:
            features = ~inside & (source_ids != PAD)
            arrays += [_filled(source_ids[features]), features.sum(axis=1, dtype=np.int64)]
        entries = arrays[1] + arrays[3] if self.attends_features else arrays[1]
        self._entries = int(entries.max(initial=0))
        addresses = [each.ctypes.data for each in arrays] + [None] * (4 - len(arrays))
        stop = stop_flag()
        self._model.run(partial(self._start, len(lengths), addresses, stop), stop, int(lengths.sum()))

    def _start(self, count: int, addresses: Sequence[int | None], stop: ctypes.c_int32) -> int:
        result: int = self._model.library.freerun_start(
            self._model(), count, *addresses, ctypes.byref(self._steps), stop
        )
        return result

    def step(self, tokens: Ids, origins: Ids, k: int | None = None, banned: Sequence[int] = ()) -> tuple[Ids, LogProbs]:
        """See ``Stepper``; the library itself finds the k best if ``banned`` is ``NEVER_WRITTEN``.

        Raises:
            ValueError: an id or a row does not exist.
        """
        assert self._steps.value is not None, "start() comes first"
        if stop_flag().value:
            self._model.check(STOPPED)
        rows = len(tokens)
        log_probs = np.empty((rows, self.vocabulary_size), np.float32)
        arrays = [np.ascontiguousarray(each, np.int64) for each in (tokens, origins)]
        library = self._model.library
        self._checked(
            library.freerun_step(self._steps, rows, *(each.ctypes.data for each in arrays), log_probs.ctypes.data)
        )
        self._log_probs_NV = log_probs
        if k is None or set(banned) != set(NEVER_WRITTEN):
            return best_allowed(log_probs, k, banned)
        number = min(k, writable(self.vocabulary_size))
        ids, best = np.empty((rows, number), np.int64), np.empty((rows, number), np.float32)
        addresses = log_probs.ctypes.data, number, ids.ctypes.data, best.ctypes.data
        self._checked(library.freerun_best(rows, self.vocabulary_size, *addresses))
        return ids, best

    def _checked(self, result: int) -> None:
        """Raise the exception for an error code of a step."""
        if result == BAD_SOURCE:
            raise ValueError("a token outside the target vocabulary, or a row that the step before did not have")
        self._model.check(result)

    def log_prob_of(self, tokens: Ids) -> LogProbs:
        """See ``Stepper``."""
        assert self._log_probs_NV is not None, "step() comes first"
        values: LogProbs = np.take_along_axis(self._log_probs_NV, tokens[:, None], 1)[:, 0]
        return values

    def attention(self) -> Weights:
        """See ``AttendingStepper``; S is that of the source with the largest memory."""
        assert self._log_probs_NV is not None, "step() comes first"
        weights = np.empty((len(self._log_probs_NV), self._entries), np.float32)
        self._model.check(self._model.library.freerun_attended(self._steps, *weights.shape, weights.ctypes.data))
        return weights


def _filled(ids: Ids) -> Ids:
    """Return the ids, or one of them if there are none: an empty array may have no address."""
    return np.ascontiguousarray(ids, np.int64) if len(ids) else np.array([PAD], np.int64)
