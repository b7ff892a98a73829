"""Which weights a model of given sizes has: what ``freerun.models.seq2seq`` would make, told without torch."""

from __future__ import annotations

from freerun.runtime.sizes import Sizes

__all__ = ["Shapes", "expected_shapes"]

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(sizes: Sizes) -> Shapes:
    """The shape of every weight by its name."""
    return {**_encoder(sizes), **_bridge(sizes), **_decoder(sizes), **_attention(sizes), **_output(sizes)}


def _layers(prefix: str, sizes: Sizes, inputs: list[int]) -> Shapes:
    shapes: Shapes = {}
    for index, size in enumerate(inputs):
        shapes[f"{prefix}.{index}.weight_ih"] = (sizes.gates, size)
        shapes[f"{prefix}.{index}.weight_hh"] = (sizes.gates, sizes.hidden_size)
        shapes[f"{prefix}.{index}.bias_ih"] = shapes[f"{prefix}.{index}.bias_hh"] = (sizes.gates,)
    return shapes


def _encoder(sizes: Sizes) -> Shapes:
    inputs = [sizes.embedding_size] + [sizes.memory_size] * (sizes.num_layers - 1)
    shapes: Shapes = {"encoder.embedding.weight": (sizes.source_vocabulary, sizes.embedding_size)}
    for direction in ("forward", "backward")[: 2 if sizes.bidirectional else 1]:
        shapes |= _layers(f"encoder.{direction}_layers", sizes, inputs)
    return shapes


def _bridge(sizes: Sizes) -> Shapes:
    if not sizes.bidirectional:
        return {}
    shapes: Shapes = {}
    for part in ("h", "c") if sizes.cell == "lstm" else ("h",):
        for index in range(sizes.num_layers):
            shapes[f"bridge.{part}.{index}.weight"] = (sizes.hidden_size, sizes.memory_size)
            shapes[f"bridge.{part}.{index}.bias"] = (sizes.hidden_size,)
    return shapes


def _decoder(sizes: Sizes) -> Shapes:
    attended = sizes.hidden_size if sizes.input_feeding else 0
    if sizes.attention == "bahdanau":
        attended = sizes.memory_size
    inputs = [sizes.known_size + attended] + [sizes.hidden_size] * (sizes.num_layers - 1)
    embedding = (sizes.target_vocabulary, sizes.embedding_size)
    return {"decoder.embedding.weight": embedding, **_layers("decoder.layers", sizes, inputs)}


def _attention(sizes: Sizes) -> Shapes:
    hidden, memory = sizes.hidden_size, sizes.memory_size
    shapes: Shapes = {}
    if sizes.attention in ("general", "concat", "bahdanau"):
        shapes["keys.weight"] = (hidden, memory)
    if sizes.attention in ("concat", "bahdanau"):
        shapes |= {"query.weight": (hidden, hidden), "vector.weight": (1, hidden)}
    if sizes.attention == "bahdanau":
        shapes |= {"state_output.weight": (2 * hidden, hidden), "state_output.bias": (2 * hidden,)}
        shapes |= {"token_output.weight": (2 * hidden, sizes.embedding_size)}
        shapes |= {"context_output.weight": (2 * hidden, memory)}
    elif sizes.attention != "none":
        shapes["combine.weight"] = (hidden, memory + hidden)
    return {f"decoder.attention.{name}": shape for name, shape in shapes.items()}


def _output(sizes: Sizes) -> Shapes:
    shapes: Shapes = {"decoder.output_bias": (sizes.target_vocabulary,)}
    if not sizes.tied_output:
        shapes["decoder.output_weight"] = (sizes.target_vocabulary, sizes.features)
    elif sizes.is_projected:
        shapes["decoder.projection.weight"] = (sizes.embedding_size, sizes.features)
    return shapes
