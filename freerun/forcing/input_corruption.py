"""Input corruption: noise in what is fed, without a model's own tokens. The cheap control that every claim needs.

- ``dropout``: fed tokens become UNK at random (Bowman et al. 2016, section 3.1);
- ``replacement``: they become tokens drawn evenly from the vocabulary;
- ``raml``: the target itself is replaced by a sample from the exponentiated payoff distribution,

      q(y) proportional to exp(-d(y, target) / temperature),

  d the Hamming distance, so y has the target's length (reward-augmented maximum likelihood, Norouzi et al. 2016). The
  sample is fed and learnt. Unknown tokens and EOS stay where they are.

The first two learn the right tokens after corrupted prefixes, as scheduled sampling does, at no cost.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from freerun.config.numbers import Temperature
from freerun.forcing.loss import Losses
from freerun.forcing.replay import encode, replay
from freerun.forcing.rollout import uniforms
from freerun.forcing.strategy import Strategy, StrategySettings
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.seq2seq import Seq2Seq
from freerun.symbols import NUM_SPECIAL, UNK

__all__ = ["InputCorruption", "InputCorruptionSettings"]


class InputCorruptionSettings(StrategySettings):
    """The keys of ``strategy = "input_corruption"``."""

    used_with: ClassVar = {"rate": ("kind", ("dropout", "replacement")), "temperature": ("kind", ("raml",))}

    kind: Literal["dropout", "replacement", "raml"] = "dropout"
    rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Share of the tokens after BOS that are corrupted, by ``dropout`` and ``replacement``."""
    temperature: Temperature = 0.3
    """Of ``raml``: nearer 0 stays nearer the target."""


class InputCorruption(Strategy):
    """Feeds right tokens with noise in them."""

    Settings = InputCorruptionSettings
    settings: InputCorruptionSettings

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """One term, the NLL after corrupted prefixes; the journal gets the share of positions that were corrupted."""
        encoded, masks = encode(model, batch, update)
        size = model.sizes.target_vocabulary
        corrupted_BT = self._corrupted(batch, update, size)
        target_N = batch.target_N
        if self.settings.kind == "raml":
            # the sample is the target now: at each position what is fed at the next one, and EOS where it was
            sampled_BT = batch.target_out_BT.clone()
            next_BT = corrupted_BT[:, 1:]
            sampled_BT[:, :-1] = torch.where(batch.replaceable_BT[:, 1:], next_BT, sampled_BT[:, :-1])
            target_N = batch.at_real_positions(sampled_BT.t())
        features_NF = replay(model, batch, encoded, corrupted_BT, masks)
        nll, figure = self.objective.token_nll(model, features_NF, batch, target_N)
        changed = (corrupted_BT != batch.target_in_BT).sum().item()
        figures: dict[str, tuple[float, float]] = {
            "nll.corrupted": figure,
            "effective_rate": (changed, batch.num_tokens - batch.num_pairs),
        }
        return Losses({"nll": nll}, figures)

    def _corrupted(self, batch: TrainingBatch, update: Update, vocabulary_size: int) -> Tensor:
        """What is fed, [B, T]."""
        fed_BT = batch.target_in_BT
        shape, device = fed_BT.shape, fed_BT.device
        coins_BT, numbers_BT = (uniforms(update, name, *shape).to(device) for name in ("coins", "draws"))
        if self.settings.kind == "raml":
            chosen_BT = self._raml_positions(batch, coins_BT, vocabulary_size - NUM_SPECIAL, update)
            return torch.where(chosen_BT, _another(fed_BT, numbers_BT, vocabulary_size), fed_BT)
        chosen_BT = (coins_BT < self.settings.rate) & batch.replaceable_BT
        if self.settings.kind == "dropout":
            return fed_BT.masked_fill(chosen_BT, UNK)
        return torch.where(chosen_BT, _any_token(numbers_BT, vocabulary_size), fed_BT)

    def _raml_positions(self, batch: TrainingBatch, ranks_BT: Tensor, tokens: int, update: Update) -> Tensor:
        """The positions at which a sample differs from its target, True [B, T].

        Of the sequences of m tokens C(m, e) (tokens - 1)^e have distance e, each of weight exp(-e / temperature). So e
        is drawn first, then e of the m places, all equally probable.
        """
        numbers_B = uniforms(update, "distances", batch.num_pairs)
        # an unknown token stays, and so do BOS and padding
        places_BT = batch.target_in_BT >= NUM_SPECIAL
        temperature, sizes = self.settings.temperature, places_BT.sum(1).tolist()
        drawn = [_distance(m, tokens, temperature, n) for m, n in zip(sizes, numbers_B.tolist(), strict=True)]
        # the places with the smallest numbers; those that are none come last
        order_BT = ranks_BT.masked_fill(~places_BT, 2.0).argsort(1).argsort(1)
        return order_BT < torch.tensor(drawn, device=ranks_BT.device).unsqueeze(1)


def _distance(m: int, tokens: int, temperature: float, number: float) -> int:
    """A Hamming distance e <= m, with probability proportional to C(m, e) (tokens - 1)^e exp(-e / temperature)."""
    if tokens < 2:
        return 0
    step = math.log(tokens - 1) - 1.0 / temperature
    weights = [math.lgamma(m + 1) - math.lgamma(e + 1) - math.lgamma(m - e + 1) + e * step for e in range(m + 1)]
    edges = torch.softmax(torch.tensor(weights, dtype=torch.float64), 0).cumsum(0)
    return min(m, int(torch.searchsorted(edges, number, right=True)))


def _any_token(numbers_BT: Tensor, vocabulary_size: int) -> Tensor:
    """Ordinary tokens, all equally probable."""
    return NUM_SPECIAL + (numbers_BT * (vocabulary_size - NUM_SPECIAL)).long()


def _another(tokens_BT: Tensor, numbers_BT: Tensor, vocabulary_size: int) -> Tensor:
    """Ordinary tokens other than those given, all equally probable."""
    found_BT = NUM_SPECIAL + (numbers_BT * max(0, vocabulary_size - NUM_SPECIAL - 1)).long()
    return found_BT + (found_BT >= tokens_BT).long()
