"""Optimal completion (Sabour, Chan & Norouzi 2019): learn the best continuations of the model's own prefixes.

The model runs freely until EOS or a length limit. After each of its prefixes the target is the uniform distribution
over the tokens S_t with which the best total edit distance can still be reached,

    sum_t KL(uniform(S_t) || p(. | fed_1 ... fed_t, x)),

up to and including the step that predicts EOS. The target of scheduled sampling is the token at the same position,
which is wrong once a token was inserted or omitted; this target is correct after every prefix.

The unknown tokens of a reference are not in S_t, because the model never predicts them. A step whose S_t is empty for
that reason adds no loss and is not counted.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from freerun.config.numbers import Temperature
from freerun.forcing.draw import Draw
from freerun.forcing.loss import Losses, Term, upcast
from freerun.forcing.replay import encode
from freerun.forcing.rollout import free_pass, uniforms
from freerun.forcing.strategy import Strategy, StrategySettings
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.metrics.oracle import Oracle
from freerun.models.device import Scalar, scalar
from freerun.models.seq2seq import Seq2Seq
from freerun.symbols import EOS, NEVER_WRITTEN

__all__ = ["OptimalCompletion", "OptimalCompletionSettings", "kl_to_optimal"]


class OptimalCompletionSettings(StrategySettings):
    """The keys of ``strategy = "optimal_completion"``."""

    used_with: ClassVar = {"temperature": ("draw", ("sample",))}

    teacher_prob: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Probability of feeding a correct continuation instead of the model's own prediction."""
    draw: Literal["sample", "argmax"] = "sample"
    temperature: Temperature = 1.0
    longest_ratio: Annotated[float, Field(ge=1.0, le=100.0)] = 1.5
    """Length limit of a rollout, in target lengths, plus three tokens: untrained models rarely predict EOS."""


class OptimalCompletion(Strategy):
    """Feeds the model's own predictions, and occasionally a correct continuation of them."""

    Settings = OptimalCompletionSettings
    settings: OptimalCompletionSettings

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Return one term, the KL summed over all steps that have an optimal token.

        The journal gets the KL per such step; ``rollout_edits``, the mean edit distance of the rollouts that reached
        EOS; and ``rollout_cut_off``, the fraction that did not.
        """
        bounds_B = (batch.target_lengths_B * self.settings.longest_ratio).long() + 3
        steps = int(bounds_B.max())
        encoded, masks = encode(model, batch, update, steps)
        guide = _Guide(batch, update, bounds_B, self.settings.teacher_prob, model.sizes.target_vocabulary)
        draw = Draw(self.settings.draw, self.settings.temperature, NEVER_WRITTEN)
        numbers_BT = uniforms(update, "draws", batch.num_pairs, steps, device=bounds_B.device)
        run, decoded = free_pass(model.decoder, encoded, bounds_B, numbers_BT, draw, masks, guide)
        length = run.fed_BT.shape[1]
        optimal_TBV = torch.from_numpy(np.stack(guide.optimal_TBV))
        real_TB = torch.arange(length, device=bounds_B.device).unsqueeze(1) < run.lengths_B
        counted_TB = real_TB.cpu() & optimal_TBV.any(2)
        logits_NV = model.decoder.logits(decoded.features_TBF[counted_TB.to(bounds_B.device)])
        optimal_NV = optimal_TBV[counted_TB].to(logits_NV.device)
        kl, loss = kl_to_optimal(logits_NV, optimal_NV, self.objective.label_smoothing)
        count = len(logits_NV) if self.objective.normalise == "tokens" else int(counted_TB.any(0).sum())
        metrics: dict[str, tuple[Scalar, Scalar]] = {
            "kl.optimal_completion": (scalar(kl), len(logits_NV)),
            "rollout_edits": (guide.edits_B.sum().item(), guide.ended_B.sum().item()),
            "rollout_cut_off": ((~guide.ended_B).sum().item(), batch.num_pairs),
        }
        return Losses({"kl": Term(loss, count)}, metrics)


class _Guide:
    """Follows a rollout: records the optimal tokens of each step, and feeds one of them if a coin flip says so."""

    def __init__(
        self, batch: TrainingBatch, update: Update, bounds_B: Tensor, teacher_prob: float, vocabulary: int
    ) -> None:
        self._bounds_B, steps = bounds_B.cpu().numpy(), int(bounds_B.max())
        self._oracle = Oracle(batch.references, vocabulary)
        self._coins_BT = uniforms(update, "coins", batch.num_pairs, steps) < teacher_prob
        self._numbers_BT = uniforms(update, "right draws", batch.num_pairs, steps).numpy()
        self.optimal_TBV: list[np.ndarray] = []
        self.ended_B = np.zeros(batch.num_pairs, np.bool_)
        self.edits_B = np.zeros(batch.num_pairs, np.int64)

    def __call__(self, t: int, drawn_B: Tensor) -> Tensor:
        """Return the tokens that are written at step ``t``, given the sampled ones."""
        optimal_BV = self._oracle.optimal_BV()
        self.optimal_TBV.append(optimal_BV)
        correct_B = torch.from_numpy(_sample_allowed(optimal_BV, self._numbers_BT[:, t])).to(drawn_B.device)
        # without an optimal token, the model's own prediction is kept
        replaced_B = self._coins_BT[:, t] & torch.from_numpy(optimal_BV.any(1))
        written_B = torch.where(replaced_B.to(drawn_B.device), correct_B, drawn_B)
        tokens_B = written_B.cpu().numpy()
        # a row at its length limit is stepped with the others, but its further tokens are not part of its output
        ends_B = (tokens_B == EOS) & ~self.ended_B & (t < self._bounds_B)
        self.edits_B[ends_B] = self._oracle.distances_B[ends_B]
        self.ended_B |= ends_B
        self._oracle.advance(tokens_B)
        return written_B


def _sample_allowed(allowed_BV: np.ndarray, uniforms_B: np.ndarray) -> np.ndarray:
    """Sample one of each row's allowed tokens uniformly; undefined for a row without any."""
    counts_B = allowed_BV.sum(1)
    chosen_B = np.minimum((uniforms_B * counts_B).astype(np.int64), counts_B - 1)
    ranks_BV = allowed_BV.cumsum(1) - 1
    tokens_B: np.ndarray = (allowed_BV & (ranks_BV == chosen_B[:, None])).argmax(1)
    return tokens_B


def kl_to_optimal(logits_NV: Tensor, optimal_NV: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the sum over positions of KL(uniform over the optimal tokens || model), and the smoothed loss.

    Label smoothing mixes the optimal tokens' distribution with the uniform one over the vocabulary, as for token NLL.
    Each position must have at least one optimal token.
    """
    log_probs_NV = torch.log_softmax(upcast(logits_NV), 1)
    counts_N = optimal_NV.sum(1)
    mean_N = log_probs_NV.masked_fill(~optimal_NV, 0.0).sum(1) / counts_N
    kl = (-counts_N.to(mean_N.dtype).log() - mean_N).sum()
    if not smoothing:
        return kl.detach(), kl
    return kl.detach(), (1.0 - smoothing) * kl - smoothing * log_probs_NV.mean(1).sum()
