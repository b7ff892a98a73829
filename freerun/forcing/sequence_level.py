"""Complete sequences that a model samples, their costs and log-probabilities: the parts of sequence-level losses.

Shape suffixes: B sources, N outputs, T longest output, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from freerun.config.numbers import Number, Temperature
from freerun.forcing.costs import Cost, CostName
from freerun.forcing.loss import upcast
from freerun.forcing.rollout import FreeRun
from freerun.forcing.strategy import StrategySettings
from freerun.forcing.training_batch import TrainingBatch
from freerun.models.decoder import Decoded
from freerun.models.seq2seq import Seq2Seq
from freerun.symbols import EOS

__all__ = ["SequenceSettings", "length_bounds", "longest_bound", "output_costs", "output_log_probs", "written_tokens"]


class SequenceSettings(StrategySettings):
    """The keys that sequence-level strategies share."""

    cost: CostName = "symbol_error_rate"
    temperature: Temperature = 1.0
    """Sampling temperature."""
    weight: Number = 1.0
    """Weight of the sequence-level term."""
    nll_weight: Number = 1.0
    """Weight of the token NLL."""


def length_bounds(batch: TrainingBatch) -> Tensor:
    """Return the length limit of each source's outputs [B], in tokens: twice the target's length plus ten."""
    return 2 * batch.target_lengths_B + 10


def longest_bound(batch: TrainingBatch) -> int:
    """Return the largest of ``length_bounds``."""
    return 2 * batch.target_in_BT.shape[1] + 10


def written_tokens(run: FreeRun) -> list[tuple[int, ...]]:
    """Return the tokens written in each row [N], EOS included if the model reached it."""
    lengths = run.lengths_B.tolist()
    return [tuple(row[:length]) for row, length in zip(run.written_BT.tolist(), lengths, strict=True)]


def output_costs(
    cost: Cost, outputs: Sequence[tuple[int, ...]], batch: TrainingBatch, owners: Sequence[int]
) -> list[float]:
    """Return the cost of each output [N] of source ``owners[n]``; equal outputs of a source are evaluated once."""
    costs: dict[tuple[int, tuple[int, ...]], float] = {}
    references = [[reference[:-1].tolist() for reference in each] for each in batch.references]
    for key in zip(owners, outputs, strict=True):
        if key not in costs:
            owner, output = key
            costs[key] = cost([token for token in output if token != EOS], references[owner])
    return [costs[key] for key in zip(owners, outputs, strict=True)]


def output_log_probs(model: Seq2Seq, decoded: Decoded, written_NT: Tensor, lengths_N: Tensor) -> Tensor:
    """Return the log-probabilities [N] of the tokens that a pass has written, EOS included, with gradients."""
    features_TNF = decoded.features_TBF
    steps_T1 = torch.arange(written_NT.shape[1], device=written_NT.device).unsqueeze(1)
    real_TN = steps_T1 < lengths_N
    log_probs = torch.log_softmax(upcast(model.decoder.logits(features_TNF[real_TN])), 1)
    each = log_probs.gather(1, written_NT.t()[real_TN].unsqueeze(1)).squeeze(1)
    owners = torch.arange(len(lengths_N), device=written_NT.device).expand(len(steps_T1), -1)[real_TN]
    return torch.zeros(len(lengths_N), dtype=each.dtype, device=each.device).index_add(0, owners, each)
