"""Conditions: the part of the source that a decoder step reads in addition to its state (protocol ``Condition``).

- ``SourceSummary``: a fixed vector, an input of every step (Cho et al. 2014);
- ``LuongAttention``: after the recurrence (Luong, Pham & Manning 2015). It reads the decoder's outputs only, so all
  target positions are attended in one matmul, and a whole-sequence replay equals the step loop;
- ``InputFeeding``: the same, with the attentional output as an input of the next step;
- ``BahdanauAttention``: within the recurrence (Bahdanau, Cho & Bengio 2015), an input of every step.

The last two make each step depend on the one before (``RecurrentCondition``), so a target is not decoded in one pass:
``attended_sequence`` has their loop. ``freerun.architecture`` has the registry of attentions; ``build_attention`` has
the module of each.

Over 350 lines, because each attention is one class with everything that a step, a pass and a kernel need of it.

Shape suffixes: B batch, T target, S source, V vocabulary, E embedding, H decoder, M memory, O twice H, I input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from freerun.architecture import Architecture
from freerun.models.attended_sequence import AttentionInputs
from freerun.models.encoded import Encoded, Memory
from freerun.models.maxout import run_maxout

__all__ = [
    "Attention",
    "BahdanauAttention",
    "Condition",
    "LuongAttention",
    "RecurrentCondition",
    "TokenOutputs",
    "build_attention",
    "build_conditions",
]


class Condition(Protocol):
    """The part of the source that a step reads.

    Conditions are nested: ``before_step`` is called from the first to the last, ``after_step`` from the last to the
    first.

    Attributes:
        input_size: I, how many inputs of the first layer it gives.
        replays: those inputs are the same at every step, so a whole target is decoded in one pass.
    """

    input_size: int
    replays: bool

    def token_table(self, embedding_VE: Tensor) -> Tensor | None:
        """Return what ``after_step`` reads of the tokens fed, a row for each token, if it reads anything."""
        ...

    def before_step(self, encoded: Encoded) -> Tensor | None:
        """Return the inputs [B, I] of the first layer; None if there are none."""
        ...

    def after_step(
        self, outputs_TBH: Tensor, encoded: Encoded, read_BI: Tensor | None, token_BO: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the features [T, B, ...] for the output layer, and what the next step needs of this one, if anything.

        Args:
            outputs_TBH: the top layer's outputs, or the features of the condition inside this one; T is 1 unless
                every condition replays.
            encoded: the state before the step, with what every step reads.
            read_BI: the return value of ``before_step``.
            token_BO: the rows of ``token_table`` for the tokens fed.
        """
        ...


@dataclass(frozen=True)
class TokenOutputs:
    """What ``after_step`` reads of the tokens fed: rows ``ids_TB`` of ``token_table``, times ``scale_TB`` if given."""

    table_VO: Tensor | None
    ids_TB: Tensor
    scale_TB: Tensor | None = None


@runtime_checkable
class RecurrentCondition(Condition, Protocol):
    """A condition that makes a step depend on the one before, as ``run_attended_sequence`` computes it."""

    def inputs(self, encoded: Encoded) -> AttentionInputs:
        """Return the operands of all steps."""
        ...

    def features(self, outputs_TBH: Tensor, reads_TBI: Tensor, tokens: TokenOutputs) -> Tensor:
        """Return the features of ``after_step`` from what each step read (input feeding: left for the next)."""
        ...


