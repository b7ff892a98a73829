"""What a search hands back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Hypothesis", "penalised"]

Score = TypeVar("Score", float, npt.NDArray[np.float64])


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One output sequence.

    ids: the tokens written, without EOS.
    score: total log-probability in nats, with EOS; without EOS when ``truncated``.
    token_scores: log-probability of each token, then of EOS unless ``truncated``.
    rank_score: what hypotheses of one source are ranked by, see ``penalised``.
    truncated: the length bound was reached before EOS.
    """

    ids: tuple[int, ...]
    score: float
    token_scores: tuple[float, ...]
    rank_score: float
    truncated: bool


def penalised(score: Score, length: float | npt.NDArray[np.float64], length_penalty: float) -> Score:
    """``score / ((5 + length) / 6) ** length_penalty`` (Wu et al. 2016, eq. 14); ``length`` counts EOS."""
    return score / ((5.0 + length) / 6.0) ** length_penalty  # type: ignore[return-value]
