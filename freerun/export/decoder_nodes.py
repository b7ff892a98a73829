"""One step of the decoder, as ONNX nodes.

Every vector that a step makes is multiplied by several constant weights: a layer's output h by the recurrent weights of
the next step, and by what the layer above, attention or the output layer want of it. What the *next* step wants is
either computed there, from the state (``DecoderStep.wanted``), or together with what this step wants, in one product,
and handed on: a loop does that, for a small product costs as much as a large one's share.

Legend: N rows, V vocabulary, H hidden, M memory, G gates x hidden, O what the output layer begins with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from freerun.export.attention_nodes import read_memory
from freerun.export.cell_nodes import CELLS, LayerState, part_widths
from freerun.export.entry_nodes import Entries
from freerun.export.graph import Graph, Value
from freerun.export.products import Arithmetic, Fp32, several
from freerun.export.weights import Linear, ModelWeights

__all__ = ["DecoderStep", "State"]


@dataclass(frozen=True)
class State:
    """What a step leaves to the next one.

    ``layers``: (h, c) of each. ``attended``: the attentional output [N, H], where it is fed in again. ``wanted``: for
    each layer, then for ``attended``, its products that the next step wants; empty where they are still to be made.
    """

    layers: list[LayerState]
    attended: Value | None = None
    wanted: list[list[Value]] = field(default_factory=list)

    def values(self) -> list[Value]:
        """All tensors of it, in one order: the h, the c, the attentional output, the wanted products."""
        cells = [c for _, c in self.layers if c is not None]
        attended = [] if self.attended is None else [self.attended]
        return [*(h for h, _ in self.layers), *cells, *attended, *(value for each in self.wanted for value in each)]

    def like(self, values: list[Value]) -> State:
        """A state of the same parts, made of other ``values``, which stand in the order of ``values()``."""
        rest = iter(values)
        hidden = [next(rest) for _ in self.layers]
        layers = [(h, None if c is None else next(rest)) for h, (_, c) in zip(hidden, self.layers, strict=True)]
        attended = None if self.attended is None else next(rest)
        return State(layers, attended, [[next(rest) for _ in each] for each in self.wanted])


class DecoderStep:
    """The decoder of ``freerun.models.decoder``, written into a graph.

    ``arithmetic`` is for products of bounded vectors: averages of the memory and attentional outputs are within
    [-1, 1], outputs of layers within [-limit, limit] (1 unless the bridge has projections, whose outputs have no
    bound).
    """

    def __init__(self, weights: ModelWeights, arithmetic: Arithmetic, limit: float = 1.0) -> None:
        self.sizes = weights.sizes
        self._limit = limit
        self._weights = weights
        self._arithmetic = arithmetic
        self._layers = [weights.layer("decoder.layers", index) for index in range(self.sizes.num_layers)]
        self._bahdanau = self.sizes.attention == "bahdanau"
        self._luong = self.sizes.attention not in ("none", "bahdanau")

    def wanted(self, graph: Graph, state: State, hand_on: bool) -> State:
        """``state`` with the products that the next step wants of it; ``hand_on`` as that step has it.

        With ``hand_on`` they are made by the weights that all steps of the loop use, though it is too much for this
        once: then those weights are stored, and read, only once.
        """
        vectors = [h for h, _ in state.layers] + ([] if state.attended is None else [state.attended])
        if hand_on:
            found = [self._products(graph, index, vector, hand_on)[1] for index, vector in enumerate(vectors)]
            return State(state.layers, state.attended, found)
        found = [
            several(graph, self._arithmetic, f"next.{index}", vector, self._for_next(index), self._limit_of(index))
            for index, vector in enumerate(vectors)
        ]
        return State(state.layers, state.attended, found)

    def step(
        self, graph: Graph, tokens: Value, state: State, statics: Mapping[str, Value], entries: Entries, hand_on: bool
    ) -> tuple[Value, State]:
        """Feed ``tokens`` [N]; ``state`` with its wanted products.

        Returns:
            Logits [N, V] and the state after, with products for the next step if ``hand_on``.
        """
        gates, read = self._gates(graph, tokens, state, statics, entries)
        layers: list[LayerState] = []
        wanted: list[list[Value]] = []
        now = gates
        cell, size = CELLS[self.sizes.cell], self.sizes.hidden_size
        for index, before in enumerate(state.layers):
            layers.append(cell(graph, now, state.wanted[index], before, size))
            now, later = self._products(graph, index, layers[-1][0], hand_on)
            wanted.append(later)
        top, attended = self._features(graph, tokens, layers[-1][0], now, read, statics, entries)
        if self._luong:
            now, later = self._products(graph, self.sizes.num_layers, top, hand_on)
            wanted.append(later)
        elif self._bahdanau:
            now = several(graph, Fp32(), "output", top, [self._output()])  # maxout is not bounded
        after = State(layers, attended, wanted[: len(layers) + (attended is not None)] if hand_on else [])
        return self._logits(graph, now[0], statics, entries), after

    def _products(self, graph: Graph, index: int, vector: Value, hand_on: bool) -> tuple[list[Value], list[Value]]:
        """What this step wants of a vector, and what the next one does (nothing unless ``hand_on``)."""
        now, later = self._for_now(index), self._for_next(index) if hand_on else []
        found = several(
            graph,
            self._arithmetic,
            f"{'both' if later else 'now'}.{index}",
            vector,
            [*later, *now],
            self._limit_of(index),
        )
        return found[len(later) :], found[: len(later)]

    def _limit_of(self, index: int) -> float:
        """Of a layer's output; index L: of the attentional output."""
        return self._limit if index < self.sizes.num_layers else 1.0

    def _for_next(self, index: int) -> list[Linear]:
        """What the next step multiplies a layer's output by; index L, after the layers: the attentional output."""
        if index == self.sizes.num_layers:
            return self._attended_gates() if self.sizes.input_feeding else []
        recurrent = self._layers[index].recurrent()
        query = self._bahdanau and index == self.sizes.num_layers - 1
        return [*recurrent, self._weights.linear("decoder.attention.query")] if query else recurrent

    def _for_now(self, index: int) -> list[Linear]:
        """What this step multiplies it by."""
        if index < self.sizes.num_layers - 1:
            return self._layers[index + 1].inputs_and_bias()
        if index == self.sizes.num_layers or self.sizes.attention == "none":
            return [self._output()]
        if self._bahdanau:
            return [_pairs_apart(self._weights.linear("decoder.attention.state_output"))]
        combined = Linear(self._weights["decoder.attention.combine.weight"][:, self.sizes.memory_size :].T)
        concat = self.sizes.attention == "concat"
        return [combined, self._weights.linear("decoder.attention.query")] if concat else [combined]

    def _gates(
        self, graph: Graph, tokens: Value, state: State, statics: Mapping[str, Value], entries: Entries
    ) -> tuple[list[Value], Value | None]:
        """The parts of the first layer's gates, and what Bahdanau's output layer wants of the memory.

        A token's share is a row of a table: embedding and bias multiplied out.
        """
        gates = self._token_gates(graph, tokens)
        if self.sizes.every_step:
            widths = part_widths(self.sizes.cell, self.sizes.hidden_size)
            context = graph.split(statics["context_gates"], widths)
            gates = [entries.add(graph, *each) for each in zip(gates, context, widths, strict=True)]
        read = None
        if self._bahdanau:
            average = read_memory(graph, self._weights, entries, state.wanted[-1][-1], statics)
            output = _pairs_apart(self._weights.linear("decoder.attention.context_output"))
            *shares, read = several(graph, self._arithmetic, "read", average, [*self._attended_gates(), output])
        else:
            shares = [] if state.attended is None else state.wanted[-1]
        if shares:
            gates = [graph.op("Add", *each) for each in zip(gates, shares, strict=True)]
        return gates, read

    def _token_gates(self, graph: Graph, tokens: Value) -> list[Value]:
        first, embedding = self._layers[0], self._weights["decoder.embedding.weight"]
        parts = zip(first.inputs(0, self.sizes.embedding_size), first.bias(), strict=True)
        tables = [embedding @ part.weight + bias for part, bias in parts]
        return [
            graph.op("Gather", graph.constant(f"token_gates.{number}", table), tokens)
            for number, table in enumerate(tables)
        ]

    def _attended_gates(self) -> list[Linear]:
        """From what attention gave to the parts of the first layer's gates."""
        return self._layers[0].inputs(self.sizes.known_size)

    def _features(
        self,
        graph: Graph,
        tokens: Value,
        h: Value,
        now: list[Value],
        read: Value | None,
        statics: Mapping[str, Value],
        entries: Entries,
    ) -> tuple[Value, Value | None]:
        """What the output layer reads [N, H], from the top ``h`` and its products ``now``; and what is fed again."""
        if self._luong:
            query = now[1] if self.sizes.attention == "concat" else h
            average = read_memory(graph, self._weights, entries, query, statics)
            weight = self._weights["decoder.attention.combine.weight"][:, : self.sizes.memory_size].T
            share = self._arithmetic.product(graph, "combine", average, Linear(weight))
            top = graph.op("Tanh", graph.op("Add", now[0], share))
            return top, top if self.sizes.input_feeding else None
        if self._bahdanau:
            output = _pairs_apart(self._weights.linear("decoder.attention.token_output"))
            table = self._weights["decoder.embedding.weight"] @ output.weight
            token = graph.op("Gather", graph.constant("token_outputs", table), tokens)
            assert read is not None
            pairs = graph.op("Add", graph.op("Add", now[0], token), read)
            return graph.op("Max", *graph.split(pairs, [self.sizes.hidden_size] * 2)), None
        return h, None

    def _output(self) -> Linear:
        """What the features are multiplied by first: the output layer [H, V], or the projection before it [H, E]."""
        size = self.sizes.hidden_size
        if self._weights.has("decoder.projection.weight"):
            return Linear(self._weights["decoder.projection.weight"][:, :size].T)
        name = "decoder.embedding.weight" if self.sizes.tied_output else "decoder.output_weight"
        return Linear(self._weights[name][:, :size].T, self._weights["decoder.output_bias"])

    def _logits(self, graph: Graph, output: Value, statics: Mapping[str, Value], entries: Entries) -> Value:
        """Logits [N, V] from the features' product with ``_output``."""
        projected = self._weights.has("decoder.projection.weight")
        if self.sizes.every_step:
            size = self.sizes.embedding_size if projected else self.sizes.target_vocabulary
            output = entries.add(graph, output, statics["context_output"], size)
        if projected:
            linear = Linear(self._weights["decoder.embedding.weight"].T, self._weights["decoder.output_bias"])
            output = Fp32().product(graph, "tied", output, linear)
        return output


def _pairs_apart(linear: Linear) -> Linear:
    """Columns 0, 2, 4, ... before 1, 3, 5, ...: a maxout of neighbours becomes one of two halves."""
    order = np.concatenate([np.arange(0, linear.weight.shape[1], 2), np.arange(1, linear.weight.shape[1], 2)])
    return Linear(linear.weight[:, order], None if linear.bias is None else linear.bias[order])
