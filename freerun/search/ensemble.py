"""Several models as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from freerun.errors import ConfigError
from freerun.search.stepper import Ids, LogProbs, Stepper
from freerun.search.top import best_allowed

__all__ = ["EnsembleStepper"]


class EnsembleStepper:
    """A stepper whose distribution is a mean of its members' (N rows, V vocabulary).

    ``arithmetic``: log(mean p_m). ``geometric``: mean log p_m, renormalised over the vocabulary. All members need
    the same target vocabulary; only its size can be checked here. Raises ConfigError for no members, different sizes
    or an unknown mean.
    """

    def __init__(self, steppers: Sequence[Stepper], mean: Literal["arithmetic", "geometric"] = "arithmetic") -> None:
        _check(steppers, mean)
        self._steppers = list(steppers)
        self._mean = mean
        self._log_probs: LogProbs = np.zeros((0, self.vocabulary_size), np.float32)

    @property
    def vocabulary_size(self) -> int:
        """V, the same in all members."""
        return self._steppers[0].vocabulary_size

    def start(self, source_ids: Ids, lengths: Ids) -> None:
        """See ``Stepper``."""
        for stepper in self._steppers:
            stepper.start(source_ids, lengths)

    def step(self, tokens: Ids, origins: Ids, k: int | None = None, banned: Sequence[int] = ()) -> tuple[Ids, LogProbs]:
        """See ``Stepper``."""
        self._log_probs = self._combined([stepper.step(tokens, origins)[1] for stepper in self._steppers])
        return best_allowed(self._log_probs, k, banned)

    def log_prob_of(self, tokens: Ids) -> LogProbs:
        """See ``Stepper``."""
        return np.take_along_axis(self._log_probs, tokens[:, None], 1)[:, 0]

    def _combined(self, members: list[LogProbs]) -> LogProbs:
        """Return the mean [N, V] of the members' distributions, [N, V] each."""
        if self._mean == "geometric":
            mean = sum(members[1:], members[0]) / len(members)
            return mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)
        # Two at a time, so that no array [members, N, V] is needed.
        total = members[0]
        for log_probs in members[1:]:
            total = np.logaddexp(total, log_probs)
        # Rounding lifts the mean of three certain tokens above 0, but every search relies on scores that only fall.
        return np.minimum(total - np.asarray(np.log(len(members)), total.dtype), 0)


def _check(steppers: Sequence[Stepper], mean: str) -> None:
    """Check that the members can be combined."""
    if mean not in ("arithmetic", "geometric"):
        raise ConfigError.single("ensemble", f"unknown mean {mean!r}", "Expected 'arithmetic' or 'geometric'")
    sizes = [stepper.vocabulary_size for stepper in steppers]
    if len(set(sizes)) != 1:
        raise ConfigError.single(
            "ensemble",
            f"{len(sizes)} models with target vocabularies of {', '.join(map(str, sizes)) or 'no'} tokens",
            "Expected at least one model, and the same target vocabulary in all",
            "Leave out the models that were trained with another vocabulary",
        )
