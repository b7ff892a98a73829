"""The bridge: passes the encoder's final state to the decoder."""

from __future__ import annotations

from torch import Tensor, nn

from freerun.architecture import Architecture
from freerun.models.recurrent_state import State

__all__ = ["Bridge"]


class Bridge(nn.Module):
    """Passes on every layer's full state, both h and c.

    Unchanged if the sizes agree (Sutskever et al. 2014); through a linear projection per layer, one for h and one for
    c, if they differ (a bidirectional encoder).
    """

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        number = sizes.num_layers if sizes.is_bridged else 0
        self.h = _projections(sizes, number)
        self.c = _projections(sizes, number if sizes.cell_spec.has_cell_state else 0)

    def forward(self, state: State) -> State:
        """Return the decoder's initial state [L, B, H] from the encoder's final one [L, B, M]."""
        if not len(self.h):
            return state
        layers: list[tuple[Tensor, Tensor | None]] = []
        for index, project_h in enumerate(self.h):
            h, c = state.layer(index)
            layers.append((project_h(h), None if c is None else self.c[index](c)))
        return State.stack(layers)


def _projections(sizes: Architecture, number: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(sizes.memory_size, sizes.hidden_size) for _ in range(number))
