"""Whole outputs of a model, drawn freely, with what they cost and their log-probabilities: for sequence-level losses.

Shape suffixes: B sources, N outputs, T longest output, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from freerun.config.numbers import Number, Temperature
from freerun.forcing.batch import TrainingBatch
from freerun.forcing.costs import Cost, CostName
from freerun.forcing.loss import in_full
from freerun.forcing.rollout import FreeRun
from freerun.forcing.strategy import StrategySettings
from freerun.models.dropout import DropoutMasks
from freerun.models.encoded import Encoded
from freerun.models.seq2seq import Seq2Seq
from freerun.symbols import EOS

__all__ = ["SequenceSettings", "bounds_of", "costs_of", "log_probs_of", "written_tokens"]


class SequenceSettings(StrategySettings):
    """The keys that strategies on whole outputs share."""

    cost: CostName = "symbol_error_rate"
    temperature: Temperature = 1.0
    """Of the samples."""
    weight: Number = 1.0
    """Of the term on whole outputs."""
    nll_weight: Number = 1.0
    """Of the token NLL beside it."""


def bounds_of(batch: TrainingBatch) -> Tensor:
    """Most tokens that an output of each source may have [B]: twice the target's, and ten."""
    return 2 * batch.target_lengths_B + 10


def written_tokens(run: FreeRun) -> list[tuple[int, ...]]:
    """What was written [N], EOS included where the model came to it."""
    lengths = run.lengths_B.tolist()
    return [tuple(row[:length]) for row, length in zip(run.written_BT.tolist(), lengths, strict=True)]


def costs_of(
    cost: Cost, outputs: Sequence[tuple[int, ...]], batch: TrainingBatch, owners: Sequence[int]
) -> list[float]:
    """The cost of each output [N] of source ``owners[n]``; the same output of a source is looked at once."""
    found: dict[tuple[int, tuple[int, ...]], float] = {}
    references = [[reference[:-1].tolist() for reference in each] for each in batch.references]
    for key in zip(owners, outputs, strict=True):
        if key not in found:
            owner, output = key
            found[key] = cost([token for token in output if token != EOS], references[owner])
    return [found[key] for key in zip(owners, outputs, strict=True)]


def log_probs_of(
    model: Seq2Seq, encoded: Encoded, fed_NT: Tensor, written_NT: Tensor, lengths_N: Tensor, masks: DropoutMasks | None
) -> Tensor:
    """Log-probability [N] of what was written, EOS included, after what was fed: a replay, with gradients."""
    features_TNF = model.decoder.sequence(fed_NT, encoded, masks).features_TBF
    steps_T1 = torch.arange(fed_NT.shape[1], device=fed_NT.device).unsqueeze(1)
    real_TN = steps_T1 < lengths_N
    log_probs = torch.log_softmax(in_full(model.decoder.logits(features_TNF[real_TN])), 1)
    each = log_probs.gather(1, written_NT.t()[real_TN].unsqueeze(1)).squeeze(1)
    owners = torch.arange(len(lengths_N), device=fed_NT.device).expand(len(steps_T1), -1)[real_TN]
    return torch.zeros(len(lengths_N), dtype=each.dtype, device=each.device).index_add(0, owners, each)
