"""One way to search any model: through a stepper, or through faster code that takes whole searches of some kinds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from freerun.search.attended import attention_weights
from freerun.search.batches import EVERYTHING, ROWS, Share, pad_sources, similar_lengths
from freerun.search.beam import beam_search
from freerun.search.bound import check_shortest
from freerun.search.forced_scoring import Forced, score_targets
from freerun.search.hypothesis import Hypothesis
from freerun.search.methods import Beam, Sampling, Search
from freerun.search.sampling import sample
from freerun.search.stepper import Ids, Stepper, Weights
from freerun.symbols import source_length

__all__ = [
    "BeamDecoder",
    "DirectSearcher",
    "GreedyDecoder",
    "Searcher",
    "StepperSearcher",
    "score_in_batches",
    "search_in_batches",
]

Sequences: TypeAlias = Sequence[Sequence[int]]
"""Ids of several sources or targets, EOS last in each."""
GreedyDecoder: TypeAlias = Callable[[Sequences, Sequence[int]], list[Hypothesis]]
"""Greedy search without a stepper: (sources, bounds in tokens without EOS) -> the output of each source."""
BeamDecoder: TypeAlias = Callable[[Sequences, Sequence[int], Beam], list[list[Hypothesis]]]
"""The same for beam search, with its settings -> the hypotheses of each source."""


class Searcher(Protocol):
    """A model that writes outputs, and scores and attends for given ones. Several threads may use it at once."""

    def search(
        self,
        sources: Sequences,
        bounds: Sequence[int],
        settings: Search,
        prefix: Sequence[int] = (),
        rows: Sequence[int] | None = None,
    ) -> list[list[Hypothesis]]:
        """Return the hypotheses of each source, best first.

        bounds: the maximum output length of each source, without EOS. prefix: ids that every output begins with.
        rows: the numbers that determine the sources' samples. Default: their positions.

        Raises:
            ConfigError: a negative bound, or a prefix longer than one or with ids that cannot be written.
        """
        ...

    def score(self, sources: Sequences, targets: Sequences) -> Forced:
        """Return the log-probabilities of the tokens of one target per source."""
        ...

    def attention(self, sources: Sequences, targets: Sequences) -> list[Weights] | None:
        """Return the attention weights of one target per source, see ``attention_weights``; None if there are none."""
        ...


class StepperSearcher:
    """Every kind of search, with a stepper for each thread."""

    def __init__(self, new_stepper: Callable[[], Stepper]) -> None:
        self._new_stepper = new_stepper
        self._local = threading.local()

    @property
    def stepper(self) -> Stepper:
        """The stepper of the current thread."""
        if not hasattr(self._local, "stepper"):
            self._local.stepper = self._new_stepper()
        stepper: Stepper = self._local.stepper
        return stepper

    def search(
        self,
        sources: Sequences,
        bounds: Sequence[int],
        settings: Search,
        prefix: Sequence[int] = (),
        rows: Sequence[int] | None = None,
    ) -> list[list[Hypothesis]]:
        """See ``Searcher``."""
        ids, lengths = pad_sources(sources)
        max_lengths = np.array(bounds, np.int64)
        prefixes = [prefix] * len(sources) if prefix else None
        if isinstance(settings, Sampling):
            numbers = None if rows is None else np.asarray(rows, np.int64)
            return sample(
                self.stepper, ids, lengths, settings, max_lengths=max_lengths, rows=numbers, prefixes=prefixes
            )
        beam = settings if isinstance(settings, Beam) else Beam()
        return beam_search(self.stepper, ids, lengths, beam, max_lengths=max_lengths, prefixes=prefixes)

    def score(self, sources: Sequences, targets: Sequences) -> Forced:
        """See ``Searcher``."""
        return score_targets(self.stepper, *pad_sources(sources), targets)

    def attention(self, sources: Sequences, targets: Sequences) -> list[Weights] | None:
        """See ``Searcher``."""
        return attention_weights(self.stepper, sources, targets)


class DirectSearcher:
    """Greedy search by ``decoder``, beam search by ``beam_decoder`` if there is one; ``fallback`` does the rest."""

    def __init__(self, decoder: GreedyDecoder, fallback: Searcher, beam_decoder: BeamDecoder | None = None) -> None:
        self.decoder = decoder
        self.beam_decoder = beam_decoder
        self._fallback = fallback

    def search(
        self,
        sources: Sequences,
        bounds: Sequence[int],
        settings: Search,
        prefix: Sequence[int] = (),
        rows: Sequence[int] | None = None,
    ) -> list[list[Hypothesis]]:
        """See ``Searcher``."""
        # a beam of one with a length penalty ranks a single output
        is_beam = isinstance(settings, Beam) and settings.width > 1 and self.beam_decoder is not None
        if prefix or not (settings.is_greedy or is_beam):
            return self._fallback.search(sources, bounds, settings, prefix, rows)
        if not sources:
            return []
        check_shortest(min(bounds))
        if isinstance(settings, Beam) and self.beam_decoder is not None and not settings.is_greedy:
            return self.beam_decoder(sources, bounds, settings)
        return [[hypothesis] for hypothesis in self.decoder(sources, bounds)]

    def score(self, sources: Sequences, targets: Sequences) -> Forced:
        """See ``Searcher``."""
        return self._fallback.score(sources, targets)

    def attention(self, sources: Sequences, targets: Sequences) -> list[Weights] | None:
        """See ``Searcher``."""
        return self._fallback.attention(sources, targets)


def search_in_batches(
    searcher: Searcher,
    sources: Sequences,
    bounds: Sequence[int],
    settings: Search,
    *,
    prefix: Sequence[int] = (),
    rows: Sequence[int] | None = None,
    batch_size: int = ROWS,
    share: Share = EVERYTHING,
) -> Iterator[tuple[Ids, list[list[Hypothesis]]]]:
    """Yield the positions of the sources of each batch of a share, and the hypotheses of each source.

    A batch has sources of similar lengths and up to ``batch_size`` rows; a source takes ``settings.width`` of them.
    """
    lengths = [source_length(source) for source in sources]
    numbers = range(len(sources)) if rows is None else rows
    for batch in share.among(similar_lengths(lengths, lengths, batch_size, settings.width)):
        chosen = [sources[n] for n in batch], [bounds[n] for n in batch]
        yield batch, searcher.search(*chosen, settings, prefix, [numbers[n] for n in batch])


def score_in_batches(
    searcher: Searcher, sources: Sequences, targets: Sequences, batch_size: int = ROWS, share: Share = EVERYTHING
) -> Iterator[tuple[Ids, Forced]]:
    """Yield the positions of the pairs of each batch of a share, and the scores of their targets."""
    sizes = [source_length(source) for source in sources], [len(target) for target in targets]
    for batch in share.among(similar_lengths(*sizes, batch_size)):
        yield batch, searcher.score([sources[n] for n in batch], [targets[n] for n in batch])
