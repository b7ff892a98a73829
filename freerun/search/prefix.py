"""A forced prefix of every output, as a stepper over a stepper, so that no search needs to know about it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from freerun.errors import ConfigError
from freerun.search.stepper import Ids, LogProbs, Stepper
from freerun.symbols import BOS, EOS, PAD

__all__ = ["NO_TOKEN", "PrefixStepper", "with_prefixes"]

NO_TOKEN = -1
"""In place of an id: a row has fewer candidates than requested."""
_MIN_LOG_PROB = -1e30
"""In place of -inf, which could not be sampled or ranked; small sums of it are finite. No trained model gives it."""


class PrefixStepper:
    """Within its source's prefix, a row has only one candidate: the prefix's next token.

    Its log-probability is the model's own, so that prefixes count in every score.
    """

    def __init__(self, stepper: Stepper, prefixes: Sequence[Sequence[int]]) -> None:
        self._stepper = stepper
        self._lengths = np.array([len(prefix) for prefix in prefixes], np.int64)
        self._tokens = np.full((len(prefixes), int(self._lengths.max(initial=0))), EOS, np.int64)
        for source, prefix in enumerate(prefixes):
            self._tokens[source, : len(prefix)] = prefix

    @property
    def vocabulary_size(self) -> int:
        """V of the wrapped stepper."""
        return self._stepper.vocabulary_size

    def start(self, source_ids: Ids, lengths: Ids) -> None:
        """See ``Stepper``."""
        self._stepper.start(source_ids, lengths)
        self._sources = np.arange(len(lengths))
        self._written = 0

    def step(self, tokens: Ids, origins: Ids, k: int | None = None, banned: Sequence[int] = ()) -> tuple[Ids, LogProbs]:
        """See ``Stepper``; the candidates of a forced row other than its token are NO_TOKEN with -inf."""
        ids, log_probs = self._stepper.step(tokens, origins, k, banned)
        self._sources = self._sources[origins]
        if self._written < self._tokens.shape[1]:
            ids, log_probs = ids.copy(), log_probs.copy()
            self._force(ids, log_probs, whole=k is None)
        self._written += 1
        return ids, log_probs

    def log_prob_of(self, tokens: Ids) -> LogProbs:
        """See ``Stepper``."""
        return self._stepper.log_prob_of(tokens)

    def _force(self, ids: Ids, log_probs: LogProbs, whole: bool) -> None:
        """Overwrite the candidates of forced rows in place."""
        forced = np.flatnonzero(self._lengths[self._sources] > self._written)
        tokens = self._tokens[self._sources, self._written]
        given = np.maximum(self.log_prob_of(tokens)[forced], _MIN_LOG_PROB)
        tokens = tokens[forced]
        columns = tokens if whole else np.zeros(len(forced), np.int64)
        ids[forced] = NO_TOKEN
        log_probs[forced] = -np.inf
        ids[forced, columns] = tokens
        log_probs[forced, columns] = given


def with_prefixes(stepper: Stepper, prefixes: Sequence[Sequence[int]], max_lengths: Ids) -> Stepper:
    """Return ``stepper`` with a prefix for each source.

    Raises:
        ConfigError: a prefix with PAD, BOS, EOS or an id outside the vocabulary, or one longer than its length bound.
        ValueError: prefixes and sources differ in number.
    """
    if len(prefixes) != len(max_lengths):
        raise ValueError(f"{len(prefixes)} prefixes for {len(max_lengths)} sources")
    for source, (prefix, bound) in enumerate(zip(prefixes, max_lengths.tolist(), strict=True)):
        _check(source, prefix, bound, stepper.vocabulary_size)
    return PrefixStepper(stepper, prefixes)


def _check(source: int, prefix: Sequence[int], bound: int, vocabulary_size: int) -> None:
    """Check that an output can begin with a prefix."""
    for token in prefix:
        if token in (PAD, BOS, EOS) or not 0 <= token < vocabulary_size:
            raise ConfigError.single(
                f"prefix of source {source}",
                f"contains the id {token}",
                f"Expected ids of target tokens, below {vocabulary_size}, without padding, begin and end",
                "Encode the prefix with the model's target vocabulary and drop its end token",
            )
    if len(prefix) > bound:
        raise ConfigError.single(
            f"prefix of source {source}",
            f"too long: {len(prefix)} tokens, but the output may have only {bound}",
            "Expected a prefix no longer than the length bound",
            "Shorten the prefix, or raise the maximum length",
        )
