"""The bridge: hands the encoder's final state to the decoder."""

from __future__ import annotations

from torch import Tensor, nn

from freerun.models.recurrent_state import State

__all__ = ["Bridge"]


class Bridge(nn.Module):
    """Hands every layer's full state over, both h and c.

    As it is where sizes agree (Sutskever et al. 2014); through a linear projection a layer, one for h and one for c,
    where they differ (a two-directional encoder).
    """

    def __init__(self, encoder_size: int, decoder_size: int, num_layers: int, has_cell_state: bool) -> None:
        super().__init__()
        projects = num_layers if encoder_size != decoder_size else 0
        self.h = nn.ModuleList(nn.Linear(encoder_size, decoder_size) for _ in range(projects))
        self.c = nn.ModuleList(nn.Linear(encoder_size, decoder_size) for _ in range(projects if has_cell_state else 0))

    def forward(self, state: State) -> State:
        """The decoder's initial state [L, B, H] from the encoder's final one [L, B, M]."""
        if not len(self.h):
            return state
        layers: list[tuple[Tensor, Tensor | None]] = []
        for index, project_h in enumerate(self.h):
            h, c = state.layer(index)
            layers.append((project_h(h), None if c is None else self.c[index](c)))
        return State.stack(layers)
