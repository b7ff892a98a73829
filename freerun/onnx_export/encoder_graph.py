"""``encoder.onnx``: source ids to the decoder's first state and the static tensors (legend as in ``encoder``)."""

from __future__ import annotations

from freerun.onnx_export.encoder_nodes import SourceValues, encode
from freerun.onnx_export.graph import FLOAT, Graph
from freerun.onnx_export.products import Arithmetic
from freerun.runtime.interface import state_size, statics_of
from freerun.runtime.weights import ModelWeights

__all__ = ["encoder_graph"]


def encoder_graph(weights: ModelWeights, arithmetic: Arithmetic) -> Graph:
    """Build the graph: source [B, S], lengths [B], features [B, Q] -> state [B, D] and the tensors of ``statics_of``.

    Only a model that reads features has them as an input.
    """
    graph = Graph("encoder")
    encoded = encode(graph, weights, arithmetic, SourceValues.inputs(graph, weights.sizes))
    graph.output(graph.concat(encoded.state(graph, weights).values()), FLOAT, ["B", state_size(weights.sizes)], "state")
    for name, shape in statics_of(weights.sizes).items():
        graph.output(encoded.statics[name], FLOAT, shape, name)
    return graph
