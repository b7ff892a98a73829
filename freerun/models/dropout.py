"""Dropout whose masks are drawn once, before the pass, so that several passes can share them.

``DropoutRates`` says what is dropped. Masks hold 0 or 1 / (1 - rate) ("inverted dropout"). They are filled step by
step, so the mask of step t does not depend on how many steps follow. An embedding's units are dropped by token type,
the same wherever the token stands, so that a token's input gates stay a row of a table.

Shape suffixes: S source time, T target time, B batch, H layer output, F features before the output layer, V vocabulary,
E embedding, M memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from freerun.models.device import is_asynchronous
from freerun.models.random_tensors import coin_flips
from freerun.randomness import CounterGenerator

__all__ = ["NO_RATES", "DropoutMasks", "DropoutRates", "StepMasks", "apply_mask", "draw_mask"]


@dataclass(frozen=True, kw_only=True)
class DropoutRates:
    """The probability, in [0, 1), with which each is dropped; the names are the keys of a configuration.

    Attributes:
        dropout: features between recurrent layers, before the output layer, and of the summary of a source's features.
        embedding_dropout: whole tokens, and whole features of a source.
        embedding_unit_dropout: units of embeddings, by token type: one mask for all positions of an update.
        memory_dropout: features of what attention reads of each source position.
    """

    dropout: float = 0.0
    embedding_dropout: float = 0.0
    embedding_unit_dropout: float = 0.0
    memory_dropout: float = 0.0

    @property
    def drop_nothing(self) -> bool:
        """Return True if every rate is 0."""
        return not any(astuple(self))


NO_RATES = DropoutRates()


@dataclass(frozen=True)
class StepMasks:
    """The decoder's masks of one step; None where nothing is dropped."""

    token_B1: Tensor | None
    layers: tuple[Tensor | None, ...]
    """One [B, H] for each gap between decoder layers."""
    output_BF: Tensor | None


@dataclass(frozen=True, kw_only=True)
class DropoutMasks:
    """All masks of one pass; None where nothing is dropped."""

    source_tokens_SB1: Tensor | None = None
    encoder_layers: tuple[Tensor | None, ...] = ()
    """One [S, B, H] for each gap between encoder layers."""
    target_tokens_TB1: Tensor | None = None
    decoder_layers: tuple[Tensor | None, ...] = ()
    """One [T, B, H] for each gap between decoder layers."""
    output_TBF: Tensor | None = None
    features_BQ1: Tensor | None = None
    """Of whole features; read by the encoder only, so every decoder row of a source shares it."""
    feature_summary_BE: Tensor | None = None
    """Of the summary of the features, the same at every step of encoder and decoder."""
    source_embedding_VE: Tensor | None = None
    target_embedding_VE: Tensor | None = None
    memory_SBM: Tensor | None = None

    def first_steps(self, steps: int) -> DropoutMasks:
        """Return the same masks for a pass that ends after ``steps`` target positions."""
        return replace(
            self,
            target_tokens_TB1=_until(self.target_tokens_TB1, steps),
            decoder_layers=tuple(_until(mask, steps) for mask in self.decoder_layers),
            output_TBF=_until(self.output_TBF, steps),
        )

    def target_rows(self, rows_N: Tensor) -> DropoutMasks:
        """Select the decoder's masks of the rows ``rows_N``: several outputs of a source share its masks."""
        return DropoutMasks(
            target_tokens_TB1=_of_rows(self.target_tokens_TB1, rows_N),
            decoder_layers=tuple(_of_rows(mask, rows_N) for mask in self.decoder_layers),
            output_TBF=_of_rows(self.output_TBF, rows_N),
            target_embedding_VE=self.target_embedding_VE,
        )

    def target_step(self, t: int) -> StepMasks:
        """Return the decoder's masks of step ``t``."""
        layers = tuple(None if mask is None else mask[t] for mask in self.decoder_layers)
        return StepMasks(_at(self.target_tokens_TB1, t), layers, _at(self.output_TBF, t))


def _until(mask: Tensor | None, steps: int) -> Tensor | None:
    return None if mask is None else mask[:steps]


def _of_rows(mask: Tensor | None, rows_N: Tensor) -> Tensor | None:
    return None if mask is None else mask.index_select(1, rows_N)


def _at(mask: Tensor | None, t: int) -> Tensor | None:
    return None if mask is None else mask[t]


def draw_mask(shape: Sequence[int], rate: float, generator: CounterGenerator, like: Tensor) -> Tensor | None:
    """Draw a mask of ``shape`` with the type and device of ``like``, or None at rate 0.

    The entries follow the generator's stream in row-major order: where the first axis is time, a longer mask begins
    with the shorter one.
    """
    if rate == 0.0:
        return None
    keep = 1.0 - rate
    if is_asynchronous(like.device):
        return coin_flips(generator, keep, *shape, device=like.device).to(like.dtype).mul_(1.0 / keep)
    # in one pass over the flips
    flips = generator.coin_flips(keep, *shape)
    number = np.float64 if like.dtype == torch.float64 else np.float32
    return torch.from_numpy(np.multiply(flips, number(1.0 / keep))).to(like)


def apply_mask(values: Tensor, mask: Tensor | None) -> Tensor:
    """``values`` with the mask applied, if there is one."""
    return values if mask is None else values * mask
