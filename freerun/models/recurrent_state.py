"""The recurrent state: one type that hides (h, c) from all other modules."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["State"]


@dataclass(frozen=True)
class State:
    """The state of every layer of a recurrent stack for a batch of rows.

    ``h_LBH`` is what a layer writes; ``c_LBH`` is an LSTM's cell state, None for GRU and RNN.
    """

    h_LBH: Tensor
    c_LBH: Tensor | None = None

    def select(self, origins_N: Tensor) -> State:
        """Return the rows ``origins_N`` (indices, in their order, repeats allowed)."""
        return State(
            self.h_LBH.index_select(1, origins_N),
            None if self.c_LBH is None else self.c_LBH.index_select(1, origins_N),
        )

    def repeat(self, times: int) -> State:
        """Return every row ``times`` times, its copies next to each other."""
        return State(
            self.h_LBH.repeat_interleave(times, 1),
            None if self.c_LBH is None else self.c_LBH.repeat_interleave(times, 1),
        )

    def detach(self) -> State:
        """Return the same values, detached from the graph."""
        return State(self.h_LBH.detach(), None if self.c_LBH is None else self.c_LBH.detach())

    def layer(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Return (h, c) of one layer, each [B, H]."""
        return self.h_LBH[index], None if self.c_LBH is None else self.c_LBH[index]

    @staticmethod
    def stack(layers: list[tuple[Tensor, Tensor | None]]) -> State:
        """Return the state with these layers' (h, c), lowest layer first."""
        cells = [c for _, c in layers if c is not None]
        return State(torch.stack([h for h, _ in layers]), torch.stack(cells) if cells else None)
