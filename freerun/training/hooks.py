"""The hooks that a caller of the training loop provides: the loop handles tensors, the hooks texts and bundles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from freerun.data.batching import Batch
from freerun.models.seq2seq import Seq2Seq
from freerun.search.batches import Share
from freerun.training.callbacks import EvaluationResult
from freerun.training.selection import Metrics

__all__ = ["TrainerHooks"]


class TrainerHooks(Protocol):
    """Evaluates models, writes and reads bundles, and decodes batches for the training loop."""

    def evaluate(
        self,
        model: Seq2Seq,
        everything: bool,
        check: Callable[[], None],
        share: Share,
        others: Callable[[], Sequence[Any]],
    ) -> EvaluationResult:
        """Evaluate a model on the development pairs: on the fixed sample, or on ``everything``.

        ``check`` is called between batches and may raise to stop. Of several processes, each computes its ``share``;
        ``others`` then returns the outcomes of the other ones.
        """
        ...

    def outcome(self, model: Seq2Seq, everything: bool, check: Callable[[], None], share: Share) -> Any:
        """Return the outcome of a share of an evaluation as a JSON value."""
        ...

    def write_bundle(self, name: str, weights: Mapping[str, Tensor], metrics: Metrics, update: int) -> str:
        """Replace the bundle directory ``name`` ("best" or "last"); return the SHA-256 of its weights."""
        ...

    def read_label(self, name: str) -> tuple[int, str] | None:
        """Return the update of a bundle and the SHA-256 that it names for its weights; None if it cannot be read."""
        ...

    def describe(self, batch: Batch) -> list[dict[str, str]]:
        """Return the pairs of a batch as texts, for a person to look at."""
        ...
