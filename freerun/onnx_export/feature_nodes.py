"""A source's features as ONNX nodes: the two parts of ``freerun.models.feature_encoder``.

Shape suffixes: B batch, Q features of a source, V features, E embedding, M memory.
"""

from __future__ import annotations

import numpy as np

from freerun.onnx_export.attention_nodes import MASKED
from freerun.onnx_export.graph import BOOL, FLOAT, Graph, Value
from freerun.onnx_export.products import Arithmetic
from freerun.runtime.weights import ModelWeights
from freerun.symbols import PAD

__all__ = ["feature_entries", "feature_mask", "feature_summary"]


def feature_summary(graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, features: Value) -> Value | None:
    """Return the summary [B, E] of ``features`` [B, Q], within [-1, 1]; None if the model has none.

    A feature's projection is a row of a table.
    """
    if not weights.sizes.feature_summary_size:
        return None
    rows = weights.feature_table()
    assert rows.bias is not None
    table = arithmetic.weight(graph, "feature_encoder.table", rows.weight, -1)
    real = graph.op("Cast", graph.op("Cast", features, attributes={"to": BOOL}), attributes={"to": FLOAT})  # PAD is 0
    sums = graph.op("MatMul", graph.op("Unsqueeze", real, graph.ints(1)), graph.op("Gather", table, features))
    bias = graph.constant("feature_encoder.bias", rows.bias)
    return graph.op("Tanh", graph.op("Add", graph.op("Squeeze", sums, graph.ints(1)), bias))


def feature_entries(graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, features: Value) -> Value:
    """Return the memory entries [B, Q, M] of ``features`` [B, Q], within [-1, 1]; each is a row of a table."""
    table = arithmetic.weight(graph, "feature_encoder.entries", weights.feature_entries(), -1)
    return graph.op("Gather", table, features)


def feature_mask(graph: Graph, features: Value) -> Value:
    """Return [B, 1, Q]: 0 for real ``features`` [B, Q], ``MASKED`` for padding."""
    padding = graph.op("Cast", graph.op("Equal", features, graph.scalar(PAD)), attributes={"to": FLOAT})
    return graph.op("Unsqueeze", graph.op("Mul", padding, graph.scalar(MASKED, np.float32)), graph.ints(1))
