"""The contract of a forcing strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from freerun.forcing.loss import Losses, OwnLoss, Term, output_nll
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.device import Scalar, scalar
from freerun.models.seq2seq import Seq2Seq

__all__ = ["Objective", "Strategy", "StrategySettings"]


class StrategySettings(BaseModel):
    """A strategy's keys under ``[forcing]``. Each strategy subclasses it; unknown keys are rejected."""

    used_with: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {}
    """Key -> (switch, values): the key has an effect only under these values of the switch, else it has its default."""
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Objective:
    """The token loss that strategies share: its label smoothing, and whether it is a mean over tokens or sequences.

    ``per_batch`` is the average number of tokens (sequences) per batch of the corpus. Dividing by it gives every token
    (sequence) of the corpus the same weight. None divides by the batch's own number instead: then tokens of short
    targets weigh more, because a batch holds targets of similar lengths.
    """

    label_smoothing: float = 0.0
    normalise: str = "tokens"
    per_batch: float | None = None

    def count(self, batch: TrainingBatch) -> float:
        """Return the number that the summed token loss of ``batch`` is divided by."""
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
    ) -> tuple[Term, tuple[Scalar, Scalar]]:
        """Return the token loss as a term, and the unsmoothed NLL for the journal.

        Args:
            model: applies its output layer.
            features_NF: decoder features at the real target positions, from ``replay``.
            batch: determines the divisor.
            target_N: the target tokens. Default: those of the batch.
            weight: weight of the term.
        """
        target_N = batch.target_N if target_N is None else target_N
        loss, nll = output_nll(*model.decoder.output(features_NF), target_N, self.label_smoothing)
        return Term(loss, self.count(batch), weight), (scalar(nll), batch.num_tokens)


class Strategy(ABC):
    """Decides which tokens the decoder is fed in training, and which loss it learns from.

    A strategy is one file with its settings, its documentation and the method ``losses``. It is constructed from its
    settings and the shared objective.

    A strategy that has parameters of its own, such as a discriminator, also implements ``prepare``, ``own_loss``,
    ``own_sums``, ``step``, ``state``, ``load`` and ``undo``. The learner (``training/learner.py``) calls them in each
    update:

    1. for each batch: ``losses``, then ``own_loss`` with the ``own_inputs`` that ``losses`` returned. The learner
       backpropagates the own loss at once, so that its gradients add up over the batches of the update;
    2. backpropagation of the model's loss terms; with several processes, each of which has computed some of the
       batches, the sums of the gradients, and of the strategy's ``own_sums``, over all of them;
    3. ``step``, which updates the strategy's own parameters, then the model's optimizer.
    """

    Settings: ClassVar[type[StrategySettings]] = StrategySettings

    def __init__(self, settings: StrategySettings, objective: Objective) -> None:
        self.settings = settings
        self.objective = objective

    def prepare(self, model: Seq2Seq, seed: int) -> None:  # noqa: B027 - most have no parameters
        """Create the strategy's own parameters; called once, before the first update or checkpoint."""

    @abstractmethod
    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Return the model's loss terms on one batch, with their graphs.

        Gradients flow into the model only; the strategy's own parameters are constants here. All randomness comes from
        ``update``, so that runs can be resumed and two strategies under one seed share it.
        """

    def own_loss(self, inputs: Any, update: Update) -> OwnLoss | None:
        """Return the loss of the strategy's own parameters on one batch; None if there are no such parameters.

        ``inputs`` is the ``own_inputs`` of the batch's ``Losses``. The gradients must not reach the model. Autocast is
        off, whatever precision the model is trained in.
        """
        return None

    def own_sums(self, update: Update) -> Sequence[Tensor]:
        """Return what ``own_loss`` has added up over the batches of an update: gradients and counts.

        With several processes, the learner replaces the values of these tensors by their sums over all processes before
        ``step``. They have the dtype of the model's weights, and the same shapes in every process.
        """
        return ()

    def step(self, update: Update) -> Mapping[str, tuple[float, float]]:
        """Update the strategy's own parameters from the gradients of ``own_loss``, before the model's step.

        Returns metrics for the journal. A metric that is not finite stops the training, so a step with such a metric
        must leave all parameters unchanged.
        """
        return {}

    def undo(self) -> None:  # noqa: B027 - most have nothing of their own
        """Forget what ``losses`` and ``own_loss`` left behind in an update that is not made after all."""

    def phase(self, number: int) -> str:
        """Return the name of the phase that an update belongs to; empty if there is only one."""
        return ""

    def state(self) -> dict[str, Tensor]:
        """Return everything that the strategy has learned or counted, by name, for a checkpoint."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned. Raises KeyError or RuntimeError if it belongs to another strategy."""
        if state:
            raise KeyError(f"{type(self).__name__} has no state, the checkpoint has {', '.join(sorted(state)[:3])}")
