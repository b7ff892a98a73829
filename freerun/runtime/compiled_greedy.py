"""Greedy search in the compiled library, with the arrays of greedy.npz: a call decodes a batch."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from freerun.architecture import Architecture
from freerun.runtime.bundle import Bundle, arrays_file
from freerun.runtime.compiled import library
from freerun.runtime.compiled_model import CompiledModel, in_threads
from freerun.runtime.interruptible import stop_flag
from freerun.search.hypothesis import Hypothesis
from freerun.symbols import EOS

__all__ = ["CompiledGreedy", "can_run", "supports"]

_FIRST_ROOM: Final = 2**12
"""Tokens per output for which the first attempt reserves memory."""
_MAX_ROOM: Final = 2**20
"""Total tokens for which the first attempt of a call reserves memory."""
_MIN_ROWS: Final = 24
"""Minimum number of sources per thread."""


def supports(bundle: Bundle) -> bool:
    """Return True if the library can run a model of this architecture."""
    return Architecture.of(bundle.model).compiled_greedy


def can_run(bundle: Bundle, precision: str) -> bool:
    """Return True if the library is installed, and the bundle has arrays for it or weights to compute them from."""
    if not supports(bundle) or library() is None:
        return False
    if bundle.has_graphs(precision):
        return arrays_file(precision) in bundle.config["files"]
    return precision == "fp32" and bundle.has_weights


class CompiledGreedy:
    """A ``GreedyDecoder`` in the C library. Any number of threads may call it at once.

    Outputs do not depend, to the last bit, on the other sources in a call. Many sources are divided among ``threads``.
    """

    def __init__(self, model: CompiledModel, threads: int = 1) -> None:
        self._model = model
        self._decode = model.library.freerun_greedy
        self._threads = threads

    def __call__(self, sources: Sequence[Sequence[int]], bounds: Sequence[int]) -> list[Hypothesis]:
        """Return the output for each source, whose features follow its EOS; ``bounds`` are in tokens without EOS.

        Raises:
            BundleError: the arrays, which the first call reads, are damaged or not of this bundle's sizes.
        """
        model, stop = self._model(), stop_flag()
        if len(sources) == 1:
            return self._decoded(model, stop, sources, bounds)

        def work(part: slice) -> list[Hypothesis]:
            return self._decoded(model, stop, sources[part], bounds[part])

        return in_threads(work, _parts(bounds, self._threads), self._threads, stop)

    def _decoded(
        self,
        model: Any,
        stop: ctypes.c_int32,
        sources: Sequence[Sequence[int]],
        bounds: Sequence[int],
        room: int = _FIRST_ROOM,
    ) -> list[Hypothesis]:
        """Decode with memory for ``room`` tokens per output, then those that were truncated there with more.

        Few outputs come near a large bound.
        """
        outputs = self._called(model, stop, sources, [min(bound, room) for bound in bounds])
        rows = [row for row, bound in enumerate(bounds) if bound > room and outputs[row].truncated]
        if rows:
            again = self._decoded(model, stop, [sources[row] for row in rows], [bounds[row] for row in rows], 8 * room)
            for row, hypothesis in zip(rows, again, strict=True):
                outputs[row] = hypothesis
        return outputs

    def _called(
        self, model: Any, stop: ctypes.c_int32, sources: Sequence[Sequence[int]], bounds: Sequence[int]
    ) -> list[Hypothesis]:
        """Call the library once; if the call may be long, signals can interrupt it."""
        room = sum(bounds) + len(bounds)
        arrays = (  # not NumPy's: creating these and reading their addresses takes a third of the time
            *self._model.inputs(sources),
            array("q", bounds),
            tokens := array("i", bytes(4 * room)),
            scores := array("f", bytes(4 * room)),
            written := array("q", bytes(8 * len(sources))),
        )
        addresses = [None if each is None else each.buffer_info()[0] for each in arrays]
        self._model.run(partial(self._decode, model, len(sources), *addresses, stop), stop, room)
        outputs, start = [], 0
        for count, bound in zip(written, bounds, strict=True):
            outputs.append(_hypothesis(tokens[start : start + count].tolist(), scores[start : start + count].tolist()))
            start += bound + 1
        return outputs


def _parts(bounds: Sequence[int], threads: int) -> list[slice]:
    """Return slices of sources to decode in one call: within ``_MAX_ROOM``, about four per thread."""
    limit = len(bounds) if threads == 1 else max(_MIN_ROWS, -(-len(bounds) // (4 * threads)))
    parts, start, room = [], 0, 0
    for row, bound in enumerate(bounds):
        if row - start == limit or (row > start and room + min(bound, _FIRST_ROOM) > _MAX_ROOM):
            parts.append(slice(start, row))
            start, room = row, 0
        room += min(bound, _FIRST_ROOM) + 1
    return [*parts, slice(start, len(bounds))]


def _hypothesis(tokens: list[int], scores: list[float]) -> Hypothesis:
    """Return the hypothesis of the tokens that were written, which end with EOS unless the bound came first."""
    truncated = not tokens or tokens[-1] != EOS
    score = sum(scores)
    return Hypothesis(tuple(tokens if truncated else tokens[:-1]), score, tuple(scores), score, truncated)
