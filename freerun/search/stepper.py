"""The interface between search and models: a model that is run one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["AttendingStepper", "Ids", "LogProbs", "Stepper", "Weights"]

Ids: TypeAlias = npt.NDArray[np.int64]
"""Token ids or row numbers."""
LogProbs: TypeAlias = npt.NDArray[np.floating[Any]]
"""Natural logarithms of probabilities, float32 (float64 when the model is)."""
Weights: TypeAlias = npt.NDArray[np.float32]
"""Attention weights: at least 0, and a step's add up to 1."""


class Stepper(Protocol):
    """A conditional model, one target token at a time.

    The stepper keeps the recurrent state of its rows and re-orders it by ``origins``, so that only small arrays cross
    this interface. A row that is missing in ``origins`` has left the search. Shape suffixes: B sources, S source
    tokens, N rows, V vocabulary.
    """

    @property
    def vocabulary_size(self) -> int:
        """V, the special ids included."""
        ...

    def start(self, source_ids: Ids, lengths: Ids) -> None:
        """Read ``source_ids`` [B, S], right-padded with PAD; ``lengths`` [B] are without the padding.

        If the model has features, the ids of a source's features follow its ``lengths`` ids.
        """
        ...

    def step(self, tokens: Ids, origins: Ids, k: int | None = None, banned: Sequence[int] = ()) -> tuple[Ids, LogProbs]:
        """Feed ``tokens`` [N] and return the best next tokens of each row.

        Row n continues row ``origins[n]`` of the previous step; in the first step, which feeds BOS, it continues
        source ``origins[n]``. Returns ids [N, k] and log_probs [N, k], best first, ties to the lowest id, never one of
        ``banned``; ``k=None`` returns all V in the order of their ids, the banned ones with -inf. The log-probabilities
        are normalised over the whole vocabulary before anything is banned.
        """
        ...

    def log_prob_of(self, tokens: Ids) -> LogProbs:
        """Return the log-probabilities [N] of ``tokens`` [N] as next tokens of the rows of the last step."""
        ...


@runtime_checkable
class AttendingStepper(Stepper, Protocol):
    """A stepper that returns its attention weights, if its model has attention.

    Shape suffixes: N rows, S memory entries.
    """

    @property
    def attends(self) -> bool:
        """True if the model has attention."""
        ...

    @property
    def attends_features(self) -> bool:
        """True if a source's features are entries of the memory, after those of its tokens."""
        ...

    def attention(self) -> Weights:
        """Return the attention weights [N, S] of the rows of the last step; only for a model that attends.

        A row's first weights are those of its own source's tokens and features; the rest is 0.
        """
        ...
