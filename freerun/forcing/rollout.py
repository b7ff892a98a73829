"""Rollout: the decoder is stepped to choose the tokens that it is fed.

Coin flips, uniform numbers and dropout masks are sampled before the first step, so a rollout is a function of them and
of the weights, and a pass over the same tokens under the same masks repeats it.

``aligned_rollout`` and ``free_rollout`` return the tokens. ``aligned_pass`` and ``free_pass`` also return a pass over
them, with gradients: after a rollout without gradients, one whole-sequence pass (``replay``); or, for a decoder whose
attention is part of the recurrence, the steps of the rollout itself, since such a pass would only repeat them. Both
have the same loss and gradients: a token is a constant, through which no gradient flows.

Shape suffixes: B batch, T target, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freerun.forcing.draw import Draw
from freerun.forcing.loss import MAX_LOGITS
from freerun.forcing.training_batch import Update
from freerun.models.decoder import Decoded, Decoder
from freerun.models.device import CPU, is_asynchronous
from freerun.models.dropout import DropoutMasks
from freerun.models.encoded import Encoded
from freerun.models.random_tensors import uniform
from freerun.models.recurrent_state import State
from freerun.symbols import BOS, EOS, PAD

__all__ = [
    "FreeRun",
    "aligned_in_passes",
    "aligned_pass",
    "aligned_rollout",
    "free_pass",
    "free_rollout",
    "uniforms",
]


@dataclass(frozen=True)
class FreeRun:
    """Free-running output, right-padded with PAD.

    ``fed_BT`` starts with BOS, ``written_BT`` ends with EOS if the model reached it; ``lengths_B`` counts the written
    tokens, EOS included.
    """

    fed_BT: Tensor
    written_BT: Tensor
    lengths_B: Tensor


def uniforms(update: Update, purpose: str, *shape: int, device: torch.device = CPU) -> Tensor:
    """Return numbers in [0, 1), a pure function of the update, the purpose and the kind of device.

    The numbers of step t, an index of the last axis, do not depend on how many steps follow. They are fp64 whatever the
    model's precision, so that the same samples are drawn at every precision.
    """
    step_by_step = uniform(update.generator(purpose), *reversed(shape), device=device)
    return step_by_step.permute(*reversed(range(len(shape))))


# -- aligned with the target -------------------------------------------------------------------------------------------


class _AlignedChoice:
    """Chooses the reference token or, where ``draws_BT`` is True, a sampled one; ``fed_BT`` is what was chosen."""

    def __init__(
        self, decoder: Decoder, target_in_BT: Tensor, draws_BT: Tensor, uniforms_BT: Tensor, draw: Draw
    ) -> None:
        self._decoder, self._draws_BT, self._uniforms_BT, self._draw = decoder, draws_BT, uniforms_BT, draw
        self.fed_BT = target_in_BT.clone()
        self._steps = self.fed_BT.shape[1]
        self.last = self._steps - 1
        # the rows of each step that need the output layer; a GPU computes it for all, since asking it would take longer
        self._rows_of: list[Tensor] = []
        if not is_asynchronous(draws_BT.device):
            self._rows_of = [draws_B.nonzero().squeeze(1) for draws_B in draws_BT.t().contiguous()]
            self.last = max((t for t, rows in enumerate(self._rows_of) if len(rows)), default=0)

    def __call__(self, t: int, features_BF: Tensor) -> Tensor | None:
        if t + 1 == self._steps:
            return None
        if not self._rows_of:
            drawn_B = self._draw.tokens(self._decoder.logits(features_BF), self._uniforms_BT[:, t + 1])
            self.fed_BT[:, t + 1] = torch.where(self._draws_BT[:, t + 1], drawn_B, self.fed_BT[:, t + 1])
            return self.fed_BT[:, t + 1]
        rows_N = self._rows_of[t + 1]
        if len(rows_N):
            logits_NV = self._decoder.logits(features_BF.index_select(0, rows_N))
            self.fed_BT[rows_N, t + 1] = self._draw.tokens(logits_NV, self._uniforms_BT[rows_N, t + 1])
        return self.fed_BT[:, t + 1]


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
    choice = _AlignedChoice(decoder, target_in_BT, draws_BT, uniforms_BT, draw)
    if choice.last:
        decoder.roll_out(target_in_BT[:, 0], choice.last, _detach(encoded), choice, masks)
    return choice.fed_BT


def aligned_pass(
    decoder: Decoder,
    encoded: Encoded,
    target_in_BT: Tensor,
    draws_BT: Tensor,
    uniforms_BT: Tensor,
    draw: Draw,
    masks: DropoutMasks | None = None,
) -> tuple[Tensor, Decoded]:
    """Return the tokens of ``aligned_rollout``, and the pass over them with gradients."""
    if decoder.replays:
        fed_BT = aligned_rollout(decoder, encoded, target_in_BT, draws_BT, uniforms_BT, draw, masks)
        return fed_BT, decoder.sequence(fed_BT, encoded, masks)
    choice = _AlignedChoice(decoder, target_in_BT, draws_BT, uniforms_BT, draw)
    decoded, fed_BT = decoder.roll_out(target_in_BT[:, 0], target_in_BT.shape[1], encoded, choice, masks)
    return fed_BT, decoded


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
    the fixed point: a row whose tokens a pass reproduces is exact. On a CPU the passes end early if all rows are exact.

    Returns:
        The fed tokens [B, T], and the rows that are certified to be exact [B].
    """
    fed_BT = target_in_BT
    exact_B = torch.zeros(len(fed_BT), dtype=torch.bool, device=fed_BT.device)
    for _ in range(passes):
        features_TBF = decoder.sequence(fed_BT, encoded, masks).features_TBF
        new_BT = _with_draws(decoder, features_TBF, target_in_BT, draws_BT, uniforms_BT, draw)
        exact_B = (new_BT == fed_BT).all(1)
        fed_BT = new_BT
        if not is_asynchronous(exact_B.device) and bool(exact_B.all()):
            break
    return fed_BT, exact_B


