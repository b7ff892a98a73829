"""Rollout: the decoder is stepped without gradients, and it is decided which tokens it is fed.

Coins, numbers for the draws and dropout masks are drawn before the first step, so a rollout is a function of them and
of the weights, and ``replay`` can repeat it under the same masks.

Shape suffixes: B batch, T target, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freerun.forcing.batch import Update
from freerun.forcing.draw import Draw
from freerun.models.decoder import Decoder
from freerun.models.dropout import DropoutMasks
from freerun.models.encoded import Encoded
from freerun.models.recurrent_state import State
from freerun.symbols import BOS, EOS, PAD

__all__ = ["FreeRun", "aligned_in_passes", "aligned_rollout", "free_rollout", "uniforms"]


@dataclass(frozen=True)
class FreeRun:
    """What the model wrote when it was fed with its own tokens only, right-padded with PAD.

    ``fed_BT`` starts with BOS, ``written_BT`` ends with EOS where the model came to it; ``lengths_B`` counts the tokens
    written, EOS included.
    """

    fed_BT: Tensor
    written_BT: Tensor
    lengths_B: Tensor


def uniforms(update: Update, purpose: str, *shape: int) -> Tensor:
    """Numbers in [0, 1), a pure function of the update and the purpose.

    Those of step t, an entry of the last axis, do not depend on how many steps follow. In fp64 whatever the model
    computes in, so that the same draws are made at every precision.
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
    """Go through the positions of the target and feed the right token, or the model's own where a draw is asked for.

    Args:
        decoder: what is stepped.
        encoded: where it starts from.
        target_in_BT: the right tokens, BOS first.
        draws_BT: True where the model's own token is fed; the first position, and padding, are never drawn.
        uniforms_BT: decide the draws.
        draw: how a token is drawn.
        masks: dropout.

    Returns:
        The tokens fed, [B, T].
    """
    fed_BT = target_in_BT.clone()
    encoded, tables = _prepared(encoded), decoder.tables()
    wanted_TB = draws_BT.t().contiguous()
    # which steps need the output layer, and for which rows: looked up once, not by asking the device at every step
    rows_of = [wanted_B.nonzero().squeeze(1) for wanted_B in wanted_TB]
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
    """The same in whole-sequence passes (Duckworth et al. 2019; Mihaylova & Martins 2019).

    Each pass feeds what the one before predicted. Under fixed coins and numbers the sequential rollout is the fixed
    point of this: a row whose tokens a pass reproduces has been drawn exactly. Ends early when all rows are.

    Returns:
        The tokens fed [B, T], and which rows are certified to be exact [B].
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
    """Feed the model its own tokens until each row wrote EOS or as many tokens as its bound.

    Args:
        decoder: what is stepped.
        encoded: where it starts from.
        bounds_B: most tokens that each row may write, EOS included.
        uniforms_BT: decide the draws; as many steps as the largest bound.
        draw: how a token is drawn.
        masks: dropout, for as many steps.
        choose: given the step and the tokens drawn [B], returns those that are written.
    """
    size = len(bounds_B)
    encoded, tables = _prepared(encoded), decoder.tables()
    tokens_B = torch.full((size,), BOS, dtype=torch.int64, device=bounds_B.device)
    running_B = torch.ones(size, dtype=torch.bool, device=bounds_B.device)
    fed, written = [], []
    lengths_B = torch.zeros_like(bounds_B)
    for t in range(int(bounds_B.max())):
        features_BF, encoded = decoder.step(tokens_B, encoded, tables, masks.target_step(t) if masks else None)
        drawn_B = draw.tokens(decoder.logits(features_BF), uniforms_BT[:, t])
        if choose is not None:
            drawn_B = choose(t, drawn_B)
        fed.append(torch.where(running_B, tokens_B, PAD))
        written.append(torch.where(running_B, drawn_B, PAD))
        lengths_B += running_B
        running_B = running_B & (drawn_B != EOS) & (t + 1 < bounds_B)
        tokens_B = drawn_B
        if not bool(running_B.any()):
            break
    return FreeRun(torch.stack(fed, 1), torch.stack(written, 1), lengths_B)


def _prepared(encoded: Encoded) -> Encoded:
    """Cut off from the graph, its state in fp32 at least: steps in bf16 would round the cell state away."""
    encoded = encoded.detach()
    h_LBH, c_LBH = encoded.state.h_LBH, encoded.state.c_LBH
    if h_LBH.dtype == torch.float64:
        return encoded
    return replace(encoded, state=State(h_LBH.float(), None if c_LBH is None else c_LBH.float()))
