"""8-bit matmuls: weights of 7 bits and a scale per column, activations of 8 bits and one fixed scale.

    x @ W  ~  (x_scale * w_scale[n]) * sum_k (x_q[k] - 128) * w_q[k, n]

with x_q = round(x / x_scale) + 128 in 0..255, for x_scale = limit / 127, and w_q = round(W / w_scale) in -64..64. The
sum is exact. Scales do not depend on the batch, so a row does not depend on other rows in the batch.

Weights have 7 bits because CPUs without VNNI add two byte products in 16 bits, which 2 x 255 x 64 just fits: every CPU
gives the same numbers. Weights that are only stored have 8 bits (embeddings, and what attention and the bridge multiply
once per source): onnxruntime converts them to float32 when it loads a graph.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from freerun.onnx_export.graph import FLOAT, Array, Graph, Value
from freerun.onnx_export.products import Arithmetic
from freerun.runtime.compiled import PRODUCT_LEVELS
from freerun.runtime.rounding import STORED_LEVELS, rounded
from freerun.runtime.weights import LinearWeights

__all__ = ["Int8"]

_ZERO: Final = 128


class Int8:
    """``Arithmetic`` with 8 bits."""

    scans = True

    def product(self, graph: Graph, name: str, x: Value, linear: LinearWeights, limit: float = 1.0) -> Value:
        """See ``Arithmetic``."""
        weight, scale = rounded(linear.weight, 0, PRODUCT_LEVELS)
        step = limit / STORED_LEVELS
        zero = graph.scalar(_ZERO, np.uint8)
        bytes_ = graph.op("QuantizeLinear", x, graph.scalar(step, np.float32), zero)
        sums = graph.op("MatMulInteger", bytes_, graph.constant(f"{name}.weight", weight), zero)
        sums = graph.op("Cast", sums, attributes={"to": FLOAT})
        product = graph.op("Mul", sums, graph.constant(f"{name}.scale", scale[0] * np.float32(step)))
        if linear.bias is None:
            return product
        return graph.op("Add", product, graph.constant(f"{name}.bias", linear.bias))

    def for_sequences(self) -> Arithmetic:
        """See ``Arithmetic``."""
        return self

    def weight(self, graph: Graph, name: str, array: Array, summed: int) -> Value:
        """See ``Arithmetic``."""
        weight, scale = rounded(array, summed, STORED_LEVELS)
        whole = graph.op("Cast", graph.constant(name, weight), attributes={"to": FLOAT})
        return graph.op("Mul", whole, graph.constant(f"{name}.scale", scale))
