"""The graph files of a bundle in one precision."""

from __future__ import annotations

import numpy as np

from freerun.export.arrays import greedy_arrays
from freerun.export.encoder_graph import encoder_graph
from freerun.export.graph import model_of
from freerun.export.greedy_graph import greedy_graph
from freerun.export.products import Arithmetic, Fp32
from freerun.export.quantise import Int8
from freerun.export.step_graph import step_graph
from freerun.export.weights import ModelWeights
from freerun.runtime.bundle import Bundle, arrays_file, graph_file
from freerun.runtime.compiled_greedy import supports
from freerun.runtime.graphs import metadata_of
from freerun.runtime.sizes import Sizes

__all__ = ["graph_files"]


def graph_files(bundle: Bundle, precision: str, limit: float = 1.0) -> dict[str, bytes]:
    """Encoder, step and greedy decoding by file name, and arrays for the compiled library, if it can run the model.

    ``limit`` bounds the decoder's first state (int8 only).

    Raises:
        BundleError: the bundle has no weights, or weights that do not fit its sizes.
    """
    sizes = Sizes.of(bundle.model)
    arrays = bundle.weights()
    weights = ModelWeights(sizes, arrays)
    arithmetic: Arithmetic = Fp32() if precision == "fp32" else Int8()
    # tables of gates are sums and products of weights; what overflows is refused where it is read
    with np.errstate(over="ignore", invalid="ignore"):
        return _files_of(bundle, precision, weights, arithmetic, limit)


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
