"""The encoder: reads the source into a memory (one vector a position) and a final state.

Shape suffixes: B batch, S source, E embedding, H hidden (a direction), M memory (H x directions), L layers.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from freerun.models.dropout import DropoutMasks, apply_mask
from freerun.models.recurrence import Inputs, LayerStack, RecurrentLayer, Tokens
from freerun.models.recurrent_state import State

__all__ = ["Encoder", "reversal_within", "turn"]


class Encoder(nn.Module):
    """Embedding and a stack of recurrent layers in one or two directions.

    With two (Schuster & Paliwal 1997) every layer reads both outputs of the layer below, and sizes double: memory and
    state have ``2 * hidden_size`` features, forward first.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        cell: str = "lstm",
        bidirectional: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_directions = 2 if bidirectional else 1
        self.memory_size = hidden_size * self.num_directions
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        sizes = [embedding_size] + [self.memory_size] * (num_layers - 1)
        self.forward_layers = LayerStack(RecurrentLayer(cell, size, hidden_size, backend) for size in sizes)
        self.backward_layers = LayerStack(
            RecurrentLayer(cell, size, hidden_size, backend) for size in (sizes if bidirectional else [])
        )

    def forward(
        self, source_BS: Tensor, lengths_B: Tensor | None, masks: DropoutMasks | None = None
    ) -> tuple[Tensor, State]:
        """Read a batch of sources.

        Args:
            source_BS: token ids, right-padded.
            lengths_B: real tokens a row, each >= 1; None when no row is padded.
            masks: dropout, None for none.

        Returns:
            Memory [S, B, M] (of no meaning on padding) and the state [L, B, M] after each row's last token (for the
            backward direction: after its first).
        """
        turned_SB = None if lengths_B is None else reversal_within(lengths_B, source_BS.shape[1])
        tokens = Tokens(source_BS.t(), self.embedding.weight, masks.source_tokens_SB1 if masks else None)
        values, state = self._layer(0, tokens, lengths_B, turned_SB)
        final = [state]
        for index in range(1, len(self.forward_layers)):
            inputs = apply_mask(values, masks.encoder_layers[index - 1] if masks else None)
            values, state = self._layer(index, inputs, lengths_B, turned_SB)
            final.append(state)
        return values, State.stack(final)

    def _layer(
        self, index: int, inputs: Inputs, lengths_B: Tensor | None, turned_SB: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        """One layer in its one or two directions."""
        outputs, h, c = self.forward_layers[index].sequence(inputs, lengths_B=lengths_B)
        if self.num_directions == 1:
            return outputs, (h, c)
        turned = _turned(inputs, turned_SB)
        back_outputs, back_h, back_c = self.backward_layers[index].sequence(turned, lengths_B=lengths_B)
        both = torch.cat([outputs, turn(back_outputs, turned_SB)], 2)
        cell = None if c is None or back_c is None else torch.cat([c, back_c], 1)
        return both, (torch.cat([h, back_h], 1), cell)


def reversal_within(lengths_B: Tensor, size: int) -> Tensor:
    """Positions [size, B] that reverse each row within its own length and leave its padding where it is."""
    steps_S1 = torch.arange(size, device=lengths_B.device).unsqueeze(1)
    return torch.where(steps_S1 < lengths_B, lengths_B - 1 - steps_S1, steps_S1)


def turn(values_SBI: Tensor, turned_SB: Tensor | None) -> Tensor:
    """Each row backwards, its padding where it was; ``turned_SB`` is from ``reversal_within``, None without padding."""
    if turned_SB is None:
        return values_SBI.flip(0)
    return values_SBI.gather(0, turned_SB.unsqueeze(2).expand_as(values_SBI))


def _turned(inputs: Inputs, turned_SB: Tensor | None) -> Inputs:
    if not isinstance(inputs, Tokens):
        return turn(inputs, turned_SB)
    ids_SB = turn(inputs.ids_TB.unsqueeze(2), turned_SB).squeeze(2)
    return replace(
        inputs, ids_TB=ids_SB, mask_TB1=None if inputs.mask_TB1 is None else turn(inputs.mask_TB1, turned_SB)
    )
