"""A model's arrays as the C library reads them, see ``freerun.runtime.compiled_model``: in memory or as greedy.npz.

Weights are for ``x @ weight``, gates in torch's order. A token's projection to the first layer's gates is a row of a
table, as in the graphs.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np

from freerun.architecture import Architecture
from freerun.errors import BundleError
from freerun.runtime.bundle import WEIGHTS, Bundle
from freerun.runtime.compiled import PRODUCT_LEVELS, Array
from freerun.runtime.compiled_file import arrays_version
from freerun.runtime.rounding import STORED_LEVELS, rounded
from freerun.runtime.weights import LayerWeights, ModelWeights, pairs_apart

__all__ = ["arrays_in_memory", "greedy_arrays"]

Arrays = dict[str, Array]


def greedy_arrays(weights: ModelWeights, quantise: bool, limit: float, metadata: Mapping[str, str]) -> bytes:
    """Return the file; ``limit`` bounds the outputs of the decoder's layers (int8 only)."""
    version = str(arrays_version(weights.sizes))
    described = np.frombuffer(json.dumps({**metadata, "freerun.arrays": version}).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, **_arrays(weights, quantise, limit), metadata=described)  # type: ignore[arg-type]
    return file.getvalue()


def arrays_in_memory(bundle: Bundle) -> Arrays:
    """Return the arrays of a bundle that was not exported, in float32, from its weights.

    Raises:
        BundleError: the weights are missing or damaged, or so large that a product of two of them is not finite.
    """
    weights = ModelWeights(Architecture.of(bundle.model), bundle.weights())
    with np.errstate(over="ignore", invalid="ignore"):
        arrays = _arrays(weights, quantise=False, limit=1.0)
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise BundleError(
                bundle.directory / WEIGHTS,
                f"its products are too large for float32 ({name})",
                "Expected weights of a training that did not diverge",
                "Train the model again, with a lower learning rate",
            )
    return arrays


def _arrays(weights: ModelWeights, quantise: bool, limit: float) -> Arrays:
    return {
        **_encoder(weights, quantise),
        **_bridge(weights, quantise),
        **_decoder(weights, quantise, limit),
        **_output(weights, quantise, limit),
        **_features(weights, quantise),
        **_attention(weights, quantise, limit),
    }


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
        if sizes.known_size > sizes.embedding_size:
            constant = layer.weight_ih[:, sizes.embedding_size : sizes.known_size]
            arrays |= _stored("context_gates.weight", constant.T, 0, quantise)
    return arrays


def _features(weights: ModelWeights, quantise: bool) -> Arrays:
    """Return the table and the bias of the features' summary, and the encoder's readers of it."""
    sizes = weights.sizes
    if not sizes.feature_summary_size:
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
    spec = sizes.attention_spec
    # features of a maxout layer have no bound, so 8 bits cannot hold them; those of Luong's attention are a tanh
    arrays = _product(
        "output",
        first[: sizes.hidden_size],
        None if sizes.is_projected else bias,
        quantise and not spec.within_recurrence,
        1.0 if spec.reads_memory else limit,
    )
    if sizes.every_step:
        arrays |= _stored("context_output.weight", first[sizes.hidden_size :], 0, quantise)
    if sizes.is_projected:
        arrays |= {"tied.weight": weights[embedding].T, "tied.bias": bias}
    return arrays


def _attention(weights: ModelWeights, quantise: bool, limit: float) -> Arrays:
    """Return what attention multiplies memory and states with, and the table of the features' entries.

    What a step reads of the memory is multiplied by constant weights, and so is each entry, once per source: then a
    step averages the products. The memory is within [-1, 1].
    """
    sizes, spec = weights.sizes, weights.sizes.attention_spec
    if not spec.reads_memory:
        return {}
    arrays: Arrays = {}
    if not spec.needs_equal_sizes:
        arrays |= _stored("attention.keys.weight", weights.attention_keys(), 0, quantise)
    if spec.sums:
        query = weights.linear("decoder.attention.query")
        arrays |= _product("attention.query", query.weight, None, quantise, limit)
        arrays["attention.vector"] = weights["decoder.attention.vector.weight"][0]
    first = weights.layer("decoder.layers", 0).weight_ih[:, sizes.known_size :].T
    if spec.within_recurrence:
        state, token, context = (
            pairs_apart(weights.linear(f"decoder.attention.{part}_output")) for part in ("state", "token", "context")
        )
        arrays |= _product("attention.values", np.concatenate([first, context.weight], axis=1), None, quantise)
        arrays |= _product("attention.state", state.weight, state.bias, quantise, limit)
        arrays["attention.tokens"] = weights["decoder.embedding.weight"] @ token.weight
    else:
        combine = weights["decoder.attention.combine.weight"].T
        arrays |= _product("attention.values", combine[: sizes.memory_size], None, quantise)
        arrays |= _product("attention.state", combine[sizes.memory_size :], None, quantise, limit)
        if sizes.input_feeding:
            arrays |= _product("attention.fed", first, None, quantise)
    if sizes.has_feature_entries:
        arrays |= _stored("feature_entries", weights.feature_entries(), -1, quantise)
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
