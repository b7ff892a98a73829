"""Attention as ONNX nodes (Luong, Pham & Manning 2015; Bahdanau, Cho & Bengio 2015, appendix A).

``attention_nodes`` gives the nodes of each kind of attention in ``freerun.architecture``. Shape suffixes: N rows, E
entries (one per source), R rows of each, B batch, S source, V vocabulary, H decoder, M memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from freerun.onnx_export.entry_nodes import Entries
from freerun.onnx_export.graph import Graph, Value
from freerun.onnx_export.products import Arithmetic, several
from freerun.runtime.weights import LinearWeights, ModelWeights, pairs_apart

__all__ = ["MASKED", "AttentionNodes", "StepContext", "attention_nodes"]

_PREFIX: Final = "decoder.attention"
MASKED: Final = -1e30
"""Added to the score of padding: its weight becomes 0."""


@dataclass(frozen=True)
class StepContext:
    """The graph that a step is written into, its static tensors by name, and how rows find their entry in them."""

    graph: Graph
    statics: Mapping[str, Value]
    entries: Entries


class AttentionNodes:
    """The decoder without attention; each kind of attention overrides what it does.

    ``is_bounded``: the features of ``after_step`` are within [-1, 1], so that int8 can multiply them.
    """

    is_bounded = True

    def __init__(self, weights: ModelWeights, arithmetic: Arithmetic) -> None:
        self.weights = weights
        self.arithmetic = arithmetic
        self.sizes = weights.sizes

    def keys(self, graph: Graph, memory: Value) -> Value:
        """Return what queries are compared with, from ``memory`` [B, S, M]: [B, H, S], or [B, 1, S, H] for sums."""
        keys = memory
        if self.weights.has(f"{_PREFIX}.keys.weight"):
            keys = graph.op(
                "MatMul", memory, self.arithmetic.weight(graph, "attention.keys", self.weights.attention_keys(), 0)
            )
        if self.sizes.attention_spec.sums:
            return graph.op("Unsqueeze", keys, graph.ints(1))
        return graph.op("Transpose", keys, attributes={"perm": [0, 2, 1]})

    def of_next_step(self) -> list[LinearWeights]:
        """Return what the next step multiplies the top layer's output by, in addition to the recurrent weights."""
        return []

    def of_this_step(self) -> list[LinearWeights]:
        """Return what this step multiplies the top layer's output by; nothing: it goes to the output layer."""
        return []

    def before_step(
        self, at: StepContext, products: Sequence[Value], gates: Sequence[LinearWeights]
    ) -> tuple[list[Value], Value | None]:
        """Return what is added to each part of the first layer's gates, and what ``after_step`` needs.

        ``products`` are those of ``of_next_step`` with the previous output; ``gates`` the first layer's weights for
        what attention computes.
        """
        return [], None

    def after_step(
        self, at: StepContext, tokens: Value, h: Value, products: Sequence[Value], read: Value | None
    ) -> Value | None:
        """Return the features [N, H] from the top ``h`` and the ``products`` of ``of_this_step``; None: they are h."""
        return None

    def average(self, at: StepContext, query: Value) -> Value:
        """Return the memory [N, M], averaged with the softmax of its scores for ``query`` [N, H].

        Scores are query . key, or v . tanh(query + key); they are float32 whatever the arithmetic of matmuls with
        weights, because neither factor is constant.
        """
        graph = at.graph
        by_entry = at.entries.grouped(graph, query, self.sizes.hidden_size)
        if self.sizes.attention_spec.sums:
            vector = graph.constant("attention.vector", self.weights[f"{_PREFIX}.vector.weight"].T)
            joined = graph.op("Add", graph.op("Unsqueeze", by_entry, graph.ints(2)), at.statics["keys"])  # [E, R, S, H]
            scores = graph.op("Squeeze", graph.op("MatMul", graph.op("Tanh", joined), vector), graph.ints(3))
        else:
            scores = graph.op("MatMul", by_entry, at.statics["keys"])  # [E, R, S]
        factors = graph.op("Softmax", graph.op("Add", scores, at.statics["mask"]), attributes={"axis": -1})
        return at.entries.flat(graph, graph.op("MatMul", factors, at.statics["memory"]), self.sizes.memory_size)


class LuongNodes(AttentionNodes):
    """After the recurrence: h~ = tanh(W_c [c; h]), equations 5 to 8."""

    def of_this_step(self) -> list[LinearWeights]:
        """See ``AttentionNodes``."""
        combined = LinearWeights(self.weights[f"{_PREFIX}.combine.weight"][:, self.sizes.memory_size :].T)
        return [combined, self.weights.linear(f"{_PREFIX}.query")] if self.sizes.attention_spec.sums else [combined]

    def after_step(
        self, at: StepContext, tokens: Value, h: Value, products: Sequence[Value], read: Value | None
    ) -> Value | None:
        """See ``AttentionNodes``."""
        query = products[1] if self.sizes.attention_spec.sums else h
        average = self.average(at, query)
        weight = self.weights[f"{_PREFIX}.combine.weight"][:, : self.sizes.memory_size].T
        context = self.arithmetic.product(at.graph, "combine", average, LinearWeights(weight))
        return at.graph.op("Tanh", at.graph.op("Add", products[0], context))


class BahdanauNodes(AttentionNodes):
    """Within the recurrence, with a maxout layer, which has no bound."""

    is_bounded = False

    def of_next_step(self) -> list[LinearWeights]:
        """See ``AttentionNodes``."""
        return [self.weights.linear(f"{_PREFIX}.query")]

    def of_this_step(self) -> list[LinearWeights]:
        """See ``AttentionNodes``."""
        return [pairs_apart(self.weights.linear(f"{_PREFIX}.state_output"))]

    def before_step(
        self, at: StepContext, products: Sequence[Value], gates: Sequence[LinearWeights]
    ) -> tuple[list[Value], Value | None]:
        """See ``AttentionNodes``."""
        average = self.average(at, products[0])
        output = pairs_apart(self.weights.linear(f"{_PREFIX}.context_output"))
        *parts, read = several(at.graph, self.arithmetic, "read", average, [*gates, output])
        return parts, read

    def after_step(
        self, at: StepContext, tokens: Value, h: Value, products: Sequence[Value], read: Value | None
    ) -> Value | None:
        """See ``AttentionNodes``."""
        assert read is not None
        graph = at.graph
        output = pairs_apart(self.weights.linear(f"{_PREFIX}.token_output"))
        table = self.weights["decoder.embedding.weight"] @ output.weight
        token = graph.op("Gather", graph.constant("token_outputs", table), tokens)
        pairs = graph.op("Add", graph.op("Add", products[0], token), read)
        return graph.op("Max", *graph.split(pairs, [self.sizes.hidden_size] * 2))


_NODES: Final[Mapping[str, type[AttentionNodes]]] = {
    "none": AttentionNodes,
    "luong": LuongNodes,
    "bahdanau": BahdanauNodes,
}
"""The nodes of each ``AttentionSpec.kind``."""


def attention_nodes(weights: ModelWeights, arithmetic: Arithmetic) -> AttentionNodes:
    """Return the nodes of a model's attention."""
    return _NODES[weights.sizes.attention_spec.kind](weights, arithmetic)
