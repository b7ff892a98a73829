"""Losses as sums with their counts, which are divided once, and the token loss that strategies share.

Shape suffixes: N positions, V vocabulary, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from freerun.models.device import Scalar, is_asynchronous

__all__ = ["Losses", "OwnLoss", "Term", "or_one", "output_nll", "smoothed_nll", "sum_of_rows", "upcast"]

MAX_LOGITS = 2**22
"""Maximum number of logits in memory: 16 MiB, and as much again for their gradients."""


@dataclass(frozen=True)
class Term:
    """One term of a loss, ``weight * sum / count``; the learner adds up counts over all batches of an update."""

    sum: Tensor
    count: Scalar
    weight: float = 1.0


@dataclass(frozen=True)
class Losses:
    """The model's loss terms on one batch, and ``metrics`` (name -> sum, count) that are only logged in the journal.

    On a GPU, sums and counts may be tensors of one element (``freerun.models.device.scalar``), so that no batch waits.

    ``own_inputs`` is what ``Strategy.own_loss`` computes the strategy's own loss from: detached from the graph, and
    None for a strategy without parameters of its own.
    """

    terms: Mapping[str, Term]
    metrics: Mapping[str, tuple[Scalar, Scalar]] = field(default_factory=dict)
    own_inputs: Any = None


@dataclass(frozen=True)
class OwnLoss:
    """The loss of a strategy's own parameters on one batch, as a sum over rows, and metrics for the journal.

    ``sum`` is None if the strategy does not learn in this update.
    """

    sum: Tensor | None
    metrics: Mapping[str, tuple[Scalar, Scalar]] = field(default_factory=dict)


class _SmoothedNLL(torch.autograd.Function):
    """Cross-entropy with label smoothing; the gradient is computed in one buffer of the size of the logits."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, target_N: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        log_probs_NV = torch.log_softmax(logits_NV, 1)
        nll = -log_probs_NV.gather(1, target_N.unsqueeze(1)).sum()
        loss = nll
        if smoothing:
            loss = (1.0 - smoothing) * nll - smoothing * log_probs_NV.mean(1).sum()
        ctx.save_for_backward(log_probs_NV, target_N)
        ctx.smoothing = smoothing
        ctx.mark_non_differentiable(nll)
        return loss.clone(), nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        log_probs_NV, target_N = ctx.saved_tensors
        gradient_NV = log_probs_NV.exp()
        if ctx.smoothing:
            gradient_NV.sub_(ctx.smoothing / gradient_NV.shape[1])
        target_N1 = target_N.unsqueeze(1)
        if is_asynchronous(gradient_NV.device):
            # a deterministic scatter sorts its indices on a GPU
            is_target_NV = torch.arange(gradient_NV.shape[1], device=target_N.device) == target_N1
            gradient_NV.sub_(is_target_NV.to(gradient_NV.dtype), alpha=1.0 - ctx.smoothing)
            return gradient_NV.mul_(loss_gradient), None, None
        gradient_NV.scatter_add_(1, target_N1, torch.full_like(target_N1, ctx.smoothing - 1.0, dtype=gradient_NV.dtype))
        return gradient_NV.mul_(loss_gradient), None, None


def smoothed_nll(logits_NV: Tensor, target_N: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the token loss summed over positions and the unsmoothed NLL, both in nats.

    Label smoothing (Szegedy et al. 2016, section 7) mixes the reference token with the uniform distribution over the
    vocabulary: ``loss = (1 - s) * NLL + s * mean_v(-log p_v)``. Only the loss has a gradient.

    Args:
        logits_NV: unnormalised log-probabilities at the real positions.
        target_N: the reference tokens.
        smoothing: s, in [0, 1).
    """
    loss, nll = _SmoothedNLL.apply(upcast(logits_NV), target_N, smoothing)  # type: ignore[no-untyped-call]
    return loss, nll


class _NLLInChunks(torch.autograd.Function):
    """Output layer and loss in one, a chunk of rows at a time; gradients are computed while a chunk's logits exist."""

    @staticmethod
    def forward(
        ctx: Any, features_NF: Tensor, weight_VF: Tensor, bias_V: Tensor, target_N: Tensor, smoothing: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        weight = weight_VF.to(features_NF.dtype)
        d_features_NF, d_weight_VF, d_bias_V = (torch.zeros_like(each) for each in (features_NF, weight_VF, bias_V))
        loss, nll = (upcast(bias_V.new_zeros(())) for _ in range(2))
        for start in range(0, len(features_NF), rows):
            features, targets = features_NF[start : start + rows], target_N[start : start + rows]
            with torch.enable_grad():
                logits = torch.addmm(bias_V.to(weight.dtype), features, weight.t()).requires_grad_()
                each_loss, each_nll = smoothed_nll(logits, targets, smoothing)
            (d_logits,) = torch.autograd.grad(each_loss, logits)
            loss += each_loss.detach()
            nll += each_nll
            torch.mm(d_logits, weight, out=d_features_NF[start : start + rows])
            d_weight_VF += torch.mm(d_logits.t(), features)
            d_bias_V += d_logits.sum(0)
        ctx.save_for_backward(d_features_NF, d_weight_VF, d_bias_V)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return *(each * loss_gradient for each in ctx.saved_tensors), None, None, None


def output_nll(
    features_NF: Tensor, weight_VF: Tensor, bias_V: Tensor, target_N: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return ``smoothed_nll`` of the logits ``features @ weight.T + bias``, ``MAX_LOGITS`` of them at a time."""
    rows = max(1, MAX_LOGITS // len(weight_VF))
    if len(features_NF) <= rows:
        return smoothed_nll(functional.linear(features_NF, weight_VF, bias_V), target_N, smoothing)
    is_autocast = torch.is_autocast_enabled(features_NF.device.type)
    features_NF = features_NF.to(torch.get_autocast_dtype(features_NF.device.type)) if is_autocast else features_NF
    with torch.autocast(features_NF.device.type, enabled=False):
        loss, nll = _NLLInChunks.apply(features_NF, weight_VF, bias_V, target_N, smoothing, rows)  # type: ignore[no-untyped-call]
    return loss, nll


def or_one(count: Scalar) -> Scalar:
    """Return a count to divide by: 1 instead of 0."""
    return torch.where(count == 0, 1, count).double() if isinstance(count, Tensor) else count or 1


def sum_of_rows(values_B: Tensor, rows_B: Tensor, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Return the sum of the values whose row is True, or of a function of each of them."""
    if not is_asynchronous(values_B.device):
        chosen_N = values_B[rows_B]
        return (chosen_N if function is None else function(chosen_N)).sum()
    # which rows those are is known on the device only
    return torch.where(rows_B, values_B if function is None else function(values_B), 0).sum()


def upcast(values: Tensor) -> Tensor:
    """Return the values in fp32 (fp64 stays fp64): a softmax or norm is never computed in bf16."""
    return values if values.dtype == torch.float64 else values.float()
