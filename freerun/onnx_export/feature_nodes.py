"""A source's features as ONNX nodes: the two feature encoders of ``freerun.models.features``.

A mean is a matmul with the softmax of the mask: equal weights for real features, and 0 for padding. A source without
features gives padding equal weights, but the embedding of PAD is 0 here.

Shape suffixes: B batch, Q features of a source, E embedding, F width of a summary, N columns, M memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from freerun.onnx_export.attention_nodes import MASKED
from freerun.onnx_export.graph import FLOAT, Array, Graph, Value
from freerun.onnx_export.products import Arithmetic
from freerun.onnx_export.weights import ModelWeights
from freerun.symbols import PAD

__all__ = ["FeatureSummary", "feature_entries", "feature_mask", "feature_summary"]

_EMBEDDING = "feature_encoder.embedding.weight"


@dataclass(frozen=True)
class FeatureSummary:
    """The summary ``value`` [B, F] of each source's features.

    ``embedding`` [F, E] is None if the value is the mean of the embeddings. Otherwise it is that of columns of the
    identity, and the embedding goes into the weights that read it.
    """

    value: Value
    embedding: Array | None = None

    def reader(self, weight: Array) -> Array:
        """Return the weight [F, N] that reads ``value``, from one that reads the mean of the embeddings [E, N]."""
        return weight if self.embedding is None else self.embedding @ weight


def feature_summary(
    graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, features: Value
) -> FeatureSummary | None:
    """Return the summary of ``features`` [B, Q]; None if the model has none.

    A small vocabulary is summarized by columns of the identity: fewer numbers to multiply, and to ship.
    """
    if not weights.sizes.feature_summary_size:
        return None
    embedding = weights[_EMBEDDING].copy()
    embedding[PAD] = 0
    if len(embedding) > embedding.shape[1]:
        table = arithmetic.weight(graph, "feature_encoder.embedding", embedding, -1)
        return FeatureSummary(_mean(graph, table, features))
    identity = graph.constant("feature_identity", np.eye(len(embedding), dtype=np.float32))
    return FeatureSummary(_mean(graph, identity, features), embedding)


def _mean(graph: Graph, table: Value, features: Value) -> Value:
    """Return the mean [B, F] of the rows of ``table`` for the real ``features`` [B, Q]."""
    shares = graph.op("Softmax", feature_mask(graph, features), attributes={"axis": -1})
    return graph.op("Squeeze", graph.op("MatMul", shares, graph.op("Gather", table, features)), graph.ints(1))


def feature_entries(graph: Graph, weights: ModelWeights, arithmetic: Arithmetic, features: Value) -> Value:
    """Return the memory entries [B, Q, M] of ``features`` [B, Q]."""
    return graph.op("Gather", arithmetic.weight(graph, "feature_encoder.embedding", weights[_EMBEDDING], -1), features)


def feature_mask(graph: Graph, features: Value) -> Value:
    """Return [B, 1, Q]: 0 for real ``features`` [B, Q], ``MASKED`` for padding."""
    padding = graph.op("Cast", graph.op("Equal", features, graph.scalar(PAD)), attributes={"to": FLOAT})
    return graph.op("Unsqueeze", graph.op("Mul", padding, graph.scalar(MASKED, np.float32)), graph.ints(1))
