"""R-Drop: teacher forcing, twice, under two draws of dropout whose predictions must agree (Liang et al. 2021).

With P1 and P2 the distributions of the two passes at a position, and y the reference token, the loss is

    (- log P1(y) - log P2(y)) / 2 + alpha / 4 * (KL(P1 || P2) + KL(P2 || P1)),

summed over positions: half of the paper's (equations 2 to 4), so that it has the scale of teacher forcing. Dropout
trains many networks that share weights, but inference uses one, without dropout. The second term draws them together.

Every mask differs between the passes. Those of the first are the masks that teacher forcing has in the same update.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from freerun.config.numbers import Number
from freerun.forcing.loss import Losses, Term, output_loss, smoothed_nll, upcast
from freerun.forcing.replay import encode, replay
from freerun.forcing.strategy import Strategy, StrategySettings
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.seq2seq import Seq2Seq
from freerun.randomness import seed_of

__all__ = ["RDrop", "RDropSettings"]


class RDropSettings(StrategySettings):
    """The keys of ``strategy = "r_drop"``."""

    needs_dropout: ClassVar = True

    alpha: Number = 5.0
    """Weight of the divergence between the two passes (5 in the paper, for translation)."""


class RDrop(Strategy):
    """Feeds reference tokens in two passes."""

    Settings = RDropSettings
    settings: RDropSettings

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Return one term, NLL and divergence together.

        The journal gets the unsmoothed NLL per token, the mean of both passes, and ``divergence``, the mean of both
        KL divergences per token, in nats.
        """
        second = replace(update, seed=seed_of(update.seed, "r_drop"))
        features = [self._features(model, batch, each) for each in (update, second)]
        inputs_NPF, weight_VF, bias_V = model.decoder.output(torch.stack(features, 1))
        loss, sums = output_loss(inputs_NPF, weight_VF, bias_V, batch.target_N, self._loss)
        nll, divergence = sums.tolist()
        metrics = {
            "nll.teacher": (nll, batch.num_tokens),
            "divergence": (divergence, batch.num_tokens),
        }
        return Losses({"r_drop": Term(loss, self.objective.count(batch))}, metrics)

    @staticmethod
    def _features(model: Seq2Seq, batch: TrainingBatch, update: Update) -> Tensor:
        encoded, masks = encode(model, batch, update)
        return replay(model, batch, encoded, batch.target_in_BT, masks)

    def _loss(self, logits_NPV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss summed over positions, and the sums of NLL and divergence; P: the two passes."""
        nll_loss, nll = smoothed_nll(
            logits_NPV.flatten(0, 1), target_N.repeat_interleave(2), self.objective.label_smoothing
        )
        divergence = symmetric_divergence(logits_NPV)
        return nll_loss / 2 + self.settings.alpha / 2 * divergence, torch.stack([nll / 2, divergence.detach()])


def symmetric_divergence(logits_NPV: Tensor) -> Tensor:
    """Return ``(KL(P1 || P2) + KL(P2 || P1)) / 2`` in nats, summed over positions; P is 2."""
    log_probs_NPV = torch.log_softmax(upcast(logits_NPV), -1)
    first_NV, second_NV = log_probs_NPV.unbind(1)
    return ((first_NV.exp() - second_NV.exp()) * (first_NV - second_NV)).sum() / 2
