"""Attention after the recurrence (Luong, Pham & Manning 2015), without input feeding.

It looks at the decoder's outputs only, so all target positions are attended in one product, and a whole-sequence replay
equals the step loop.

Shape suffixes: B batch, T target, S source, H decoder, M memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["LuongAttention", "Memory"]


@dataclass(frozen=True)
class Memory:
    """What the decoder may look at, prepared once a source by ``LuongAttention.prepare``.

    ``values_BSM`` is averaged, ``keys_BSH`` is compared with; ``mask_BS`` is True on real positions (None: all are).
    """

    values_BSM: Tensor
    keys_BSH: Tensor
    mask_BS: Tensor | None = None

    def select(self, origins_N: Tensor) -> Memory:
        """The rows ``origins_N``."""
        mask = None if self.mask_BS is None else self.mask_BS.index_select(0, origins_N)
        return Memory(self.values_BSM.index_select(0, origins_N), self.keys_BSH.index_select(0, origins_N), mask)

    def detach(self) -> Memory:
        """The same values, cut off from the graph."""
        return Memory(self.values_BSM.detach(), self.keys_BSH.detach(), self.mask_BS)


class LuongAttention(nn.Module):
    """Global attention with the score functions of section 3.1, equations 5 to 8.

    - ``dot``: h . m (the memory must have H features);
    - ``general``: h . W m;
    - ``concat``: v . tanh(W [h; m]).

    Output: h~ = tanh(W_c [c; h]), c the memory averaged with the softmax of the scores.
    """

    def __init__(self, score: str, hidden_size: int, memory_size: int) -> None:
        super().__init__()
        self.score = score
        if score == "general":
            self.keys = nn.Linear(memory_size, hidden_size, bias=False)
        if score == "concat":
            self.keys = nn.Linear(memory_size, hidden_size, bias=False)
            self.query = nn.Linear(hidden_size, hidden_size, bias=False)
            self.vector = nn.Linear(hidden_size, 1, bias=False)
        self.combine = nn.Linear(memory_size + hidden_size, hidden_size, bias=False)

    def prepare(self, values_BSM: Tensor, mask_BS: Tensor | None) -> Memory:
        """The encoder's memory with what each step would otherwise compute again."""
        return Memory(values_BSM, values_BSM if self.score == "dot" else self.keys(values_BSM), mask_BS)

    def forward(self, outputs_BTH: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """The attentional outputs h~ [B, T, H] and the weights [B, T, S]; weights are 0 on padding."""
        scores_BTS = self._scores(outputs_BTH, memory.keys_BSH)
        if memory.mask_BS is not None:
            scores_BTS = scores_BTS.masked_fill(~memory.mask_BS.unsqueeze(1), float("-inf"))
        weights_BTS = torch.softmax(scores_BTS, dim=2)
        context_BTM = torch.bmm(weights_BTS.to(memory.values_BSM.dtype), memory.values_BSM)
        return torch.tanh(self.combine(torch.cat([context_BTM, outputs_BTH], 2))), weights_BTS

    def _scores(self, outputs_BTH: Tensor, keys_BSH: Tensor) -> Tensor:
        if self.score != "concat":
            return torch.bmm(outputs_BTH, keys_BSH.transpose(1, 2))
        joined_BTSH = torch.tanh(self.query(outputs_BTH).unsqueeze(2) + keys_BSH.unsqueeze(1))
        scores_BTS: Tensor = self.vector(joined_BTSH).squeeze(3)
        return scores_BTS
