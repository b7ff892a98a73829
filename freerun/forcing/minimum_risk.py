"""Minimum risk training (Shen et al. 2016): lower the expected cost of complete sequences.

    sum_y Q(y) * cost(y, references),   Q(y) = p(y | x)^alpha / sum_y' p(y' | x)^alpha

over a set of distinct outputs: samples of the model, and one reference. The gradient flows through Q, where log p is
the sum over all tokens and EOS, not divided by the length. The mean is over sources, and the token NLL of the reference
is a second term. With dropout all candidates of a source are scored under that source's masks, those of the token NLL,
so that Q compares outputs under one network.

A reference with an unknown token is no candidate, because the model never predicts it: its probability is 0, not that
of UNK. A source without candidates has no risk and is not counted.
"""

from __future__ import annotations

from itertools import compress
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from freerun.bounds import NUM_HYPOTHESES
from freerun.config.numbers import PositiveNumber, within
from freerun.forcing.costs import COSTS
from freerun.forcing.draw import Draw
from freerun.forcing.loss import Losses, Term
from freerun.forcing.replay import encode, encode_without_dropout, replay
from freerun.forcing.rollout import free_rollout, uniforms
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
from freerun.models.device import Scalar, scalar
from freerun.models.dropout import DropoutMasks
from freerun.models.encoded import Encoded
from freerun.models.seq2seq import Seq2Seq
from freerun.symbols import BOS, EOS, NEVER_WRITTEN, PAD

__all__ = ["MinimumRisk", "MinimumRiskSettings"]


class MinimumRiskSettings(SequenceSettings):
    """The keys of ``strategy = "minimum_risk"``."""

    samples: Annotated[int, within(NUM_HYPOTHESES)] = 8
    alpha: PositiveNumber = 1.0
    """Sharpness of Q; the gradient is proportional to it (0.005 in the paper, for long outputs)."""


class MinimumRisk(Strategy):
    """Feeds reference tokens for the NLL, and samples of the model for the risk."""

    Settings = MinimumRiskSettings
    settings: MinimumRiskSettings

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Return the NLL, and the risk summed over sources.

        The journal gets the risk per source with candidates, and ``distinct``, the fraction of samples that are
        complete and differ from the reference and all earlier samples.
        """
        settings = self.settings
        outputs, owners = self._candidates(model, batch, update)
        owners_N = torch.tensor(owners, device=batch.source_BS.device)
        longest, target_steps = max(map(len, outputs)), batch.target_in_BT.shape[1]
        encoded, masks = encode(model, batch, update, longest)
        features_NF = replay(model, batch, encoded, batch.target_in_BT, masks and masks.first_steps(target_steps))
        nll, metric = self.objective.token_nll(model, features_NF, batch, weight=settings.nll_weight)
        scores_N = self._scores(model, encoded.select(owners_N), outputs, masks and masks.target_rows(owners_N))
        costs_N = scores_N.new_tensor(output_costs(COSTS[settings.cost], outputs, batch, owners))
        # references with unknown tokens are scored, too, so that there is always something to score
        writable = [set(output).isdisjoint(NEVER_WRITTEN) for output in outputs]
        writable_N = torch.tensor(writable, device=owners_N.device)
        scores_N, costs_N, owners_N = scores_N[writable_N], costs_N[writable_N], owners_N[writable_N]
        risk = expected_cost(settings.alpha * scores_N, costs_N, owners_N, batch.num_pairs).sum()
        sources = len(set(compress(owners, writable)))
        terms = {
            "nll": nll,
            "risk": Term(risk, sources, settings.weight),
        }
        num_samples = settings.samples * batch.num_pairs
        metrics: dict[str, tuple[Scalar, Scalar]] = {
            "nll.teacher": metric,
            "risk": (scalar(risk), sources),
            "distinct": (len(outputs) - batch.num_pairs, num_samples),
        }
        return Losses(terms, metrics)

    def _candidates(
        self, model: Seq2Seq, batch: TrainingBatch, update: Update
    ) -> tuple[list[tuple[int, ...]], list[int]]:
        """Return distinct complete outputs, the reference of each row first, and the rows that they belong to.

        Samples are drawn without dropout, as at inference time; those that did not reach EOS are left out.
        """
        samples, size = self.settings.samples, batch.num_pairs
        with torch.no_grad():
            encoded = encode_without_dropout(model, batch)
        rows_N = torch.arange(size, device=batch.source_BS.device).repeat_interleave(samples)
        bounds_N = length_bounds(batch)[rows_N]
        numbers_NT = uniforms(update, "samples", len(rows_N), longest_bound(batch), device=rows_N.device)
        draw = Draw("sample", self.settings.temperature, NEVER_WRITTEN)
        run = free_rollout(model.decoder, encoded.select(rows_N), bounds_N, numbers_NT, draw)
        candidates: dict[tuple[int, tuple[int, ...]], None] = {}
        targets = batch.origin.target_out.tolist(), batch.origin.target_lengths.tolist()
        for row, (target, length) in enumerate(zip(*targets, strict=True)):
            candidates[row, tuple(target[:length])] = None
        for row, output in zip(rows_N.tolist(), written_tokens(run), strict=True):
            if output[-1] == EOS:
                candidates.setdefault((row, output))
        return [output for _, output in candidates], [row for row, _ in candidates]

    def _scores(
        self, model: Seq2Seq, encoded: Encoded, outputs: list[tuple[int, ...]], masks: DropoutMasks | None
    ) -> Tensor:
        """Return the log-probabilities [N] of the candidates, with gradients."""
        device = encoded.state.h_LBH.device
        written = [torch.tensor(output, device=device) for output in outputs]
        lengths_N = torch.tensor([len(output) for output in outputs], device=device)
        written_NT = pad_sequence(written, batch_first=True, padding_value=PAD)
        fed_NT = torch.cat([torch.full_like(written_NT[:, :1], BOS), written_NT[:, :-1]], 1)
        decoded = model.decoder.sequence(fed_NT, encoded, masks)
        return output_log_probs(model, decoded, written_NT, lengths_N)


def expected_cost(scores_N: Tensor, costs_N: Tensor, owners_N: Tensor, size: int) -> Tensor:
    """Return ``sum_y Q(y) * cost(y)`` of each source [B], where Q is the softmax of its candidates' scores.

    It is 0 for a source without candidates.
    """
    highest_B = torch.full((size,), float("-inf"), dtype=scores_N.dtype, device=scores_N.device)
    highest_B = highest_B.scatter_reduce(0, owners_N, scores_N.detach(), "amax")
    weights_N = (scores_N - highest_B[owners_N]).exp()
    empty_B = torch.zeros_like(highest_B)
    # the best candidate has weight 1, so a smaller sum belongs to a source without candidates
    totals_B = empty_B.index_add(0, owners_N, weights_N).clamp(min=1.0)
    return empty_B.index_add(0, owners_N, weights_N * costs_N) / totals_B
