"""Beam search in the compiled library: a call decodes a batch, as ``freerun.search.beam`` does step by step."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import partial
from typing import Final

from freerun.runtime.compiled import BeamSettings, Outputs
from freerun.runtime.compiled_model import CompiledModel, in_threads
from freerun.runtime.interruptible import stop_flag
from freerun.search.hypothesis import Hypothesis, penalised
from freerun.search.methods import Beam
from freerun.symbols import EOS

__all__ = ["CompiledBeam"]

_MIN_ROWS: Final = 8
"""Minimum number of sources per thread."""


class CompiledBeam:
    """A ``BeamDecoder`` in the C library. Any number of threads may call it at once.

    The hypotheses of a source do not depend, to the last bit, on the other sources in a call.
    """

    def __init__(self, model: CompiledModel, threads: int = 1) -> None:
        self._model = model
        self._threads = threads

    def __call__(
        self, sources: Sequence[Sequence[int]], bounds: Sequence[int], settings: Beam
    ) -> list[list[Hypothesis]]:
        """Return the hypotheses of each source, best first; ``settings`` with a width of at least 2.

        Raises:
            BundleError: the arrays, which the first call reads, are damaged or not of this bundle's sizes.
        """
        self._model()
        stop = stop_flag()
        shared = len(sources) if self._threads == 1 else -(-len(sources) // (4 * self._threads))
        size = max(_MIN_ROWS, shared)
        parts = [slice(first, first + size) for first in range(0, len(sources), size)]

        def work(part: slice) -> list[list[Hypothesis]]:
            return self._called(sources[part], bounds[part], settings, stop)

        return in_threads(work, parts, self._threads, stop)

    def _called(
        self, sources: Sequence[Sequence[int]], bounds: Sequence[int], settings: Beam, stop: ctypes.c_int32
    ) -> list[list[Hypothesis]]:
        """Call the library once; if the call may be long, signals can interrupt it."""
        outputs, number = Outputs(), settings.num_hypotheses
        how = BeamSettings(settings.width, number, settings.early_stop, settings.length_penalty)
        room = 8 * number * len(sources)
        starts, written = array("q", bytes(room)), array("q", bytes(room))
        arrays = [*self._model.inputs(sources), array("q", bounds)]
        addresses = [None if each is None else each.buffer_info()[0] for each in arrays]
        results = starts.buffer_info()[0], written.buffer_info()[0]
        library = self._model.library
        call = partial(
            library.freerun_beam_search, self._model(), len(sources), *addresses, how, *results, outputs, stop
        )
        try:
            self._model.run(call, stop, (sum(bounds) + len(bounds)) * settings.width)
            return [
                [
                    _hypothesis(outputs, starts[n], written[n], settings.length_penalty)
                    for n in range(first, first + number)
                    if written[n] >= 0
                ]
                for first in range(0, len(written), number)
            ]
        finally:
            library.freerun_release(outputs)


def _hypothesis(outputs: Outputs, start: int, count: int, length_penalty: float) -> Hypothesis:
    """Return the hypothesis of ``count`` tokens, which end with EOS unless the bound came first."""
    tokens, scores = outputs.tokens[start : start + count], outputs.scores[start : start + count]
    truncated = not tokens or tokens[-1] != EOS
    score = 0.0
    for each in scores:  # sum() adds more exactly than a search does, from Python 3.12 on
        score += each
    rank = penalised(score, float(count), length_penalty)
    return Hypothesis(tuple(tokens if truncated else tokens[:-1]), score, tuple(scores), rank, truncated)
