"""Attention: after the recurrence (Luong, Pham & Manning 2015), or in it (Bahdanau, Cho & Bengio 2015).

Luong's looks at the decoder's outputs only, so all target positions are attended in one product, and a whole-sequence
replay equals the step loop. Bahdanau's is an input of the recurrence, as Luong's is with input feeding: then each step
needs the one before it, and a replay is a loop over steps.

Shape suffixes: B batch, T target, S source, H decoder, M memory, O twice H.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["BahdanauAttention", "LuongAttention", "Memory"]


@dataclass(frozen=True)
class Memory:
    """What the decoder may look at, prepared once a source by an attention's ``prepare``.

    ``values_BSM`` is averaged (after Luong's output layer: [B, S, H]), ``keys_BSH`` is compared with; ``mask_BS`` is
    True on real positions (None: all are).
    Where a decoder has K times as many rows, those of a source stand together and look at the same entry.
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

    Output: h~ = tanh(W_c [c; h]), c the memory averaged with the softmax of the scores. The half of W_c that is for c
    is multiplied with the memory itself, once a source, which is then averaged: fewer products than one a step, and
    none of them again for each hypothesis of a beam.
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
        of_context_BSH = functional.linear(values_BSM, self.combine.weight[:, : values_BSM.shape[2]])
        return Memory(of_context_BSH, values_BSM if self.score == "dot" else self.keys(values_BSM), mask_BS)

    def forward(self, outputs_BTH: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """The attentional outputs h~ [B, T, H] and the weights [B, T, S]; weights are 0 on padding."""
        # rows of one source are to it what further target positions would be
        by_source = outputs_BTH.reshape(len(memory.values_BSM), -1, outputs_BTH.shape[2])
        of_outputs = functional.linear(by_source, self.combine.weight[:, -outputs_BTH.shape[2] :])
        combined, weights = _read(self._scores(by_source, memory.keys_BSH), memory, of_outputs)
        attended = torch.tanh(combined)
        return attended.view_as(outputs_BTH), weights.view(*outputs_BTH.shape[:2], -1)

    def _scores(self, outputs_BTH: Tensor, keys_BSH: Tensor) -> Tensor:
        if self.score != "concat":
            return torch.bmm(outputs_BTH, keys_BSH.transpose(1, 2))
        joined_BTSH = torch.tanh(self.query(outputs_BTH).unsqueeze(2) + keys_BSH.unsqueeze(1))
        scores_BTS: Tensor = self.vector(joined_BTSH).squeeze(3)
        return scores_BTS


class BahdanauAttention(nn.Module):
    """Additive attention that the recurrence reads, and the output layer beside it (Bahdanau et al. 2015, appendix A).

    e_j = v . tanh(W s + U m_j) with s the top layer's output of the step before; the memory averaged with the softmax
    of the e_j is the context c, an input of the first layer. The features are a maxout layer (Goodfellow et al. 2013),
    max of each pair of  U_o s' + V_o E y + C_o c + b,  s' the top layer's output of this step (equation 4; the appendix
    has s there), E y the embedding of the token fed.
    """

    def __init__(self, hidden_size: int, memory_size: int, embedding_size: int) -> None:
        super().__init__()
        self.keys = nn.Linear(memory_size, hidden_size, bias=False)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.vector = nn.Linear(hidden_size, 1, bias=False)
        self.state_output = nn.Linear(hidden_size, 2 * hidden_size)
        self.token_output = nn.Linear(embedding_size, 2 * hidden_size, bias=False)
        self.context_output = nn.Linear(memory_size, 2 * hidden_size, bias=False)

    def prepare(self, values_BSM: Tensor, mask_BS: Tensor | None) -> Memory:
        """The encoder's memory with what each step would otherwise compute again."""
        return Memory(values_BSM, self.keys(values_BSM), mask_BS)

    def context(self, state_BH: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """The context c [B, M] that a step with the state s before it reads, and the weights [B, S]."""
        queries = self.query(state_BH).view(len(memory.keys_BSH), -1, 1, memory.keys_BSH.shape[2])
        joined = torch.tanh(queries + memory.keys_BSH.unsqueeze(1))  # [sources, rows of each, S, H]
        context, weights = _read(self.vector(joined).squeeze(3), memory)
        return context.flatten(0, 1), weights.flatten(0, 1)

    def output(self, state_BH: Tensor, token_BO: Tensor, context_BM: Tensor) -> Tensor:
        """Features [B, H]; ``token_BO`` is ``token_output`` of the embedding."""
        pairs_BO = self.state_output(state_BH) + token_BO + self.context_output(context_BM)
        features_BH: Tensor = pairs_BO.unflatten(1, (-1, 2)).amax(2)
        return features_BH


def _read(scores_BTS: Tensor, memory: Memory, added_BTM: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The memory averaged with the softmax of the scores, [B, T, M], and the weights [B, T, S], 0 on padding.

    What is to be ``added`` is added within the product: in bf16 the sum is then rounded once.
    """
    if memory.mask_BS is not None:
        scores_BTS = scores_BTS.masked_fill(~memory.mask_BS.unsqueeze(1), float("-inf"))
    weights_BTS = torch.softmax(scores_BTS, dim=2)
    shares_BTS = weights_BTS.to(memory.values_BSM.dtype)
    if added_BTM is None:
        return torch.bmm(shares_BTS, memory.values_BSM), weights_BTS
    return torch.baddbmm(added_BTM, shares_BTS, memory.values_BSM), weights_BTS
