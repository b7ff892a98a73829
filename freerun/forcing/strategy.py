"""What a forcing strategy is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from freerun.forcing.batch import TrainingBatch, Update
from freerun.forcing.loss import Losses
from freerun.models.seq2seq import Seq2Seq

__all__ = ["Objective", "Strategy", "StrategySettings"]


class StrategySettings(BaseModel):
    """A strategy's keys under ``[forcing]``; subclassed by each, unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Objective:
    """What all strategies share: label smoothing, and whether the token loss is divided by tokens or by sequences."""

    label_smoothing: float = 0.0
    normalise: str = "tokens"

    def count(self, batch: TrainingBatch) -> int:
        """What the summed token loss of ``batch`` is divided by."""
        return batch.num_tokens if self.normalise == "tokens" else batch.num_pairs


class Strategy(ABC):
    """Decides which tokens the decoder is fed, and what is learnt from that.

    A strategy is one file with its settings, its documentation and this one method; it is made with its settings and
    the shared objective.
    """

    Settings: ClassVar[type[StrategySettings]] = StrategySettings

    def __init__(self, settings: StrategySettings, objective: Objective) -> None:
        self.settings = settings
        self.objective = objective

    @abstractmethod
    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """The loss terms of one batch, with gradients.

        All randomness comes from ``update``, so that a run can be resumed and two strategies under one seed share it.
        """
