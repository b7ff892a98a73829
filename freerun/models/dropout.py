"""Dropout whose masks are drawn once, before the pass, so that several passes can share them.

Dropout acts between recurrent layers and before the output layer; embedding dropout drops whole tokens, so that a
token's input gates stay a row of a table. Masks hold 0 or 1 / (1 - rate) ("inverted dropout").

Shape suffixes: S source time, T target time, B batch, H layer output, F features before the output layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["DropoutMasks", "StepMasks", "apply_mask", "draw_mask"]


@dataclass(frozen=True)
class StepMasks:
    """The decoder's masks of one step; None where nothing is dropped."""

    token_B1: Tensor | None
    layers: tuple[Tensor | None, ...]
    """One [B, H] for each gap between decoder layers."""
    output_BF: Tensor | None


@dataclass(frozen=True)
class DropoutMasks:
    """All masks of one pass; None where nothing is dropped."""

    source_tokens_SB1: Tensor | None = None
    encoder_layers: tuple[Tensor | None, ...] = ()
    """One [S, B, H] for each gap between encoder layers."""
    target_tokens_TB1: Tensor | None = None
    decoder_layers: tuple[Tensor | None, ...] = ()
    """One [T, B, H] for each gap between decoder layers."""
    output_TBF: Tensor | None = None

    def first_steps(self, steps: int) -> DropoutMasks:
        """The same masks for a pass that ends after ``steps`` target positions."""
        return replace(
            self,
            target_tokens_TB1=_until(self.target_tokens_TB1, steps),
            decoder_layers=tuple(_until(mask, steps) for mask in self.decoder_layers),
            output_TBF=_until(self.output_TBF, steps),
        )

    def target_step(self, t: int) -> StepMasks:
        """The decoder's masks of step ``t``."""
        layers = tuple(None if mask is None else mask[t] for mask in self.decoder_layers)
        return StepMasks(_at(self.target_tokens_TB1, t), layers, _at(self.output_TBF, t))


def _until(mask: Tensor | None, steps: int) -> Tensor | None:
    return None if mask is None else mask[:steps]


def _at(mask: Tensor | None, t: int) -> Tensor | None:
    return None if mask is None else mask[t]


def draw_mask(shape: Sequence[int], rate: float, generator: torch.Generator, like: Tensor) -> Tensor | None:
    """A mask of ``shape`` with the type and device of ``like``, or None at rate 0."""
    if rate == 0.0:
        return None
    keep = 1.0 - rate
    # drawn on the generator's device (the CPU), so that a seed means the same masks everywhere
    mask = torch.empty(*shape, dtype=like.dtype).bernoulli_(keep, generator=generator)
    return mask.div_(keep).to(like.device)


def apply_mask(values: Tensor, mask: Tensor | None) -> Tensor:
    """``values`` with the mask applied, if there is one."""
    return values if mask is None else values * mask
