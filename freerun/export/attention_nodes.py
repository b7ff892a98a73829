"""Reading the memory, as ONNX nodes (Luong, Pham & Manning 2015, equations 5 to 8; Bahdanau et al. 2015, appendix A).

Legend: N rows, E entries (a source each), R rows of each, S source, H decoder, M memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from freerun.export.entry_nodes import Entries
from freerun.export.graph import Graph, Value
from freerun.export.weights import ModelWeights

__all__ = ["read_memory"]


def read_memory(
    graph: Graph, weights: ModelWeights, entries: Entries, query: Value, statics: Mapping[str, Value]
) -> Value:
    """The memory [N, M], averaged with the softmax of its scores for ``query`` [N, H].

    Scores are query . key, or v . tanh(query + key) where the model has a ``v``; they are 32 bit floating point
    whatever the arithmetic of the products with weights, for neither factor is constant.
    """
    sizes = weights.sizes
    by_entry = entries.grouped(graph, query, sizes.hidden_size)
    if weights.has("decoder.attention.vector.weight"):
        vector = graph.constant("attention.vector", weights["decoder.attention.vector.weight"].T)
        joined = graph.op("Add", graph.op("Unsqueeze", by_entry, graph.ints(2)), statics["keys"])  # [E, R, S, H]
        scores = graph.op("Squeeze", graph.op("MatMul", graph.op("Tanh", joined), vector), graph.ints(3))
    else:
        scores = graph.op("MatMul", by_entry, statics["keys"])  # [E, R, S]
    shares = graph.op("Softmax", graph.op("Add", scores, statics["mask"]), attributes={"axis": -1})
    return entries.flat(graph, graph.op("MatMul", shares, statics["memory"]), sizes.memory_size)
