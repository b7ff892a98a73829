"""The graph files of a bundle in one precision."""

from __future__ import annotations

from collections.abc import Mapping

from freerun.errors import BundleError
from freerun.export.arrays import greedy_arrays
from freerun.export.encode import encoder_graph
from freerun.export.graph import Array, model_of
from freerun.export.greedy import greedy_graph
from freerun.export.products import Arithmetic, Fp32
from freerun.export.quantise import Int8
from freerun.export.shapes import expected_shapes
from freerun.export.step import step_graph
from freerun.export.weights import ModelWeights
from freerun.runtime.bundle import WEIGHTS, Bundle, arrays_file, graph_file
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
    _check_shapes(bundle, sizes, arrays)
    weights = ModelWeights(sizes, arrays)
    arithmetic: Arithmetic = Fp32() if precision == "fp32" else Int8()
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


def _check_shapes(bundle: Bundle, sizes: Sizes, arrays: Mapping[str, Array]) -> None:
    expected, found = expected_shapes(sizes), {name: array.shape for name, array in arrays.items()}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            shapes = [each.get(name, "nothing") for each in (found, expected)]
            raise BundleError(
                bundle.folder / WEIGHTS,
                f"the weights do not fit the sizes in config.json: {name} is {shapes[0]} and should be {shapes[1]}",
                "Expected the weights of this bundle",
                "Copy the whole bundle again",
            )
