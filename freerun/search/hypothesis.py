"""Hypotheses, and the scores that they are ranked by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Hypothesis", "divisor_bound", "penalised"]

Score = TypeVar("Score", float, npt.NDArray[np.float64])

# Relative; far above the rounding errors of a power and a division, far below any difference that matters.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One output sequence.

    ids: the tokens written, without EOS.
    score: total log-probability in nats, with EOS; without EOS when ``truncated``.
    token_scores: log-probability of each token, then of EOS unless ``truncated``.
    rank_score: ranks the hypotheses of a source, see ``penalised``.
    truncated: the length bound was reached before EOS.
    """

    ids: tuple[int, ...]
    score: float
    token_scores: tuple[float, ...]
    rank_score: float
    truncated: bool


def penalised(score: Score, length: float | npt.NDArray[np.float64], length_penalty: float) -> Score:
    """Return ``score / ((5 + length) / 6) ** length_penalty`` (Wu et al. 2016, eq. 14); ``length`` counts EOS."""
    return score / ((5.0 + length) / 6.0) ** length_penalty  # type: ignore[return-value]


def divisor_bound(written: int, longest: int, length_penalty: float) -> float:
    """Return the largest divisor that ``penalised`` can still apply to an active hypothesis, rounded up.

    ``written`` is its number of tokens now, ``longest`` its maximum, both without EOS. No token raises a
    score, and no score is positive: its current score, divided by this, bounds the rank score that it can reach.
    """
    if not length_penalty:
        return 1.0  # nothing to round: an active hypothesis that can only tie must not keep the search going
    length = (longest if length_penalty > 0 else written) + 1
    return float(((5.0 + length) / 6.0) ** length_penalty * (1.0 + _ROUNDING))
