"""The inputs and outputs of a bundle's graphs: names, element types and shapes, as in docs/export.md.

Shape suffixes are those of docs/export.md: B sources, S source, Q features of a source, T steps taken, N and P rows of
this step and of the previous one, E entries, D the state's numbers, V vocabulary, K requested tokens.
"""

from __future__ import annotations

from typing import Final

from freerun.architecture import Architecture
from freerun.runtime.onnx_file import Declared

__all__ = ["BOOL", "FLOAT", "INT8", "INT32", "INT64", "UINT8", "inputs_of", "outputs_of", "state_size", "statics_of"]

FLOAT: Final = 1
UINT8: Final = 2
INT8: Final = 3
INT32: Final = 6
INT64: Final = 7
BOOL: Final = 9


def state_size(sizes: Architecture) -> int:
    """Return D, the state's size: each layer's h, each layer's c, then the attentional output with input feeding."""
    return sizes.hidden_size * (sizes.num_layers * sizes.states_per_layer + sizes.input_feeding)


def statics_of(sizes: Architecture) -> dict[str, list[int | str]]:
    """Return the names and shapes of the encoder's outputs that every step reads in addition to the state.

    - ``context_gates`` [B, G]: the contribution of the context and of the features' summary to the first layer's gates
      (one gate after the other); ``context_output`` [B, O]: that of the context to the output layer;
    - ``memory`` [B, S, M], ``keys``, ``mask`` [B, 1, S]: for attention; the mask is added to the scores. Keys are
      [B, H, S] for multiplicative scores, [B, 1, S, H] for additive ones. S is S+Q if features are entries of the
      memory.
    """
    shapes: dict[str, list[int | str]] = {}
    if sizes.every_step or sizes.feature_summary_size:
        shapes["context_gates"] = ["B", sizes.gates]
    if sizes.every_step:
        shapes["context_output"] = ["B", sizes.embedding_size if sizes.is_projected else sizes.target_vocabulary]
    if sizes.attention_spec.reads_memory:
        entries = "S+Q" if sizes.has_feature_entries else "S"
        keys: list[int | str] = ["B", sizes.hidden_size, entries]
        if sizes.attention_spec.sums:
            keys = ["B", 1, entries, sizes.hidden_size]
        shapes |= {"memory": ["B", entries, sizes.memory_size], "keys": keys, "mask": ["B", 1, entries]}
    return shapes


def inputs_of(name: str, sizes: Architecture) -> tuple[Declared, ...]:
    """Return the inputs of the graph ``name``, in order."""
    source = [Declared("source", INT64, ("B", "S")), Declared("lengths", INT64, ("B",))]
    if sizes.has_features:
        source.append(Declared("features", INT64, ("B", "Q")))
    if name == "encoder":
        return tuple(source)
    if name == "greedy":
        return (*source, Declared("max_lengths", INT64, ("B",)))
    statics = [Declared(each, FLOAT, ("E", *shape[1:])) for each, shape in statics_of(sizes).items()]
    return (
        Declared("tokens", INT64, ("N",)),
        Declared("origins", INT64, ("N",)),
        Declared("state", FLOAT, ("P", state_size(sizes))),
        Declared("k", INT64, (1,)),
        *statics,
    )


def outputs_of(name: str, sizes: Architecture) -> tuple[Declared, ...]:
    """Return the outputs of the graph ``name``, in order."""
    if name == "greedy":
        return Declared("tokens", INT64, ("B", "T")), Declared("scores", FLOAT, ("B", "T"))
    if name == "encoder":
        statics = [Declared(each, FLOAT, tuple(shape)) for each, shape in statics_of(sizes).items()]
        return (Declared("state", FLOAT, ("B", state_size(sizes))), *statics)
    return (
        Declared("new_state", FLOAT, ("N", state_size(sizes))),
        Declared("log_probs", FLOAT, ("N", sizes.target_vocabulary)),
        Declared("ids", INT64, ("N", "K")),
        Declared("best", FLOAT, ("N", "K")),
    )
