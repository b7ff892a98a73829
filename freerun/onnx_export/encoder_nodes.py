"""The encoder with its bridge, as ONNX nodes: source ids to the decoder's first state and what it reads at every step.

Shape suffixes: B batch, S source, I input, H hidden, M memory, G gates x hidden, O what the output layer begins with.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from freerun.onnx_export.attention_nodes import attention_nodes
from freerun.onnx_export.cell_nodes import CELL_NODES, LayerState
from freerun.onnx_export.decoder_nodes import StepValues
from freerun.onnx_export.graph import FLOAT, INT32, Graph, Value
from freerun.onnx_export.layer_nodes import by_operator, by_scan, input_gates, token_gates
from freerun.onnx_export.products import Arithmetic
from freerun.onnx_export.weights import LayerWeights, ModelWeights

__all__ = ["EncoderValues", "encode"]

_MASKED: Final = -1e30
"""Added to the score of padding: its weight becomes 0."""


@dataclass(frozen=True)
class EncoderValues:
    """The decoder's first state, and the static tensors by name, see ``freerun.runtime.interface.statics_of``."""

    layers: list[LayerState]
    statics: dict[str, Value] = field(default_factory=dict)

    def state(self, graph: Graph, weights: ModelWeights) -> StepValues:
        """Return the decoder's first state; there was no attentional output before it, so that is 0."""
        h = self.layers[0][0]
        return StepValues(self.layers, graph.op("Sub", h, h) if weights.sizes.input_feeding else None)


def encode(graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, source: Value, lengths: Value) -> EncoderValues:
    """Read ``source`` [B, S], right-padded, of which ``lengths`` [B] are real (int64 both)."""
    tokens = graph.op("Transpose", source, attributes={"perm": [1, 0]})
    lengths = graph.op("Cast", lengths, attributes={"to": INT32})
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
                gates = token_gates(graph, arithmetic, layer, weights["encoder.embedding.weight"], tokens)
            else:
                gates = input_gates(graph, arithmetic, name, layer, values)
            values, state = by_scan(graph, arithmetic, name, layer, gates, running, needs_outputs)
        else:
            if index == 0:
                values, layer = _tokens(graph, weights, arithmetic, tokens)
            values, state = by_operator(graph, arithmetic, name, layer, values, lengths, needs_outputs)
        states.append(_bridged(graph, weights, arithmetic, index, state))
    statics = _context(graph, weights, arithmetic, states[-1][0])
    if reads_memory:
        statics |= _memory(graph, weights, arithmetic, values, lengths)
    return EncoderValues(states, statics)


def _layer(weights: ModelWeights, index: int) -> list[LayerWeights]:
    """Return a layer in its one or two directions."""
    stacks = ["encoder.forward_layers", *(["encoder.backward_layers"] if weights.sizes.bidirectional else [])]
    return [weights.layer(stack, index) for stack in stacks]


def _tokens(
    graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, tokens: Value
) -> tuple[Value, list[LayerWeights]]:
    """Return the first layer's inputs [S, B, I] from tokens [S, B], and the layer.

    With a small vocabulary the embedding goes into the layer's weights, and its inputs are columns of the identity:
    fewer numbers to multiply, and to ship.
    """
    layer, embedding = _layer(weights, 0), weights["encoder.embedding.weight"]
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


def _context(graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, context: Value) -> dict[str, Value]:
    """Return what a context that is read at every step adds to gates and output, computed once."""
    sizes = weights.sizes
    if not sizes.every_step:
        return {}
    first = weights.layer("decoder.layers", 0).inputs(sizes.embedding_size, sizes.known_size)
    gates = np.concatenate([part.weight for part in first], axis=1)
    output = (
        weights["decoder.projection.weight"] if weights.has("decoder.projection.weight") else weights[_output(weights)]
    )
    parts = {"context_gates": gates, "context_output": output[:, sizes.hidden_size :].T}
    return {
        name: graph.op("MatMul", context, arithmetic.weight(graph, name, weight, 0)) for name, weight in parts.items()
    }


def _output(weights: ModelWeights) -> str:
    return "decoder.embedding.weight" if weights.sizes.tied_output else "decoder.output_weight"


def _memory(
    graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, values: Value, lengths: Value
) -> dict[str, Value]:
    """Return what attention averages, what it compares with, and what it adds to the scores of padding."""
    memory = graph.op("Transpose", values, attributes={"perm": [1, 0, 2]})
    keys = attention_nodes(weights, arithmetic).keys(graph, memory)
    return {"memory": memory, "keys": keys, "mask": _mask(graph, memory, lengths)}


def _running(graph: Graph, tokens: Value, lengths: Value) -> Value:
    """Return [S, B, 1]: True on real positions of ``tokens`` [S, B]."""
    positions = graph.op("Unsqueeze", _positions(graph, tokens, 0), graph.ints(1, 2))
    return graph.op("Less", positions, graph.op("Unsqueeze", lengths, graph.ints(1)))


def _mask(graph: Graph, memory: Value, lengths: Value) -> Value:
    """Return [B, 1, S]: 0 on real positions, ``_MASKED`` on padding."""
    positions = _positions(graph, memory, 1)
    padding = graph.op("GreaterOrEqual", positions, graph.op("Unsqueeze", lengths, graph.ints(1, 2)))
    padding = graph.op("Cast", padding, attributes={"to": FLOAT})
    return graph.op("Mul", padding, graph.scalar(_MASKED, np.float32))


def _positions(graph: Graph, values: Value, axis: int) -> Value:
    """Return 0, 1, 2, ... along an axis of ``values``, int32."""
    size = graph.op("Shape", values, attributes={"start": axis, "end": axis + 1})
    size = graph.op("Cast", graph.op("Squeeze", size), attributes={"to": INT32})
    return graph.op("Range", graph.scalar(0, np.int32), size, graph.scalar(1, np.int32))
