"""What a forcing strategy is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from freerun.forcing.loss import Losses, Term, output_nll
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.seq2seq import Seq2Seq

__all__ = ["Objective", "Strategy", "StrategySettings"]


class StrategySettings(BaseModel):
    """A strategy's keys under ``[forcing]``; subclassed by each, unknown keys are refused."""

    needs_replay: ClassVar[bool] = False
    """Whether the strategy is refused for a decoder that is trained step by step."""
    used_with: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {}
    """Key -> another key and the values of it with which the first has an effect; with others it keeps its default."""
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Objective:
    """The token loss that strategies share: how it is smoothed, and whether it is divided by tokens or sequences.

    ``per_batch`` is the average number of tokens (sequences) in a batch of the corpus. Divided by that, every token
    (sequence) of the corpus has the same weight. Divided by the batch's own number, which is what None means, tokens
    of short targets would weigh more, because a batch holds targets of similar lengths.
    """

    label_smoothing: float = 0.0
    normalise: str = "tokens"
    per_batch: float | None = None

    def count(self, batch: TrainingBatch) -> float:
        """Return what the summed token loss of ``batch`` is divided by."""
        if self.per_batch is not None:
            return self.per_batch
        return batch.num_tokens if self.normalise == "tokens" else batch.num_pairs

    def token_nll(
        self,
        model: Seq2Seq,
        features_NF: Tensor,
        batch: TrainingBatch,
        target_N: Tensor | None = None,
        weight: float = 1.0,
    ) -> tuple[Term, tuple[float, float]]:
        """The token loss as a term, and the plain NLL for the journal.

        Args:
            model: its output layer is applied.
            features_NF: at the real target positions, from ``replay``.
            batch: says what the term is divided by.
            target_N: the tokens asked for, the batch's own unless given.
            weight: of the term.
        """
        target_N = batch.target_N if target_N is None else target_N
        loss, nll = output_nll(*model.decoder.output(features_NF), target_N, self.label_smoothing)
        return Term(loss, self.count(batch), weight), (nll.item(), batch.num_tokens)


class Strategy(ABC):
    """Decides which tokens the decoder is fed, and what is learnt from that.

    A strategy is one file with its settings, its documentation and the method ``losses``; it is made with its settings
    and the shared objective. One that learns something of its own, such as a discriminator, has ``prepare``, ``step``,
    ``state`` and ``load`` too.
    """

    Settings: ClassVar[type[StrategySettings]] = StrategySettings

    def __init__(self, settings: StrategySettings, objective: Objective) -> None:
        self.settings = settings
        self.objective = objective

    def prepare(self, model: Seq2Seq, seed: int) -> None:  # noqa: B027 - most have nothing of their own
        """Make what the strategy itself learns with; called once, before the first update or a checkpoint."""

    @abstractmethod
    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """The loss terms of one batch, with gradients.

        All randomness comes from ``update``, so that a run can be resumed and two strategies under one seed share it.
        """

    def step(self, update: Update) -> Mapping[str, tuple[float, float]]:
        """The strategy's own learning, after the gradients of all parts of an update and before the model's step.

        Returns figures for the journal. One that is not finite stops the training, so weights must not have been
        changed by it.
        """
        return {}

    def phase(self, number: int) -> str:
        """The name of the phase that an update belongs to; nothing where there is one only."""
        return ""

    def state(self) -> dict[str, Tensor]:
        """All that it has learnt or counted, by name, for a checkpoint."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave. Raises KeyError or RuntimeError if it is another strategy's."""
        if state:
            raise KeyError(f"{type(self).__name__} has no state, the checkpoint has {', '.join(sorted(state)[:3])}")
