"""``greedy.npz``: a model without attention as the C library reads it, see ``freerun.runtime.compiled_model``.

Weights are for ``x @ weight``, gates in torch's order. A token's projection to the first layer's gates is a row of a
table, as in the graphs.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np

from freerun.onnx_export.graph import Array
from freerun.onnx_export.quantise import STORED_LEVELS, rounded
from freerun.onnx_export.weights import LayerWeights, ModelWeights
from freerun.runtime.compiled import PRODUCT_LEVELS
from freerun.runtime.compiled_model import arrays_version

__all__ = ["greedy_arrays"]

Arrays = dict[str, Array]


def greedy_arrays(weights: ModelWeights, quantise: bool, limit: float, metadata: Mapping[str, str]) -> bytes:
    """Return the file; ``limit`` bounds the outputs of the decoder's layers (int8 only)."""
    version = str(arrays_version(weights.sizes))
    arrays = {
        **_encoder(weights, quantise),
        **_bridge(weights, quantise),
        **_decoder(weights, quantise, limit),
        **_output(weights, quantise, limit),
        **_features(weights, quantise),
        "metadata": np.frombuffer(json.dumps({**metadata, "freerun.arrays": version}).encode(), np.uint8),
    }
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _encoder(weights: ModelWeights, quantise: bool) -> Arrays:
    sizes, embedding = weights.sizes, weights["encoder.embedding.weight"]
    arrays: Arrays = {}
    for direction in ("forward", "backward")[: sizes.num_directions]:
        for index in range(sizes.num_layers):
            layer, name = weights.layer(f"encoder.{direction}_layers", index), f"encoder.{index}.{direction}"
            arrays |= _recurrent(name, layer, quantise)
            if index:
                arrays |= _product(f"{name}.input", layer.weight_ih.T, layer.input_bias(), quantise)
            elif sizes.has_source_table:
                arrays[f"{name}.table"] = embedding @ _of_token(weights, layer).T + layer.input_bias()
            else:
                arrays |= _stored(f"{name}.input.weight", _of_token(weights, layer).T, 0, quantise)
                arrays[f"{name}.input.bias"] = layer.input_bias()
    if not sizes.has_source_table:
        arrays |= _stored("source_embedding", embedding, -1, quantise)
    return arrays


def _bridge(weights: ModelWeights, quantise: bool) -> Arrays:
    arrays: Arrays = {}
    for part in ("h", "c"):
        for index in range(weights.sizes.num_layers):
            name = f"bridge.{part}.{index}"
            if weights.has(f"{name}.weight"):
                arrays |= _stored(f"{name}.weight", weights[f"{name}.weight"].T, 0, quantise)
                arrays[f"{name}.bias"] = weights[f"{name}.bias"]
    return arrays


def _decoder(weights: ModelWeights, quantise: bool, limit: float) -> Arrays:
    sizes, arrays = weights.sizes, Arrays()
    for index in range(sizes.num_layers):
        layer, name = weights.layer("decoder.layers", index), f"decoder.{index}"
        arrays |= _recurrent(name, layer, quantise, limit)
        if index:
            arrays |= _product(f"{name}.input", layer.weight_ih.T, layer.input_bias(), quantise, limit)
            continue
        embedding = weights["decoder.embedding.weight"]
        arrays[f"{name}.table"] = embedding @ _of_token(weights, layer).T + layer.input_bias()
        if sizes.has_features or sizes.every_step:
            arrays |= _stored("context_gates.weight", layer.weight_ih[:, sizes.embedding_size :].T, 0, quantise)
    return arrays


def _features(weights: ModelWeights, quantise: bool) -> Arrays:
    """Return the table and the bias of the features' summary, and the encoder's readers of it."""
    sizes = weights.sizes
    if not sizes.has_features:
        return {}
    rows = weights.feature_table()
    assert rows.bias is not None
    arrays = {**_stored("feature_table", rows.weight, -1, quantise), "feature_bias": rows.bias}
    for direction in ("forward", "backward")[: sizes.num_directions]:
        layer = weights.layer(f"encoder.{direction}_layers", 0)
        reader = layer.weight_ih[:, sizes.embedding_size :].T
        arrays |= _stored(f"encoder.0.{direction}.features.weight", reader, 0, quantise)
    return arrays


def _of_token(weights: ModelWeights, layer: LayerWeights) -> Array:
    """Return the part [G, E] of a first layer's input weight that the token's embedding is multiplied with."""
    return layer.weight_ih[:, : weights.sizes.embedding_size]


def _output(weights: ModelWeights, quantise: bool, limit: float) -> Arrays:
    sizes, bias = weights.sizes, weights["decoder.output_bias"]
    embedding = "decoder.embedding.weight" if sizes.tied_output else "decoder.output_weight"
    first = weights["decoder.projection.weight" if sizes.is_projected else embedding].T
    arrays = _product("output", first[: sizes.hidden_size], None if sizes.is_projected else bias, quantise, limit)
    if sizes.every_step:
        arrays |= _stored("context_output.weight", first[sizes.hidden_size :], 0, quantise)
    if sizes.is_projected:
        arrays |= {"tied.weight": weights[embedding].T, "tied.bias": bias}
    return arrays


def _recurrent(name: str, layer: LayerWeights, quantise: bool, limit: float = 1.0) -> Arrays:
    assert layer.weight_hh is not None and layer.bias_hh is not None
    bias = None
    if layer.cell.gated_bias:
        bias = layer.bias_hh.copy()
        bias[: -layer.hidden_size] = 0
    return _product(f"{name}.recurrent", layer.weight_hh.T, bias, quantise, limit)


def _product(name: str, weight: Array, bias: Array | None, quantise: bool, limit: float = 1.0) -> Arrays:
    """Return the arrays of a matmul with a vector within [-limit, limit]."""
    arrays: Arrays = {} if bias is None else {f"{name}.bias": bias}
    if not quantise:
        return {f"{name}.weight": weight, **arrays}
    levels, scale = rounded(weight, 0, PRODUCT_LEVELS)
    return {
        f"{name}.weight": levels,
        f"{name}.scale": scale[0],
        f"{name}.step": np.array(limit / STORED_LEVELS, np.float32),
        **arrays,
    }


def _stored(name: str, weight: Array, summed: int, quantise: bool) -> Arrays:
    """Return the arrays of a weight that is multiplied in float32."""
    if not quantise:
        return {name: weight}
    levels, scale = rounded(weight, summed, STORED_LEVELS)
    return {name: levels, f"{name}.scale": scale}