class Attention(nn.Module):
    """A condition with weights, which reads the memory.

    A subclass for a new attention overrides ``prepare``, ``weights_along``, and those steps that do something.
    """

    input_size = 0
    replays = True

    def prepare(self, values_BSM: Tensor, mask_BS: Tensor | None) -> Memory:
        """Return the encoder's outputs with what each step would otherwise recompute."""
        raise NotImplementedError

    def weights_along(self, before_TBH: Tensor, outputs_TBH: Tensor, memory: Memory) -> Tensor:
        """Return the attention weights [B, T, S] of all steps, given the top layer's h before and after each."""
        raise NotImplementedError

    def token_table(self, embedding_VE: Tensor) -> Tensor | None:
        """See ``Condition``."""
        return None

    def before_step(self, encoded: Encoded) -> Tensor | None:
        """See ``Condition``."""
        return None

    def after_step(
        self, outputs_TBH: Tensor, encoded: Encoded, read_BI: Tensor | None, token_BO: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See ``Condition``."""
        return outputs_TBH, None


class SourceSummary:
    """The source's summary as an input of the first layer and of the output layer at every step (Cho et al. 2014)."""

    replays = True

    def __init__(self, context_size: int) -> None:
        self.input_size = context_size

    def token_table(self, embedding_VE: Tensor) -> Tensor | None:
        """See ``Condition``."""
        return None

    def before_step(self, encoded: Encoded) -> Tensor | None:
        """See ``Condition``."""
        return encoded.context_BH

    def after_step(
        self, outputs_TBH: Tensor, encoded: Encoded, read_BI: Tensor | None, token_BO: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See ``Condition``."""
        assert read_BI is not None
        context_TBH = read_BI.expand(len(outputs_TBH), -1, -1)
        return torch.cat([outputs_TBH, context_TBH.to(outputs_TBH.dtype)], 2), None


class LuongAttention(Attention):
    """Global attention with the score functions of section 3.1, equations 5 to 8.

    - ``dot``: h . m (the memory must have H features);
    - ``general``: h . W m;
    - ``concat``: v . tanh(W [h; m]);
    - ``scaled_general``: h . W m / sqrt(H), the scale of Vaswani et al. 2017.

    Output: h~ = tanh(W_c [c; h]), c the memory averaged with the softmax of the scores. The half of W_c that belongs
    to c is multiplied by the memory itself, once per source, which is then averaged: fewer matmuls than one per step,
    and none of them repeated for each hypothesis of a beam.
    """

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        hidden_size, spec = sizes.hidden_size, sizes.attention_spec
        self.sums = spec.sums
        self.scale = hidden_size**-0.5 if spec.is_scaled else None
        self.keys = None if spec.needs_equal_sizes else nn.Linear(sizes.memory_size, hidden_size, bias=False)
        if spec.sums:
            self.query = nn.Linear(hidden_size, hidden_size, bias=False)
            self.vector = nn.Linear(hidden_size, 1, bias=False)
        self.combine = nn.Linear(sizes.memory_size + hidden_size, hidden_size, bias=False)

    def prepare(self, values_BSM: Tensor, mask_BS: Tensor | None) -> Memory:
        """See ``Attention``."""
        of_context_BSH = functional.linear(values_BSM, self.combine.weight[:, : values_BSM.shape[2]])
        keys_BSH = values_BSM if self.keys is None else self.keys(values_BSM)
        return Memory(of_context_BSH, keys_BSH if self.scale is None else keys_BSH * self.scale, mask_BS)

    def forward(self, outputs_BTH: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return the attentional outputs h~ [B, T, H] and the weights [B, T, S]; weights are 0 on padding."""
        # rows of one source are treated like further target positions
        by_source = outputs_BTH.reshape(len(memory.values_BSM), -1, outputs_BTH.shape[2])
        of_outputs = functional.linear(by_source, self.combine.weight[:, -outputs_BTH.shape[2] :])
        combined, weights = _average(self._scores(by_source, memory.keys_BSH), memory, of_outputs)
        attended = torch.tanh(combined)
        return attended.view_as(outputs_BTH), weights.view(*outputs_BTH.shape[:2], -1)

    def _scores(self, outputs_BTH: Tensor, keys_BSH: Tensor) -> Tensor:
        if not self.sums:
            return torch.bmm(outputs_BTH, keys_BSH.transpose(1, 2))
        return _scores_of_sums(self.query(outputs_BTH).unsqueeze(2), keys_BSH, self.vector)

    def weights_along(self, before_TBH: Tensor, outputs_TBH: Tensor, memory: Memory) -> Tensor:
        """See ``Attention``."""
        weights_BTS: Tensor = self(outputs_TBH.transpose(0, 1), memory)[1]
        return weights_BTS

    def after_step(
        self, outputs_TBH: Tensor, encoded: Encoded, read_BI: Tensor | None, token_BO: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See ``Condition``."""
        assert encoded.memory is not None
        attended: Tensor = self(outputs_TBH.transpose(0, 1), encoded.memory)[0]
        return attended.transpose(0, 1), None

    def fed_inputs(self, encoded: Encoded) -> AttentionInputs:
        """Return the operands of all steps if the attentional output is an input of the next one."""
        memory = encoded.memory
        assert memory is not None
        of_outputs_HH = self.combine.weight[:, -self.combine.out_features :]
        return AttentionInputs(
            keys_NSH=memory.keys_BSH,
            values_NSI=memory.values_BSM,
            real_NS=memory.mask_BS,
            product_PH=torch.cat([self.query.weight, of_outputs_HH]) if self.sums else of_outputs_HH,
            vector_H=self.vector.weight[0] if self.sums else None,
            feeds_input=True,
            first_BI=encoded.carried_BH,
        )


class InputFeeding:
    """An attention whose output is also an input of the next step, zeros before the first (Luong et al. 2015, 3.3)."""

    replays = False

    def __init__(self, attention: LuongAttention, hidden_size: int) -> None:
        self.input_size = hidden_size
        self._attention = attention

    def inputs(self, encoded: Encoded) -> AttentionInputs:
        """See ``RecurrentCondition``."""
        return self._attention.fed_inputs(encoded)

    def features(self, outputs_TBH: Tensor, reads_TBI: Tensor, tokens: TokenOutputs) -> Tensor:
        """See ``RecurrentCondition``: the attentional outputs."""
        return reads_TBI

    def token_table(self, embedding_VE: Tensor) -> Tensor | None:
        """See ``Condition``."""
        return self._attention.token_table(embedding_VE)

    def before_step(self, encoded: Encoded) -> Tensor | None:
        """See ``Condition``."""
        return torch.zeros_like(encoded.state.h_LBH[-1]) if encoded.carried_BH is None else encoded.carried_BH

    def after_step(
        self, outputs_TBH: Tensor, encoded: Encoded, read_BI: Tensor | None, token_BO: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See ``Condition``."""
        attended_TBH, _ = self._attention.after_step(outputs_TBH, encoded, read_BI, token_BO)
        return attended_TBH, attended_TBH.squeeze(0)


class BahdanauAttention(Attention):
    """Additive attention that the recurrence reads, with its output layer (Bahdanau et al. 2015, appendix A).

    e_j = v . tanh(W s + U m_j) with s the top layer's output of the previous step; the memory averaged with the softmax
    of the e_j is the context c, an input of the first layer. The features are a maxout layer (Goodfellow et al. 2013),
    max of each pair of  U_o s' + V_o E y + C_o c + b,  s' the top layer's output of this step (equation 4; the appendix
    has s there), E y the embedding of the token fed.
    """

    replays = False

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        hidden_size, memory_size = sizes.hidden_size, sizes.memory_size
        self.input_size = memory_size
        self.keys = nn.Linear(memory_size, hidden_size, bias=False)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.vector = nn.Linear(hidden_size, 1, bias=False)
        self.state_output = nn.Linear(hidden_size, 2 * hidden_size)
        self.token_output = nn.Linear(sizes.embedding_size, 2 * hidden_size, bias=False)
        self.context_output = nn.Linear(memory_size, 2 * hidden_size, bias=False)

    def prepare(self, values_BSM: Tensor, mask_BS: Tensor | None) -> Memory:
        """See ``Attention``."""
        return Memory(values_BSM, self.keys(values_BSM), mask_BS)

    def context(self, state_BH: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return the context c [B, M] that a step after the state s reads, and the weights [B, S]."""
        queries = self.query(state_BH).view(len(memory.keys_BSH), -1, 1, memory.keys_BSH.shape[2])
        context, weights = _average(_scores_of_sums(queries, memory.keys_BSH, self.vector), memory)
        return context.flatten(0, 1), weights.flatten(0, 1)

    def output(self, state_BH: Tensor, token_BO: Tensor, context_BM: Tensor) -> Tensor:
        """Return the features [B, H]; ``token_BO`` is ``token_output`` of the embedding."""
        pairs_BO = self.state_output(state_BH) + token_BO + self.context_output(context_BM)
        features_BH: Tensor = pairs_BO.unflatten(1, (-1, 2)).amax(2)
        return features_BH

    def inputs(self, encoded: Encoded) -> AttentionInputs:
        """See ``RecurrentCondition``."""
        memory = encoded.memory
        assert memory is not None
        return AttentionInputs(
            keys_NSH=memory.keys_BSH,
            values_NSI=memory.values_BSM,
            real_NS=memory.mask_BS,
            product_PH=self.query.weight,
            vector_H=self.vector.weight[0],
        )

    def features(self, outputs_TBH: Tensor, reads_TBI: Tensor, tokens: TokenOutputs) -> Tensor:
        """See ``RecurrentCondition``."""
        assert tokens.table_VO is not None
        weights, bias_O = (self.state_output.weight, self.context_output.weight), self.state_output.bias
        table_VO = tokens.table_VO.to(torch.promote_types(tokens.table_VO.dtype, torch.float32))
        return run_maxout(outputs_TBH, reads_TBI, weights, bias_O, table_VO, tokens.ids_TB, tokens.scale_TB)

    def weights_along(self, before_TBH: Tensor, outputs_TBH: Tensor, memory: Memory) -> Tensor:
        """See ``Attention``."""
        return torch.stack([self.context(state_BH, memory)[1] for state_BH in before_TBH], 1)

    def token_table(self, embedding_VE: Tensor) -> Tensor | None:
        """See ``Condition``."""
        table_VO: Tensor = self.token_output(embedding_VE)
        return table_VO

    def before_step(self, encoded: Encoded) -> Tensor | None:
        """See ``Condition``."""
        assert encoded.memory is not None
        return self.context(encoded.state.h_LBH[-1], encoded.memory)[0]

    def after_step(
        self, outputs_TBH: Tensor, encoded: Encoded, read_BI: Tensor | None, token_BO: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See ``Condition``."""
        assert read_BI is not None and token_BO is not None
        return self.output(outputs_TBH.squeeze(0), token_BO, read_BI).unsqueeze(0), None


def _scores_of_sums(queries_BT1H: Tensor, keys_BSH: Tensor, vector: nn.Module) -> Tensor:
    """Return the scores [B, T, S] v . tanh(query + key); without gradients plus a constant, which softmax ignores.

    tanh x = 2 s(2 x) - 1, and torch's logistic function s is several times as fast as its tanh.
    """
    sums_BTSH = queries_BT1H + keys_BSH.unsqueeze(1)
    if torch.is_grad_enabled():
        scores_BTS: Tensor = vector(torch.tanh(sums_BTSH)).squeeze(3)
        return scores_BTS
    logistic_scores_BTS: Tensor = vector(sums_BTSH.mul_(2).sigmoid_()).squeeze(3)
    return logistic_scores_BTS.mul_(2)


def _average(scores_BTS: Tensor, memory: Memory, added_BTM: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the memory averaged with the softmax of the scores, [B, T, M], and the weights [B, T, S], 0 on padding.

    ``added_BTM`` is added within the matmul: in bf16 the sum is then rounded once.
    """
    if memory.mask_BS is not None:
        scores_BTS = scores_BTS.masked_fill(~memory.mask_BS.unsqueeze(1), float("-inf"))
    weights_BTS = torch.softmax(scores_BTS, dim=2)
    factors_BTS = weights_BTS.to(memory.values_BSM.dtype)
    if added_BTM is None:
        return torch.bmm(factors_BTS, memory.values_BSM), weights_BTS
    return torch.baddbmm(added_BTM, factors_BTS, memory.values_BSM), weights_BTS


_MODULES: Final[Mapping[str, Callable[[Architecture], Attention]]] = {
    "luong": LuongAttention,
    "bahdanau": BahdanauAttention,
}
"""The module of each ``AttentionSpec.kind``."""


def build_attention(sizes: Architecture) -> Attention | None:
    """Build the module of ``sizes.attention``; None if the decoder does not read the memory."""
    return _MODULES[sizes.attention_spec.kind](sizes) if sizes.attention_spec.reads_memory else None


def build_conditions(sizes: Architecture, attention: Attention | None) -> tuple[Condition, ...]:
    """Return what each step reads of the source, in the order of the first layer's inputs."""
    conditions: list[Condition] = []
    if sizes.every_step:
        conditions.append(SourceSummary(sizes.context_size))
    if isinstance(attention, LuongAttention) and sizes.input_feeding:
        conditions.append(InputFeeding(attention, sizes.hidden_size))
    elif attention is not None:
        conditions.append(attention)
    return tuple(conditions)
