"""Scheduled sampling (Bengio, Vinyals, Jaitly & Shazeer 2015).

At update i, for each target position independently, the decoder is fed the reference token with probability eps_i
(``teacher_prob``), otherwise a token sampled from its own distribution at the previous position. The loss is the NLL of
the reference token at each position,

    - sum_t log p(y_t | fed_1 ... fed_(t-1), x),

and no gradient flows through a sample. Positions are those of the target: after an inserted or dropped token the
reference token is no longer a correct continuation (optimal completion fixes that), and the objective is improper: its
optimum is not the distribution of the data (Huszár 2015).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from freerun.config.numbers import Temperature
from freerun.forcing.draw import Draw
from freerun.forcing.loss import Losses
from freerun.forcing.replay import encode, replay
from freerun.forcing.rollout import aligned_in_passes, aligned_pass, uniforms
from freerun.forcing.strategy import Strategy, StrategySettings
from freerun.forcing.teacher_prob import (
    InverseSigmoidDecayOverUpdates,
    PositionSchedule,
    UpdateSchedule,
    at_position,
    at_update,
)
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.device import Scalar, scalar
from freerun.models.seq2seq import Seq2Seq
from freerun.symbols import EOS, NEVER_WRITTEN

__all__ = ["AlignedSettings", "ScheduledSampling", "ScheduledSamplingSettings", "aligned_draw", "changed_fraction"]


class AlignedSettings(StrategySettings):
    """The keys that control how the model's own token is chosen at a target position."""

    used_with: ClassVar = {"temperature": ("draw", ("sample",))}

    draw: Literal["sample", "argmax"] = "sample"
    temperature: Temperature = 1.0
    draw_eos: bool = False
    """Allow EOS to be sampled before the target's end, as in the paper; no such prefix occurs at inference time."""


class ScheduledSamplingSettings(AlignedSettings):
    """The keys of ``strategy = "scheduled_sampling"``."""

    schedule: UpdateSchedule = InverseSigmoidDecayOverUpdates(kind="inverse_sigmoid")
    position: PositionSchedule | None = None
    """Makes ``teacher_prob`` depend on the target position as well."""
    coin: Literal["token", "sequence", "batch"] = "token"
    passes: Annotated[int, Field(ge=0, le=10_000)] = 0
    """0: token by token. K: in K full-sequence passes, exact for the sequences that are certified."""


class ScheduledSampling(Strategy):
    """Feeds a mixture of reference tokens and the model's own predictions."""

    Settings = ScheduledSamplingSettings
    settings: ScheduledSamplingSettings

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Return one term, the NLL of the reference tokens given the fed ones.

        The journal gets ``teacher_prob``; ``effective_rate``, the fraction of positions after BOS that were fed another
        token than the reference; and with ``passes`` ``certified``, the fraction of sequences that are exact.
        """
        settings = self.settings
        teacher_prob = at_update(settings.schedule, update)
        encoded, masks = encode(model, batch, update)
        draws_BT = self._draws(batch, update, teacher_prob)
        numbers_BT = uniforms(update, "draws", *draws_BT.shape, device=draws_BT.device)
        rollout = (model.decoder, encoded, batch.target_in_BT, draws_BT, numbers_BT, aligned_draw(settings))
        metrics: dict[str, tuple[Scalar, Scalar]] = {"teacher_prob": (teacher_prob, 1)}
        if settings.passes:
            fed_BT, exact_B = aligned_in_passes(*rollout, settings.passes, masks)
            metrics["certified"] = (scalar(exact_B.sum()), batch.num_pairs)
            features_NF = replay(model, batch, encoded, fed_BT, masks)
        else:
            fed_BT, decoded = aligned_pass(*rollout, masks)
            features_NF = batch.at_real_positions(decoded.features_TBF)
        metrics["effective_rate"] = changed_fraction(batch, fed_BT)
        nll, metrics["nll.scheduled"] = self.objective.token_nll(model, features_NF, batch)
        return Losses({"nll": nll}, metrics)

    def _draws(self, batch: TrainingBatch, update: Update, teacher_prob: float) -> Tensor:
        """Flip the coins: True [B, T] where the model's own token is fed."""
        (size, steps), device = batch.target_in_BT.shape, batch.target_in_BT.device
        shape = {"token": (size, steps), "sequence": (size, 1), "batch": (1, 1)}[self.settings.coin]
        teacher_prob_T = torch.full((steps,), teacher_prob, dtype=torch.float64, device=device)
        if self.settings.position is not None:
            for t in range(steps):
                teacher_prob_T[t] = at_position(self.settings.position, t, teacher_prob)
        draws_BT = uniforms(update, "coins", *shape, device=device).expand(size, steps) >= teacher_prob_T
        return draws_BT & batch.replaceable_BT


def aligned_draw(settings: AlignedSettings) -> Draw:
    """Return the sampler that the settings describe."""
    banned = NEVER_WRITTEN if settings.draw_eos else (*NEVER_WRITTEN, EOS)
    return Draw(settings.draw, settings.temperature, banned)


def changed_fraction(batch: TrainingBatch, fed_BT: Tensor) -> tuple[Scalar, float]:
    """Return how many real positions after BOS were fed another token than the reference, and their number."""
    changed_BT = (fed_BT != batch.target_in_BT) & batch.replaceable_BT
    return scalar(changed_BT.sum()), batch.num_tokens - batch.num_pairs
