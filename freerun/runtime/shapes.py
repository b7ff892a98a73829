"""The weights that a model of a given architecture has: the shapes of ``freerun.models.seq2seq`` without torch."""

from __future__ import annotations

from freerun.architecture import Architecture

__all__ = ["Shapes", "expected_shapes"]

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(sizes: Architecture) -> Shapes:
    """Return the shape of every weight by its name."""
    return {
        **_encoder(sizes),
        **_bridge(sizes),
        **_decoder(sizes),
        **_attention(sizes),
        **_output(sizes),
        **_features(sizes),
    }


def _features(sizes: Architecture) -> Shapes:
    if not sizes.has_features:
        return {}
    vocabulary, size, prefix = sizes.feature_vocabulary, sizes.feature_summary_size, "feature_encoder"
    shapes: Shapes = {}
    if size:
        shapes[f"{prefix}.embedding.weight"] = (vocabulary, size)
        shapes |= {f"{prefix}.projection.weight": (size, size), f"{prefix}.projection.bias": (size,)}
    if sizes.has_feature_entries:
        shapes[f"{prefix}.entry_embedding.weight"] = (vocabulary, sizes.memory_size)
    return shapes


def _layers(prefix: str, sizes: Architecture, inputs: list[int]) -> Shapes:
    return {
        f"{prefix}.{index}.{name}": shape
        for index, size in enumerate(inputs)
        for name, shape in sizes.cell_spec.shapes(size, sizes.hidden_size).items()
    }


def _encoder(sizes: Architecture) -> Shapes:
    inputs = [sizes.embedding_size + sizes.feature_summary_size] + [sizes.memory_size] * (sizes.num_layers - 1)
    shapes: Shapes = {"encoder.embedding.weight": (sizes.source_vocabulary, sizes.embedding_size)}
    for direction in ("forward", "backward")[: sizes.num_directions]:
        shapes |= _layers(f"encoder.{direction}_layers", sizes, inputs)
    return shapes


def _bridge(sizes: Architecture) -> Shapes:
    if not sizes.is_bridged:
        return {}
    shapes: Shapes = {}
    for part in ("h", "c")[: sizes.states_per_layer]:
        for index in range(sizes.num_layers):
            shapes[f"bridge.{part}.{index}.weight"] = (sizes.hidden_size, sizes.memory_size)
            shapes[f"bridge.{part}.{index}.bias"] = (sizes.hidden_size,)
    return shapes


def _decoder(sizes: Architecture) -> Shapes:
    inputs = [sizes.known_size + sizes.attended_size] + [sizes.hidden_size] * (sizes.num_layers - 1)
    embedding = (sizes.target_vocabulary, sizes.embedding_size)
    return {"decoder.embedding.weight": embedding, **_layers("decoder.layers", sizes, inputs)}


def _attention(sizes: Architecture) -> Shapes:
    return {f"decoder.attention.{name}": shape for name, shape in sizes.attention_spec.weights(sizes).items()}


def _output(sizes: Architecture) -> Shapes:
    shapes: Shapes = {"decoder.output_bias": (sizes.target_vocabulary,)}
    if not sizes.tied_output:
        shapes["decoder.output_weight"] = (sizes.target_vocabulary, sizes.features)
    elif sizes.is_projected:
        shapes["decoder.projection.weight"] = (sizes.embedding_size, sizes.features)
    return shapes
