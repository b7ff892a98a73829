"""Rollout: the decoder is stepped without gradients to choose the tokens that it is fed.

Coin flips, uniform numbers and dropout masks are sampled before the first step, so a rollout is a function of them and
of the weights, and ``replay`` can repeat it under the same masks.

Shape suffixes: B batch, T target, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freerun.forcing.draw import Draw
from freerun.forcing.training_batch import Update
from freerun.models.decoder import Decoder
from freerun.models.dropout import DropoutMasks
from freerun.models.encoded import Encoded
from freerun.models.recurrent_state import State
from freerun.symbols import BOS, EOS, PAD

__all__ = ["FreeRun", "aligned_in_passes", "aligned_rollout", "free_rollout", "uniforms"]


@dataclass(frozen=True)
class FreeRun:
    """Free-running output, right-padded with PAD.

    ``fed_BT`` starts with BOS, ``written_BT`` ends with EOS if the model reached it; ``lengths_B`` counts the written
    tokens, EOS included.
    """

    fed_BT: Tensor
    written_BT: Tensor
    lengths_B: Tensor


def uniforms(update: Update, purpose: str, *shape: int) -> Tensor:
    """Return numbers in [0, 1), a pure function of the update and the purpose.

    The numbers of step t, an index of the last axis, do not depend on how many steps follow. They are fp64 whatever the
    model's precision, so that the same samples are drawn at every precision.
    """
    step_by_step = update.generator(purpose).uniform(*reversed(shape))
    return torch.from_numpy(step_by_step.T)


@torch.no_grad()
def aligned_rollout(
    decoder: Decoder,
    encoded: Encoded,
    target_in_BT: Tensor,
    draws_BT: Tensor,
    uniforms_BT: Tensor,
    draw: Draw,
    masks: DropoutMasks | None = None,
) -> Tensor:
    """Step through the target's positions, feeding the reference token or, where ``draws_BT`` is True, a sampled one.

    Args:
        decoder: the decoder to step.
        encoded: its initial state and memory.
        target_in_BT: the reference tokens, BOS first.
        draws_BT: True where the model's own token is fed; never at the first position or on padding.
        uniforms_BT: random numbers for the samples.
        draw: the sampler.
        masks: dropout masks.

    Returns:
        The fed tokens, [B, T].
    """
    fed_BT = target_in_BT.clone()
    encoded, tables = _detach(encoded), decoder.tables()
    draws_TB = draws_BT.t().contiguous()
    # the rows of each step that need the output layer: computed once, without a device synchronization per step
    rows_of = [draws_B.nonzero().squeeze(1) for draws_B in draws_TB]
    last = max((t for t, rows in enumerate(rows_of) if len(rows)), default=0)
    for t in range(1, last + 1):
        features_BF, encoded = decoder.step(
            fed_BT[:, t - 1], encoded, tables, masks.target_step(t - 1) if masks else None
        )
        rows_N = rows_of[t]
        if len(rows_N):
            logits_NV = decoder.logits(features_BF.index_select(0, rows_N))
            fed_BT[rows_N, t] = draw.tokens(logits_NV, uniforms_BT[rows_N, t])
    return fed_BT


@torch.no_grad()
def aligned_in_passes(
    decoder: Decoder,
    encoded: Encoded,
    target_in_BT: Tensor,
    draws_BT: Tensor,
    uniforms_BT: Tensor,
    draw: Draw,
    passes: int,
    masks: DropoutMasks | None = None,
) -> tuple[Tensor, Tensor]:
    """Approximate ``aligned_rollout`` by full-sequence passes (Duckworth et al. 2019; Mihaylova & Martins 2019).

    Each pass feeds the predictions of the previous one. Under fixed coin flips and numbers the sequential rollout is
    the fixed point: a row whose tokens a pass reproduces is exact. The passes end early if all rows are exact.

    Returns:
        The fed tokens [B, T], and the rows that are certified to be exact [B].
    """
    fed_BT = target_in_BT
    exact_B = torch.zeros(len(fed_BT), dtype=torch.bool, device=fed_BT.device)
    rows_N, steps_N = draws_BT.nonzero(as_tuple=True)
    for _ in range(passes):
        features_TBF = decoder.sequence(fed_BT, encoded, masks).features_TBF
        new_BT = target_in_BT.clone()
        logits_NV = decoder.logits(features_TBF[steps_N - 1, rows_N])
        new_BT[rows_N, steps_N] = draw.tokens(logits_NV, uniforms_BT[rows_N, steps_N])
        exact_B = (new_BT == fed_BT).all(1)
        fed_BT = new_BT
        if bool(exact_B.all()):
            break
    return fed_BT, exact_B


@torch.no_grad()
def free_rollout(
    decoder: Decoder,
    encoded: Encoded,
    bounds_B: Tensor,
    uniforms_BT: Tensor,
    draw: Draw,
    masks: DropoutMasks | None = None,
    choose: Callable[[int, Tensor], Tensor] | None = None,
) -> FreeRun:
    """Feed the model its own predictions until each row has predicted EOS or reached its length limit.

    Args:
        decoder: the decoder to step.
        encoded: its initial state and memory.
        bounds_B: length limit of each row, EOS included.
        uniforms_BT: random numbers for the samples; as many steps as the largest limit.
        draw: the sampler.
        masks: dropout masks for as many steps.
        choose: maps the step and the sampled tokens [B] to the tokens that are written.
    """
    size = len(bounds_B)
    encoded, tables = _detach(encoded), decoder.tables()
    tokens_B = torch.full((size,), BOS, dtype=torch.int64, device=bounds_B.device)
    active_B = torch.ones(size, dtype=torch.bool, device=bounds_B.device)
    fed, written = [], []
    lengths_B = torch.zeros_like(bounds_B)
    for t in range(int(bounds_B.max())):
        features_BF, encoded = decoder.step(tokens_B, encoded, tables, masks.target_step(t) if masks else None)
        drawn_B = draw.tokens(decoder.logits(features_BF), uniforms_BT[:, t])
        if choose is not None:
            drawn_B = choose(t, drawn_B)
        fed.append(torch.where(active_B, tokens_B, PAD))
        written.append(torch.where(active_B, drawn_B, PAD))
        lengths_B += active_B
        active_B = active_B & (drawn_B != EOS) & (t + 1 < bounds_B)
        tokens_B = drawn_B
        if not bool(active_B.any()):
            break
    return FreeRun(torch.stack(fed, 1), torch.stack(written, 1), lengths_B)


def _detach(encoded: Encoded) -> Encoded:
    """Detach from the graph, with the state in fp32 or fp64: in bf16 the steps' updates would be rounded away."""
    encoded = encoded.detach()
    h_LBH, c_LBH = encoded.state.h_LBH, encoded.state.c_LBH
    if h_LBH.dtype == torch.float64:
        return encoded
    return replace(encoded, state=State(h_LBH.float(), None if c_LBH is None else c_LBH.float()))
