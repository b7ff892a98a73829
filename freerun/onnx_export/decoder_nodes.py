"""One step of the decoder, as ONNX nodes.

Every vector that a step computes is multiplied by several constant weights: a layer's output h by the recurrent weights
of the next step, and by what the layer above, attention or the output layer needs of it. What the *next* step needs is
either computed there, from the state (``DecoderStep.precompute``), or together with what this step needs, in one
matmul, and carried over (``precompute_next``): a loop does that, because a small matmul costs as much as its part of a
large one.

Shape suffixes: N rows, V vocabulary, H hidden, M memory, G gates x hidden, O what the output layer begins with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from freerun.onnx_export.attention_nodes import StepContext, attention_nodes
from freerun.onnx_export.cell_nodes import CELL_NODES, LayerState
from freerun.onnx_export.entry_nodes import Entries
from freerun.onnx_export.graph import Graph, Value
from freerun.onnx_export.products import Arithmetic, Fp32, several
from freerun.runtime.weights import LinearWeights, ModelWeights, part_widths

__all__ = ["DecoderStep", "StepValues"]


@dataclass(frozen=True)
class StepValues:
    """The values that a step passes to the next one.

    ``layers``: (h, c) of each. ``attended``: the attentional output [N, H], if it is fed in again. ``precomputed``: for
    each layer, then for ``attended``, its matmuls that the next step needs; empty if they are still to be computed.
    """

    layers: list[LayerState]
    attended: Value | None = None
    precomputed: list[list[Value]] = field(default_factory=list)

    def values(self) -> list[Value]:
        """Return all its tensors, in one order: the h, the c, the attentional output, the precomputed matmuls."""
        cells = [c for _, c in self.layers if c is not None]
        attended = [] if self.attended is None else [self.attended]
        return [
            *(h for h, _ in self.layers),
            *cells,
            *attended,
            *(value for each in self.precomputed for value in each),
        ]

    def like(self, values: list[Value]) -> StepValues:
        """Return a state of the same parts with other ``values``, in the order of ``values()``."""
        rest = iter(values)
        hidden = [next(rest) for _ in self.layers]
        layers = [(h, None if c is None else next(rest)) for h, (_, c) in zip(hidden, self.layers, strict=True)]
        attended = None if self.attended is None else next(rest)
        return StepValues(layers, attended, [[next(rest) for _ in each] for each in self.precomputed])


class DecoderStep:
    """The decoder of ``freerun.models.decoder``, written into a graph.

    ``arithmetic`` is for matmuls with bounded vectors: averages of the memory and attentional outputs are within
    [-1, 1], outputs of layers within [-limit, limit] (1 unless the bridge has projections, whose outputs have no
    bound).
    """

    def __init__(self, weights: ModelWeights, arithmetic: Arithmetic, limit: float = 1.0) -> None:
        self.sizes = weights.sizes
        self._limit = limit
        self._weights = weights
        self._arithmetic = arithmetic
        self._layers = [weights.layer("decoder.layers", index) for index in range(self.sizes.num_layers)]
        self._attention = attention_nodes(weights, arithmetic)

    def precompute(self, graph: Graph, state: StepValues, precompute_next: bool) -> StepValues:
        """Return ``state`` with the matmuls that the next step needs of it; ``precompute_next`` as in that step.

        With ``precompute_next`` they use the weights that all steps of the loop use, though this once it is too much:
        then those weights are stored, and read, only once.
        """
        vectors = [h for h, _ in state.layers] + ([] if state.attended is None else [state.attended])
        products = [
            self._products(graph, index, vector, precompute_next)[1]
            if precompute_next
            else several(graph, self._arithmetic, f"next.{index}", vector, self._for_next(index), self._limit_of(index))
            for index, vector in enumerate(vectors)
        ]
        return StepValues(state.layers, state.attended, products)

    def step(
        self,
        graph: Graph,
        tokens: Value,
        state: StepValues,
        statics: Mapping[str, Value],
        entries: Entries,
        precompute_next: bool,
    ) -> tuple[Value, StepValues]:
        """Feed ``tokens`` [N]; ``state`` with its precomputed matmuls.

        Returns:
            Logits [N, V] and the state after, with matmuls for the next step if ``precompute_next``.
        """
        at = StepContext(graph, statics, entries)
        gates, read = self._gates(at, tokens, state)
        layers: list[LayerState] = []
        precomputed: list[list[Value]] = []
        now = gates
        cell, size = CELL_NODES[self.sizes.cell], self.sizes.hidden_size
        for index, before in enumerate(state.layers):
            layers.append(cell.step(graph, now, state.precomputed[index], before, size))
            now, later = self._products(graph, index, layers[-1][0], precompute_next)
            precomputed.append(later)
        top = self._attention.after_step(at, tokens, layers[-1][0], now, read)
        if top is not None and self._attention.is_bounded:
            now, later = self._products(graph, self.sizes.num_layers, top, precompute_next)
            precomputed.append(later)
        elif top is not None:
            now = several(graph, Fp32(), "output", top, [self._output()])
        attended = top if self.sizes.input_feeding else None
        after = StepValues(
            layers, attended, precomputed[: len(layers) + (attended is not None)] if precompute_next else []
        )
        return self._logits(graph, now[0], statics, entries), after

    def _products(
        self, graph: Graph, index: int, vector: Value, precompute_next: bool
    ) -> tuple[list[Value], list[Value]]:
        """Return what this step needs of a vector, and what the next one does (nothing unless ``precompute_next``)."""
        now, later = self._for_now(index), self._for_next(index) if precompute_next else []
        products = several(
            graph,
            self._arithmetic,
            f"{'both' if later else 'now'}.{index}",
            vector,
            [*later, *now],
            self._limit_of(index),
        )
        return products[len(later) :], products[: len(later)]

    def _limit_of(self, index: int) -> float:
        """Return the bound of a layer's output; index L: of the attentional output."""
        return self._limit if index < self.sizes.num_layers else 1.0

    def _for_next(self, index: int) -> list[LinearWeights]:
        """Return what the next step multiplies a layer's output by; index L: the attentional output."""
        if index == self.sizes.num_layers:
            return self._attended_gates() if self.sizes.input_feeding else []
        is_top = index == self.sizes.num_layers - 1
        return [*self._layers[index].recurrent(), *(self._attention.of_next_step() if is_top else [])]

    def _for_now(self, index: int) -> list[LinearWeights]:
        """Return what this step multiplies it by."""
        if index < self.sizes.num_layers - 1:
            return self._layers[index + 1].inputs_and_bias()
        if index == self.sizes.num_layers:
            return [self._output()]
        return self._attention.of_this_step() or [self._output()]

    def _gates(self, at: StepContext, tokens: Value, state: StepValues) -> tuple[list[Value], Value | None]:
        """Return the parts of the first layer's gates, and what the attention needs after the step.

        A token's projection is a row of a table: embedding and bias multiplied out.
        """
        gates = self._token_gates(at.graph, tokens)
        if "context_gates" in at.statics:
            widths = part_widths(self.sizes.cell, self.sizes.hidden_size)
            context = at.graph.split(at.statics["context_gates"], widths)
            gates = [at.entries.add(at.graph, *each) for each in zip(gates, context, widths, strict=True)]
        queries = state.precomputed[self.sizes.num_layers - 1][len(self._layers[-1].recurrent()) :]
        parts, read = self._attention.before_step(at, queries, self._attended_gates())
        if state.attended is not None:
            parts = state.precomputed[-1]
        if parts:
            gates = [at.graph.op("Add", *each) for each in zip(gates, parts, strict=True)]
        return gates, read

    def _token_gates(self, graph: Graph, tokens: Value) -> list[Value]:
        first, embedding = self._layers[0], self._weights["decoder.embedding.weight"]
        parts = zip(first.inputs(0, self.sizes.embedding_size), first.bias(), strict=True)
        tables = [embedding @ part.weight + bias for part, bias in parts]
        return [
            graph.op("Gather", graph.constant(f"token_gates.{number}", table), tokens)
            for number, table in enumerate(tables)
        ]

    def _attended_gates(self) -> list[LinearWeights]:
        """Return the first layer's weights for what attention computed."""
        return self._layers[0].inputs(self.sizes.known_size)

    def _output(self) -> LinearWeights:
        """Return what multiplies the features first: the output layer [H, V], or the projection before it [H, E]."""
        size = self.sizes.hidden_size
        if self._weights.has("decoder.projection.weight"):
            return LinearWeights(self._weights["decoder.projection.weight"][:, :size].T)
        name = "decoder.embedding.weight" if self.sizes.tied_output else "decoder.output_weight"
        return LinearWeights(self._weights[name][:, :size].T, self._weights["decoder.output_bias"])

    def _logits(self, graph: Graph, output: Value, statics: Mapping[str, Value], entries: Entries) -> Value:
        """Return the logits [N, V] from the features' matmul with ``_output``."""
        projected = self._weights.has("decoder.projection.weight")
        if self.sizes.every_step:
            size = self.sizes.embedding_size if projected else self.sizes.target_vocabulary
            output = entries.add(graph, output, statics["context_output"], size)
        if projected:
            linear = LinearWeights(self._weights["decoder.embedding.weight"].T, self._weights["decoder.output_bias"])
            output = Fp32().product(graph, "tied", output, linear)
        return output