def _with_draws(
    decoder: Decoder, features_TBF: Tensor, target_in_BT: Tensor, draws_BT: Tensor, uniforms_BT: Tensor, draw: Draw
) -> Tensor:
    """Return the reference tokens with a sample in place of those where ``draws_BT`` is True."""
    if not is_asynchronous(draws_BT.device):
        new_BT = target_in_BT.clone()
        rows_N, steps_N = draws_BT.nonzero(as_tuple=True)
        logits_NV = decoder.logits(features_TBF[steps_N - 1, rows_N])
        new_BT[rows_N, steps_N] = draw.tokens(logits_NV, uniforms_BT[rows_N, steps_N])
        return new_BT
    # a GPU samples at all positions, since asking it for these would take longer
    reference_TB = target_in_BT[:, 1:].t()
    rows = max(1, MAX_LOGITS // len(decoder.output_bias))
    parts = torch.split(features_TBF[:-1].flatten(0, 1), rows), torch.split(uniforms_BT[:, 1:].t().flatten(), rows)
    drawn = [draw.tokens(decoder.logits(features_NF), numbers_N) for features_NF, numbers_N in zip(*parts, strict=True)]
    chosen_TB = torch.where(draws_BT[:, 1:].t(), torch.cat(drawn).view(reference_TB.shape), reference_TB)
    return torch.cat([target_in_BT[:, :1], chosen_TB.t()], 1)


# -- free --------------------------------------------------------------------------------------------------------------


_CHECK_EVERY = 8
"""Steps after which a GPU is asked whether all rows have ended: a wait costs as much as a few steps."""


class _FreeChoice:
    """Chooses a sample of the model's prediction until all rows have ended; ``run`` is what was fed and written."""

    def __init__(
        self,
        decoder: Decoder,
        bounds_B: Tensor,
        uniforms_BT: Tensor,
        draw: Draw,
        choose: Callable[[int, Tensor], Tensor] | None,
        all_steps: bool,
    ) -> None:
        self._decoder, self._bounds_B, self._uniforms_BT, self._draw = decoder, bounds_B, uniforms_BT, draw
        self._choose, self._to_the_end = choose, all_steps
        self.first_B = torch.full_like(bounds_B, BOS)
        self._tokens_B, self._active_B = self.first_B, torch.ones_like(bounds_B, dtype=torch.bool)
        self._lengths_B = torch.zeros_like(bounds_B)
        self._fed: list[Tensor] = []
        self._written: list[Tensor] = []

    def __call__(self, t: int, features_BF: Tensor) -> Tensor | None:
        drawn_B = self._draw.tokens(self._decoder.logits(features_BF), self._uniforms_BT[:, t])
        if self._choose is not None:
            drawn_B = self._choose(t, drawn_B)
        self._fed.append(torch.where(self._active_B, self._tokens_B, PAD))
        self._written.append(torch.where(self._active_B, drawn_B, PAD))
        self._lengths_B = self._lengths_B + self._active_B
        self._active_B = self._active_B & (drawn_B != EOS) & (t + 1 < self._bounds_B)
        self._tokens_B = drawn_B
        return None if self._all_have_ended(t + 1) else drawn_B

    def _all_have_ended(self, steps: int) -> bool:
        if steps == self._uniforms_BT.shape[1]:
            return True
        if is_asynchronous(self._active_B.device) and (self._to_the_end or steps % _CHECK_EVERY):
            return False
        return not bool(self._active_B.any())

    @property
    def run(self) -> FreeRun:
        return FreeRun(torch.stack(self._fed, 1), torch.stack(self._written, 1), self._lengths_B)


@torch.no_grad()
def free_rollout(
    decoder: Decoder,
    encoded: Encoded,
    bounds_B: Tensor,
    uniforms_BT: Tensor,
    draw: Draw,
    masks: DropoutMasks | None = None,
    choose: Callable[[int, Tensor], Tensor] | None = None,
    all_steps: bool = False,
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
        all_steps: on a GPU make all steps, so that it is not asked whether all rows have ended.
    """
    choice = _FreeChoice(decoder, bounds_B, uniforms_BT, draw, choose, all_steps)
    decoder.roll_out(choice.first_B, uniforms_BT.shape[1], _detach(encoded), choice, masks)
    return choice.run


def free_pass(
    decoder: Decoder,
    encoded: Encoded,
    bounds_B: Tensor,
    uniforms_BT: Tensor,
    draw: Draw,
    masks: DropoutMasks | None = None,
    choose: Callable[[int, Tensor], Tensor] | None = None,
    all_steps: bool = False,
) -> tuple[FreeRun, Decoded]:
    """Return the tokens of ``free_rollout``, and the pass over them, with gradients if they are enabled."""
    if decoder.replays:
        run = free_rollout(decoder, encoded, bounds_B, uniforms_BT, draw, masks, choose, all_steps)
        return run, decoder.sequence(run.fed_BT, encoded, masks and masks.first_steps(run.fed_BT.shape[1]))
    choice = _FreeChoice(decoder, bounds_B, uniforms_BT, draw, choose, all_steps)
    decoded, _ = decoder.roll_out(choice.first_B, uniforms_BT.shape[1], encoded, choice, masks)
    return choice.run, decoded


def _detach(encoded: Encoded) -> Encoded:
    """Detach from the graph, with the state in fp32 or fp64: in bf16 the steps' updates would be rounded away."""
    encoded = encoded.detach()
    h_LBH, c_LBH = encoded.state.h_LBH, encoded.state.c_LBH
    if h_LBH.dtype == torch.float64:
        return encoded
    return replace(encoded, state=State(h_LBH.float(), None if c_LBH is None else c_LBH.float()))
