"""The encoder with its bridge, as ONNX nodes: source ids to the decoder's first state and what it reads at every step.

Shape suffixes: B batch, S source, Q features of a source, I input, E embedding, H hidden, M memory, G gates x hidden, O
what the output layer begins with.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from freerun.architecture import Architecture
from freerun.onnx_export.attention_nodes import MASKED, attention_nodes
from freerun.onnx_export.cell_nodes import CELL_NODES, LayerState
from freerun.onnx_export.decoder_nodes import StepValues
from freerun.onnx_export.feature_nodes import feature_entries, feature_mask, feature_summary
from freerun.onnx_export.graph import FLOAT, INT32, INT64, Array, Graph, Value
from freerun.onnx_export.layer_nodes import by_operator, by_scan, input_gates, token_gates
from freerun.onnx_export.products import Arithmetic
from freerun.runtime.weights import LayerWeights, LinearWeights, ModelWeights

__all__ = ["EncoderValues", "SourceValues", "encode"]


@dataclass(frozen=True)
class SourceValues:
    """The sources of a batch, int64: ``ids`` [B, S], right-padded, of which ``lengths`` [B] are real.

    ``features`` [B, Q], right-padded, is empty if the model reads none.
    """

    ids: Value
    lengths: Value
    features: Value = ""

    @classmethod
    def inputs(cls, graph: Graph, sizes: Architecture) -> SourceValues:
        """Declare them as inputs of ``graph``."""
        ids, lengths = graph.input("source", INT64, ["B", "S"]), graph.input("lengths", INT64, ["B"])
        return cls(ids, lengths, graph.input("features", INT64, ["B", "Q"]) if sizes.has_features else "")


@dataclass(frozen=True)
class EncoderValues:
    """The decoder's first state, and the static tensors by name, see ``freerun.runtime.interface.statics_of``."""

    layers: list[LayerState]
    statics: dict[str, Value] = field(default_factory=dict)

    def state(self, graph: Graph, weights: ModelWeights) -> StepValues:
        """Return the decoder's first state; there was no attentional output before it, so that is 0."""
        h = self.layers[0][0]
        return StepValues(self.layers, graph.op("Sub", h, h) if weights.sizes.input_feeding else None)


def encode(graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, source: SourceValues) -> EncoderValues:
    """Read the sources of a batch."""
    tokens = graph.op("Transpose", source.ids, attributes={"perm": [1, 0]})
    lengths = graph.op("Cast", source.lengths, attributes={"to": INT32})
    summary = feature_summary(graph, weights, arithmetic, source.features)
    scans = arithmetic.scans or CELL_NODES[weights.sizes.cell].operator is None
    running = _running(graph, tokens, lengths) if scans else ""
    reads_memory = weights.sizes.attention_spec.reads_memory
    states: list[LayerState] = []
    values = ""
    for index in range(weights.sizes.num_layers):
        layer, name = _layer(weights, index), f"encoder.{index}"
        needs_outputs = index < weights.sizes.num_layers - 1 or reads_memory
        if scans:
            if index == 0:
                gates = _first_gates(graph, weights, arithmetic, tokens, summary)
            else:
                gates = input_gates(graph, arithmetic, name, layer, values)
            values, state = by_scan(graph, arithmetic, name, layer, gates, running, needs_outputs)
        else:
            if index == 0:
                values, layer = _first_inputs(graph, weights, arithmetic, tokens, summary)
            values, state = by_operator(graph, arithmetic, name, layer, values, lengths, needs_outputs)
        states.append(_bridged(graph, weights, arithmetic, index, state))
    statics = _context(graph, weights, arithmetic, states[-1][0], summary)
    if reads_memory:
        statics |= _memory(graph, weights, arithmetic, values, replace(source, lengths=lengths))
    return EncoderValues(states, statics)


def _layer(weights: ModelWeights, index: int) -> list[LayerWeights]:
    """Return a layer in its one or two directions."""
    stacks = ["encoder.forward_layers", *(["encoder.backward_layers"] if weights.sizes.bidirectional else [])]
    return [weights.layer(stack, index) for stack in stacks]


def _first_gates(
    graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, tokens: Value, summary: Value | None
) -> list[list[Value]]:
    """Return each direction's parts of the first layer's gates [S, B, ...] from tokens [S, B]."""
    layer, size = _layer(weights, 0), weights.sizes.embedding_size
    embedding = weights["encoder.embedding.weight"]
    gates = token_gates(graph, arithmetic, [one.reading(0, size) for one in layer], embedding, tokens)
    if summary is None:
        return gates
    features = [
        _summary_gates(graph, arithmetic, f"feature_gates.{direction}", one.inputs(size), summary)
        for direction, one in enumerate(layer)
    ]
    return [
        [graph.op("Add", *each) for each in zip(parts, added, strict=True)]
        for parts, added in zip(gates, features, strict=True)
    ]


def _summary_gates(
    graph: Graph, arithmetic: Arithmetic, name: str, parts: list[LinearWeights], summary: Value
) -> list[Value]:
    """Return the projection [B, ...] of the features' summary to each part of the gates, computed once."""
    weight = arithmetic.weight(graph, name, np.concatenate([part.weight for part in parts], axis=1), 0)
    return graph.split(graph.op("MatMul", summary, weight), [part.weight.shape[1] for part in parts])


