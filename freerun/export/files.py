"""The graph files of a bundle in one precision."""

from __future__ import annotations

from dataclasses import fields

from freerun.errors import BundleError
from freerun.export.encode import encoder_graph
from freerun.export.graph import Graph, model_of
from freerun.export.greedy import greedy_graph
from freerun.export.products import Arithmetic, Fp32
from freerun.export.quantise import Int8
from freerun.export.step import step_graph
from freerun.export.weights import ModelWeights, Sizes
from freerun.runtime.bundle import WEIGHTS, Bundle, graph_file
from freerun.runtime.graphs import metadata_of

__all__ = ["graph_files"]


def graph_files(bundle: Bundle, precision: str, limit: float = 1.0) -> dict[str, bytes]:
    """Encoder, step and greedy decoding by file name; ``limit`` bounds the decoder's first state (int8 only).

    Raises:
        BundleError: the bundle has no weights, or weights that do not fit its sizes.
    """
    known = {field.name for field in fields(Sizes)}
    sizes = Sizes(**{name: value for name, value in bundle.model.items() if name in known})
    weights = ModelWeights(sizes, bundle.weights())
    arithmetic: Arithmetic = Fp32() if precision == "fp32" else Int8()
    try:
        graphs = _graphs(weights, arithmetic, limit)
    except (KeyError, ValueError, IndexError) as error:
        raise _misfit(bundle, f"{type(error).__name__}: {error}") from None
    if weights.unused():
        raise _misfit(bundle, f"nothing uses {', '.join(weights.unused()[:3])}")
    return {
        graph_file(graph.name, precision): model_of(graph, metadata_of(bundle, graph.name, precision))
        for graph in graphs
    }


def _graphs(weights: ModelWeights, arithmetic: Arithmetic, limit: float) -> list[Graph]:
    return [
        encoder_graph(weights, arithmetic),
        step_graph(weights, arithmetic, limit),
        greedy_graph(weights, arithmetic, limit),
    ]


def _misfit(bundle: Bundle, what: str) -> BundleError:
    return BundleError(
        bundle.folder / WEIGHTS,
        f"the weights do not fit the sizes in config.json ({what})",
        "Expected the weights of this bundle",
        "Copy the whole bundle again",
    )
