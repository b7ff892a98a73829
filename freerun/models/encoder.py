"""The encoder: reads the source into a memory (one vector per position) and a final state.

Shape suffixes: B batch, S source, E embedding, H hidden (a direction), M memory (H x directions), L layers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from freerun.architecture import Architecture
from freerun.models.device import is_asynchronous
from freerun.models.dropout import DropoutMasks, apply_mask
from freerun.models.recurrence import LayerStack, RecurrentLayer
from freerun.models.recurrent_state import State
from freerun.models.token_inputs import Inputs, Tokens

__all__ = ["Encoder", "reversal_within", "reverse_rows"]


class Encoder(nn.Module):
    """Embedding and a stack of recurrent layers in one or two directions.

    In two (Schuster & Paliwal 1997) every layer reads both outputs of the layer below: memory and state have
    ``2 * hidden_size`` features, forward first.
    """

    def __init__(self, sizes: Architecture, backend: str = "auto") -> None:
        super().__init__()
        self.num_directions = sizes.num_directions
        self.memory_size = sizes.memory_size
        self.embedding = nn.Embedding(sizes.source_vocabulary, sizes.embedding_size)
        inputs = [sizes.embedding_size + sizes.feature_summary_size] + [self.memory_size] * (sizes.num_layers - 1)
        self.forward_layers = _stack(sizes, inputs, backend)
        self.backward_layers = _stack(sizes, inputs if sizes.bidirectional else [], backend)

    def forward(
        self,
        source_BS: Tensor,
        lengths_B: Tensor | None,
        masks: DropoutMasks | None = None,
        summary_BE: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Read a batch of sources.

        Args:
            source_BS: token ids, right-padded.
            lengths_B: real tokens per row, each >= 1; None when no row is padded.
            masks: dropout, None for none.
            summary_BE: of the features, an input of the first layer next to every token; None if there is none.

        Returns:
            Memory [S, B, M] (undefined on padding) and the state [L, B, M] after each row's last token (for the
            backward direction: after its first).
        """
        reversal_SB = None if lengths_B is None else reversal_within(lengths_B, source_BS.shape[1])
        embedding_VE = apply_mask(self.embedding.weight, masks.source_embedding_VE if masks else None)
        tokens = Tokens(source_BS.t(), embedding_VE, masks.source_tokens_SB1 if masks else None, summary_BE)
        values, state = self._layer(0, tokens, lengths_B, reversal_SB)
        final = [state]
        for index in range(1, len(self.forward_layers)):
            inputs = apply_mask(values, masks.encoder_layers[index - 1] if masks else None)
            values, state = self._layer(index, inputs, lengths_B, reversal_SB)
            final.append(state)
        return values, State.stack(final)

    def _layer(
        self, index: int, inputs: Inputs, lengths_B: Tensor | None, reversal_SB: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        """Run one layer in its one or two directions."""
        outputs, h, c = self.forward_layers[index].sequence(inputs, lengths_B=lengths_B)
        if self.num_directions == 1:
            return outputs, (h, c)
        backwards = _reversed(inputs, reversal_SB)
        back_outputs, back_h, back_c = self.backward_layers[index].sequence(backwards, lengths_B=lengths_B)
        both = torch.cat([outputs, reverse_rows(back_outputs, reversal_SB)], 2)
        cell = None if c is None or back_c is None else torch.cat([c, back_c], 1)
        return both, (torch.cat([h, back_h], 1), cell)


def _stack(sizes: Architecture, inputs: list[int], backend: str) -> LayerStack:
    return LayerStack(RecurrentLayer(sizes.cell, size, sizes.hidden_size, backend) for size in inputs)


def reversal_within(lengths_B: Tensor, size: int) -> Tensor:
    """Return positions [size, B] that reverse each row within its own length and leave its padding in place."""
    steps_S1 = torch.arange(size, device=lengths_B.device).unsqueeze(1)
    return torch.where(steps_S1 < lengths_B, lengths_B - 1 - steps_S1, steps_S1)


def reverse_rows(values_SBI: Tensor, reversal_SB: Tensor | None) -> Tensor:
    """Reverse each row, its padding in place; ``reversal_SB`` is from ``reversal_within``, None without padding."""
    if reversal_SB is None:
        return values_SBI.flip(0)
    if is_asynchronous(values_SBI.device) and values_SBI.is_floating_point():
        reversed_SBI: Tensor = _ReverseRows.apply(values_SBI, reversal_SB)  # type: ignore[no-untyped-call]
        return reversed_SBI
    return values_SBI.gather(0, reversal_SB.unsqueeze(2).expand_as(values_SBI))


class _ReverseRows(torch.autograd.Function):
    """``reverse_rows`` for a GPU: it is its own inverse, so its gradient is, too. A gather's would sort its indices."""

    @staticmethod
    def forward(ctx: Any, values_SBI: Tensor, reversal_SB: Tensor) -> Tensor:
        ctx.save_for_backward(reversal_SB)
        return values_SBI.gather(0, reversal_SB.unsqueeze(2).expand_as(values_SBI))

    @staticmethod
    def backward(ctx: Any, d_reversed_SBI: Tensor) -> tuple[Tensor, None]:
        (reversal_SB,) = ctx.saved_tensors
        d_values_SBI: Tensor = _ReverseRows.apply(d_reversed_SBI, reversal_SB)  # type: ignore[no-untyped-call]
        return d_values_SBI, None


def _reversed(inputs: Inputs, reversal_SB: Tensor | None) -> Inputs:
    if not isinstance(inputs, Tokens):
        return reverse_rows(inputs, reversal_SB)
    ids_SB = reverse_rows(inputs.ids_TB.unsqueeze(2), reversal_SB).squeeze(2)
    return replace(
        inputs, ids_TB=ids_SB, mask_TB1=None if inputs.mask_TB1 is None else reverse_rows(inputs.mask_TB1, reversal_SB)
    )
