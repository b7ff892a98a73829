"""Matmuls with constant weights, in one arithmetic or another; several with the same operand are one.

Shape suffixes: B rows, K inner size, N columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from freerun.onnx_export.graph import Array, Graph, Value
from freerun.runtime.weights import LinearWeights

__all__ = ["Arithmetic", "Fp32", "several"]


class Arithmetic(Protocol):
    """How matmuls with constant weights are computed, and how those weights are stored.

    ``scans``: the encoder uses it, too, instead of ONNX's recurrent operators.
    """

    scans: bool

    def product(self, graph: Graph, name: str, x: Value, linear: LinearWeights, limit: float = 1.0) -> Value:
        """Return ``x @ weight + bias`` [B, N] for x [B, K] within [-limit, limit]; constants are called ``name``."""
        ...

    def for_sequences(self) -> Arithmetic:
        """Return the same arithmetic for x [S, B, K]."""
        ...

    def weight(self, graph: Graph, name: str, array: Array, summed: int) -> Value:
        """Return a weight for another operator, float32 there; matmuls sum over its axis ``summed``."""
        ...


class Fp32:
    """Matmuls in float32."""

    scans = False

    def __init__(self, rank: int = 2) -> None:
        self._rank = rank

    def product(self, graph: Graph, name: str, x: Value, linear: LinearWeights, limit: float = 1.0) -> Value:
        """See ``Arithmetic``."""
        weight = graph.constant(f"{name}.weight", linear.weight)
        if linear.bias is None:
            return graph.op("MatMul", x, weight)
        bias = graph.constant(f"{name}.bias", linear.bias)
        if self._rank != 2:  # Gemm takes matrices only
            return graph.op("Add", graph.op("MatMul", x, weight), bias)
        return graph.op("Gemm", x, weight, bias)

    def for_sequences(self) -> Arithmetic:
        """See ``Arithmetic``."""
        return Fp32(rank=3)

    def weight(self, graph: Graph, name: str, array: Array, summed: int) -> Value:
        """See ``Arithmetic``."""
        return graph.constant(name, array)


def several(
    graph: Graph, arithmetic: Arithmetic, name: str, x: Value, parts: Sequence[LinearWeights], limit: float = 1.0
) -> list[Value]:
    """Multiply ``x`` by each of ``parts`` in one matmul: a node costs as much as a small matmul."""
    if not parts:
        return []
    widths = [part.weight.shape[1] for part in parts]
    biases = [
        np.zeros(width, np.float32) if part.bias is None else part.bias
        for part, width in zip(parts, widths, strict=True)
    ]
    bias = None if all(part.bias is None for part in parts) else np.concatenate(biases)
    joined = LinearWeights(np.concatenate([part.weight for part in parts], axis=1), bias)
    return graph.split(arithmetic.product(graph, name, x, joined, limit), widths)
