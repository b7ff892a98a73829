"""Input corruption: noise in the fed tokens, without the model's own predictions. A cheap control for every claim.

- ``dropout``: random fed tokens are replaced by UNK (Bowman et al. 2016, section 3.1);
- ``replacement``: they are replaced by tokens sampled uniformly from the vocabulary;
- ``raml``: the target itself is replaced by a sample from the exponentiated payoff distribution,

      q(y) proportional to exp(-d(y, target) / temperature),

  where d is the Hamming distance, so that y has the target's length (reward-augmented maximum likelihood, Norouzi et
  al. 2016). The sample is both fed and learned. Unknown tokens and EOS are not replaced.

The first two learn the reference tokens after corrupted prefixes, like scheduled sampling, but at no cost.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from freerun.config.numbers import Temperature
from freerun.forcing.loss import Losses
from freerun.forcing.replay import encode, replay
from freerun.forcing.rollout import uniforms
from freerun.forcing.strategy import Strategy, StrategySettings
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.device import Scalar, scalar, to_device
from freerun.models.seq2seq import Seq2Seq
from freerun.symbols import NUM_SPECIAL, UNK

__all__ = ["InputCorruption", "InputCorruptionSettings"]


class InputCorruptionSettings(StrategySettings):
    """The keys of ``strategy = "input_corruption"``."""

    used_with: ClassVar = {"rate": ("kind", ("dropout", "replacement")), "temperature": ("kind", ("raml",))}

    kind: Literal["dropout", "replacement", "raml"] = "dropout"
    rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Fraction of the tokens after BOS that ``dropout`` and ``replacement`` corrupt."""
    temperature: Temperature = 0.3
    """Temperature of ``raml``: values near 0 stay close to the target."""


class InputCorruption(Strategy):
    """Feeds reference tokens with noise."""

    Settings = InputCorruptionSettings
    settings: InputCorruptionSettings

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Return one term, the NLL given corrupted prefixes; the journal gets the fraction of corrupted positions."""
        encoded, masks = encode(model, batch, update)
        size = model.sizes.target_vocabulary
        corrupted_BT = self._corrupt(batch, update, size)
        target_N = batch.target_N
        if self.settings.kind == "raml":
            # the sample is the target now: at each position the token fed at the next one, and EOS unchanged
            sampled_BT = batch.target_out_BT.clone()
            next_BT = corrupted_BT[:, 1:]
            sampled_BT[:, :-1] = torch.where(batch.replaceable_BT[:, 1:], next_BT, sampled_BT[:, :-1])
            target_N = batch.at_real_positions(sampled_BT.t())
        features_NF = replay(model, batch, encoded, corrupted_BT, masks)
        nll, metric = self.objective.token_nll(model, features_NF, batch, target_N)
        changed = scalar((corrupted_BT != batch.target_in_BT).sum())
        metrics: dict[str, tuple[Scalar, Scalar]] = {
            "nll.corrupted": metric,
            "effective_rate": (changed, batch.num_tokens - batch.num_pairs),
        }
        return Losses({"nll": nll}, metrics)

    def _corrupt(self, batch: TrainingBatch, update: Update, vocabulary_size: int) -> Tensor:
        """Return the fed tokens [B, T]."""
        fed_BT = batch.target_in_BT
        shape, device = fed_BT.shape, fed_BT.device
        flips_BT, numbers_BT = (uniforms(update, name, *shape, device=device) for name in ("coins", "draws"))
        if self.settings.kind == "raml":
            chosen_BT = self._raml_positions(batch, flips_BT, vocabulary_size - NUM_SPECIAL, update)
            return torch.where(chosen_BT, _other_tokens(fed_BT, numbers_BT, vocabulary_size), fed_BT)
        chosen_BT = (flips_BT < self.settings.rate) & batch.replaceable_BT
        if self.settings.kind == "dropout":
            return fed_BT.masked_fill(chosen_BT, UNK)
        return torch.where(chosen_BT, _random_tokens(numbers_BT, vocabulary_size), fed_BT)

    def _raml_positions(self, batch: TrainingBatch, ranks_BT: Tensor, tokens: int, update: Update) -> Tensor:
        """Return the positions at which a sample differs from its target, True [B, T].

        ``C(m, e) * (tokens - 1)^e`` of the sequences of m tokens have distance e, each with the weight
        ``exp(-e / temperature)``. So e is sampled first, then e of the m positions uniformly.
        """
        numbers_B = uniforms(update, "distances", batch.num_pairs)
        # unknown tokens, BOS and padding are not replaced
        positions_BT = batch.target_in_BT >= NUM_SPECIAL
        temperature, sizes = self.settings.temperature, (batch.origin.target_in >= NUM_SPECIAL).sum(1).tolist()
        distances = [_distance(m, tokens, temperature, n) for m, n in zip(sizes, numbers_B.tolist(), strict=True)]
        (distances_B,) = to_device([np.array(distances)], ranks_BT.device)
        # the positions with the smallest numbers; those that may not be replaced come last
        order_BT = ranks_BT.masked_fill(~positions_BT, 2.0).argsort(1).argsort(1)
        return order_BT < distances_B.unsqueeze(1)


def _distance(m: int, tokens: int, temperature: float, number: float) -> int:
    """Sample a Hamming distance e <= m in proportion to ``C(m, e) * (tokens - 1)^e * exp(-e / temperature)``."""
    if tokens < 2:
        return 0
    step = math.log(tokens - 1) - 1.0 / temperature
    weights = [math.lgamma(m + 1) - math.lgamma(e + 1) - math.lgamma(m - e + 1) + e * step for e in range(m + 1)]
    edges = torch.softmax(torch.tensor(weights, dtype=torch.float64), 0).cumsum(0)
    return min(m, int(torch.searchsorted(edges, number, right=True)))


def _random_tokens(numbers_BT: Tensor, vocabulary_size: int) -> Tensor:
    """Sample ordinary tokens uniformly."""
    return NUM_SPECIAL + (numbers_BT * (vocabulary_size - NUM_SPECIAL)).long()


def _other_tokens(tokens_BT: Tensor, numbers_BT: Tensor, vocabulary_size: int) -> Tensor:
    """Sample ordinary tokens other than the given ones uniformly."""
    sampled_BT = NUM_SPECIAL + (numbers_BT * max(0, vocabulary_size - NUM_SPECIAL - 1)).long()
    return sampled_BT + (sampled_BT >= tokens_BT).long()
