"""Self-critical sequence training (Rennie et al. 2017): REINFORCE with the greedy output as the baseline.

    -(reward(sample) - reward(greedy)) * log p(sample | x),   reward = 1 - cost

Samples that are better than the model's output at inference time become more probable, others less. The mean is over
sources, and the token NLL is a second term.
"""

from __future__ import annotations

import torch

from freerun.forcing.costs import COSTS
from freerun.forcing.draw import Draw
from freerun.forcing.loss import Losses, Term
from freerun.forcing.replay import encode, encode_without_dropout, replay
from freerun.forcing.rollout import free_pass, free_rollout, uniforms
from freerun.forcing.sequence_level import (
    SequenceSettings,
    length_bounds,
    longest_bound,
    output_costs,
    output_log_probs,
    written_tokens,
)
from freerun.forcing.strategy import Strategy
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.device import Scalar
from freerun.models.seq2seq import Seq2Seq
from freerun.symbols import NEVER_WRITTEN

__all__ = ["SelfCritical"]


class SelfCritical(Strategy):
    """Feeds reference tokens for the NLL, and a sample of the model for the reward."""

    Settings = SequenceSettings
    settings: SequenceSettings

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Return the NLL, and the self-critical term summed over sources; the journal gets both outputs' mean costs."""
        settings = self.settings
        bounds_B = length_bounds(batch)
        steps, target_steps = longest_bound(batch), batch.target_in_BT.shape[1]
        encoded, masks = encode(model, batch, update, steps)
        features_NF = replay(model, batch, encoded, batch.target_in_BT, masks and masks.first_steps(target_steps))
        nll, metric = self.objective.token_nll(model, features_NF, batch, weight=settings.nll_weight)
        with torch.no_grad():
            no_dropout = encode_without_dropout(model, batch)
        numbers_BT = uniforms(update, "samples", batch.num_pairs, steps, device=bounds_B.device)
        greedy = free_rollout(model.decoder, no_dropout, bounds_B, numbers_BT, Draw("argmax", banned=NEVER_WRITTEN))
        draw = Draw("sample", settings.temperature, NEVER_WRITTEN)
        sample, decoded = free_pass(model.decoder, encoded, bounds_B, numbers_BT, draw, masks)
        owners = range(batch.num_pairs)
        costs = [output_costs(COSTS[settings.cost], written_tokens(run), batch, owners) for run in (sample, greedy)]
        scores_B = output_log_probs(model, decoded, sample.written_BT, sample.lengths_B)
        excess_B = scores_B.new_tensor([sampled - baseline for sampled, baseline in zip(*costs, strict=True)])
        terms = {
            "nll": nll,
            "self_critical": Term((excess_B * scores_B).sum(), batch.num_pairs, settings.weight),
        }
        metrics: dict[str, tuple[Scalar, Scalar]] = {
            "nll.teacher": metric,
            "cost.sample": (sum(costs[0]), batch.num_pairs),
            "cost.greedy": (sum(costs[1]), batch.num_pairs),
        }
        return Losses(terms, metrics)
