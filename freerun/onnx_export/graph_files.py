"""The graph files of a bundle in one precision."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from freerun.architecture import ATTENTIONS, CELLS, Architecture
from freerun.errors import BundleError
from freerun.onnx_export.encoder_graph import encoder_graph
from freerun.onnx_export.graph import model_of
from freerun.onnx_export.greedy_graph import greedy_graph
from freerun.onnx_export.products import Arithmetic, Fp32
from freerun.onnx_export.quantise import Int8
from freerun.onnx_export.step_graph import step_graph
from freerun.runtime.bundle import Bundle, arrays_file, graph_file
from freerun.runtime.compiled_arrays import greedy_arrays
from freerun.runtime.compiled_greedy import supports
from freerun.runtime.graphs import metadata_of
from freerun.runtime.weights import ModelWeights
from freerun.text import shown

__all__ = ["graph_files"]


def graph_files(bundle: Bundle, precision: str, limit: float = 1.0) -> dict[str, bytes]:
    """Return encoder, step and greedy decoding by file name, and arrays for the C library, if it can run the model.

    ``limit`` bounds the decoder's first state (int8 only).

    Raises:
        BundleError: the bundle has no weights, weights that do not fit its sizes, or a cell or an attention that cannot
            be exported.
    """
    sizes = Architecture.of(bundle.model)
    _check_capabilities(bundle, sizes, precision)
    arrays = bundle.weights()
    weights = ModelWeights(sizes, arrays)
    arithmetic: Arithmetic = Fp32() if precision == "fp32" else Int8()
    # tables of gates are sums and products of weights; overflowing ones are rejected when they are read
    with np.errstate(over="ignore", invalid="ignore"):
        return _files_of(bundle, precision, weights, arithmetic, limit)


def _check_capabilities(bundle: Bundle, sizes: Architecture, precision: str) -> None:
    """Raise BundleError if the cell or the attention cannot be exported in this precision."""
    for key, value, spec, registry in (
        ("cell", sizes.cell, sizes.cell_spec, CELLS),
        ("attention", sizes.attention, sizes.attention_spec, ATTENTIONS),
    ):
        if not spec.onnx:
            raise BundleError(
                bundle.directory,
                f"{key} = {shown(value)} has no ONNX export",
                f"Expected one of {_names(each.name for each in registry.values() if each.onnx)}",
                "Predict with torch, which needs no export",
            )
    if precision == "int8" and not sizes.cell_spec.is_bounded:
        raise BundleError(
            bundle.directory,
            f"cell = {shown(sizes.cell)} has outputs of any size, which int8 cannot hold",
            f"Expected one of {_names(each.name for each in CELLS.values() if each.onnx and each.is_bounded)}",
            "Export it without --quantize",
        )


def _names(names: Iterable[str]) -> str:
    return ", ".join(shown(name) for name in names)


def _files_of(
    bundle: Bundle, precision: str, weights: ModelWeights, arithmetic: Arithmetic, limit: float
) -> dict[str, bytes]:
    graphs = [
        encoder_graph(weights, arithmetic),
        step_graph(weights, arithmetic, limit),
        greedy_graph(weights, arithmetic, limit),
    ]
    files = {
        graph_file(graph.name, precision): model_of(graph, metadata_of(bundle, graph.name, precision))
        for graph in graphs
    }
    if supports(bundle):
        files[arrays_file(precision)] = greedy_arrays(
            weights, precision == "int8", limit, metadata_of(bundle, "greedy", precision)
        )
    return files