def _first_inputs(
    graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, tokens: Value, summary: Value | None
) -> tuple[Value, list[LayerWeights]]:
    """Return the first layer's inputs [S, B, I], tokens [S, B] each with the summary, and the layer that reads them."""
    layer, size = _layer(weights, 0), weights.sizes.embedding_size
    values, readers = _tokens(graph, weights, arithmetic, tokens, [one.reading(0, size) for one in layer])
    if summary is None:
        return values, readers
    sizes = [graph.op("Shape", tokens, attributes={"start": 0, "end": 2})]
    sizes += [graph.op("Shape", summary, attributes={"start": 1, "end": 2})]
    inputs = graph.concat([values, graph.op("Expand", summary, graph.concat(sizes))])
    weights_ih = [
        np.concatenate([reader.weight_ih, one.weight_ih[:, size:]], axis=1)
        for reader, one in zip(readers, layer, strict=True)
    ]
    return inputs, [replace(one, weight_ih=weight_ih) for one, weight_ih in zip(layer, weights_ih, strict=True)]


def _tokens(
    graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, tokens: Value, layer: list[LayerWeights]
) -> tuple[Value, list[LayerWeights]]:
    """Return the inputs [S, B, I] from tokens [S, B], and the ``layer`` that reads only them.

    With a small vocabulary the embedding goes into the layer's weights, and its inputs are columns of the identity:
    fewer numbers to multiply, and to ship.
    """
    embedding = weights["encoder.embedding.weight"]
    if len(embedding) > embedding.shape[1]:
        return graph.op("Gather", arithmetic.weight(graph, "encoder.embedding", embedding, -1), tokens), layer
    layer = [replace(one, weight_ih=one.weight_ih @ embedding.T) for one in layer]
    return graph.op("Gather", graph.constant("identity", np.eye(len(embedding), dtype=np.float32)), tokens), layer


def _bridged(graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, index: int, state: LayerState) -> LayerState:
    """Return the decoder's first (h, c) of a layer: the encoder's, through a projection if sizes differ."""
    h, c = state
    if not weights.has(f"bridge.h.{index}.weight"):
        return state
    return (
        _projected(graph, weights, arithmetic, f"bridge.h.{index}", h),
        None if c is None else _projected(graph, weights, arithmetic, f"bridge.c.{index}", c),
    )


def _projected(graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, name: str, value: Value) -> Value:
    linear = weights.linear(name)
    assert linear.bias is not None
    weight = arithmetic.weight(graph, f"{name}.weight", linear.weight, 0)
    return graph.op("Gemm", value, weight, graph.constant(f"{name}.bias", linear.bias))


def _context(
    graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, context: Value, summary: Value | None
) -> dict[str, Value]:
    """Return what context and features' summary add to gates and output at every step, computed once."""
    sizes = weights.sizes
    vectors = [*([] if summary is None else [summary]), *([context] if sizes.every_step else [])]
    if not vectors:
        return {}
    first = weights.layer("decoder.layers", 0).inputs(sizes.embedding_size, sizes.known_size)
    gates = np.concatenate([part.weight for part in first], axis=1)

    def product(name: str, vector: Value, weight: Array) -> Value:
        return graph.op("MatMul", vector, arithmetic.weight(graph, name, weight, 0))

    statics = {"context_gates": product("context_gates", graph.concat(vectors), gates)}
    if sizes.every_step:
        projected = weights.has("decoder.projection.weight")
        output = weights["decoder.projection.weight" if projected else _output(weights)]
        statics["context_output"] = product("context_output", context, output[:, sizes.hidden_size :].T)
    return statics


def _output(weights: ModelWeights) -> str:
    return "decoder.embedding.weight" if weights.sizes.tied_output else "decoder.output_weight"


def _memory(
    graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, values: Value, source: SourceValues
) -> dict[str, Value]:
    """Return what attention averages, what it compares with, and what it adds to the scores of padding."""
    memory = outputs = graph.op("Transpose", values, attributes={"perm": [1, 0, 2]})
    if weights.sizes.has_feature_entries:
        entries = feature_entries(graph, weights, arithmetic, source.features)
        memory = graph.op("Concat", outputs, entries, attributes={"axis": 1})
    keys = attention_nodes(weights, arithmetic).keys(graph, memory)
    mask = _mask(graph, outputs, source.lengths)
    if weights.sizes.has_feature_entries:
        mask = graph.concat([mask, feature_mask(graph, source.features)])
    return {"memory": memory, "keys": keys, "mask": mask}


def _running(graph: Graph, tokens: Value, lengths: Value) -> Value:
    """Return [S, B, 1]: True on real positions of ``tokens`` [S, B]."""
    positions = graph.op("Unsqueeze", _positions(graph, tokens, 0), graph.ints(1, 2))
    return graph.op("Less", positions, graph.op("Unsqueeze", lengths, graph.ints(1)))


def _mask(graph: Graph, memory: Value, lengths: Value) -> Value:
    """Return [B, 1, S]: 0 on real positions, ``MASKED`` on padding."""
    positions = _positions(graph, memory, 1)
    padding = graph.op("GreaterOrEqual", positions, graph.op("Unsqueeze", lengths, graph.ints(1, 2)))
    padding = graph.op("Cast", padding, attributes={"to": FLOAT})
    return graph.op("Mul", padding, graph.scalar(MASKED, np.float32))


def _positions(graph: Graph, values: Value, axis: int) -> Value:
    """Return 0, 1, 2, ... along an axis of ``values``, int32."""
    size = graph.op("Shape", values, attributes={"start": axis, "end": axis + 1})
    size = graph.op("Cast", graph.op("Squeeze", size), attributes={"to": INT32})
    return graph.op("Range", graph.scalar(0, np.int32), size, graph.scalar(1, np.int32))
