"""An encoded source as the decoder reads it.

Shape suffixes: B rows, S source, H decoder, M memory, L layers, N selected rows, E embedding, G gates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from freerun.models.recurrent_state import State

__all__ = ["Encoded", "Memory"]


@dataclass(frozen=True)
class Memory:
    """The encoder's outputs, prepared once per source by an attention's ``prepare``.

    ``values_BSM`` are averaged (behind Luong's output layer: [B, S, H]), ``keys_BSH`` are compared with the query;
    ``mask_BS`` is True on real positions (None: all are).
    A decoder may have K times as many rows: then the rows of one source are adjacent and share its entry.
    """

    values_BSM: Tensor
    keys_BSH: Tensor
    mask_BS: Tensor | None = None

    def select(self, origins_N: Tensor) -> Memory:
        """Return the rows ``origins_N``."""
        mask = None if self.mask_BS is None else self.mask_BS.index_select(0, origins_N)
        return Memory(self.values_BSM.index_select(0, origins_N), self.keys_BSH.index_select(0, origins_N), mask)

    def detach(self) -> Memory:
        """Return the same values, detached."""
        return Memory(self.values_BSM.detach(), self.keys_BSH.detach(), self.mask_BS)


@dataclass(frozen=True)
class Encoded:
    """The decoder's ``state`` before a step, and what every step reads.

    ``context_BH``: the source's summary, if every step reads it; ``memory``: for attention; ``carried_BH``: what the
    previous step left for this one, if an attention does (input feeding: the attentional output);
    ``feature_summary_BE``: the summary of the features, if every step reads one, and ``feature_gates_BG`` its
    projection to the first layer's gates.
    """

    state: State
    context_BH: Tensor | None = None
    memory: Memory | None = None
    carried_BH: Tensor | None = None
    feature_summary_BE: Tensor | None = None
    feature_gates_BG: Tensor | None = None

    def detach(self) -> Encoded:
        """Return the same values, detached."""
        return Encoded(
            self.state.detach(),
            None if self.context_BH is None else self.context_BH.detach(),
            None if self.memory is None else self.memory.detach(),
            None if self.carried_BH is None else self.carried_BH.detach(),
            None if self.feature_summary_BE is None else self.feature_summary_BE.detach(),
            None if self.feature_gates_BG is None else self.feature_gates_BG.detach(),
        )

    def select(self, origins_N: Tensor) -> Encoded:
        """Return the rows ``origins_N``, with a memory entry for each."""
        rows = self.select_rows(origins_N)
        return rows if self.memory is None else replace(rows, memory=self.memory.select(origins_N))

    def select_rows(self, origins_N: Tensor) -> Encoded:
        """Return the rows ``origins_N`` with the memory unchanged."""
        return Encoded(
            self.state.select(origins_N),
            None if self.context_BH is None else self.context_BH.index_select(0, origins_N),
            self.memory,
            None if self.carried_BH is None else self.carried_BH.index_select(0, origins_N),
            None if self.feature_summary_BE is None else self.feature_summary_BE.index_select(0, origins_N),
            None if self.feature_gates_BG is None else self.feature_gates_BG.index_select(0, origins_N),
        )
