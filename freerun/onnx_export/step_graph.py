"""``step.onnx``: one token fed, the distribution of the next and its best tokens.

Shape suffixes: N rows, P rows of the previous step, E entries, D the state's numbers, V vocabulary, K requested tokens.
"""

from __future__ import annotations

import numpy as np

from freerun.onnx_export.decoder_nodes import DecoderStep, StepValues
from freerun.onnx_export.entry_nodes import Entries, OneRowEach, SeveralRowsEach
from freerun.onnx_export.graph import FLOAT, INT64, Graph, Value
from freerun.onnx_export.products import Arithmetic
from freerun.runtime.interface import state_size, statics_of
from freerun.runtime.weights import ModelWeights
from freerun.symbols import NEVER_WRITTEN

__all__ = ["never_written", "step_graph"]


def step_graph(weights: ModelWeights, arithmetic: Arithmetic, limit: float = 1.0) -> Graph:
    """Build the graph: tokens [N], origins [N], state [P, D], k [1] and the static tensors -> state [N, D], log_probs
    [N, V], ids and best [N, K].

    ``ids`` never holds PAD, BOS or UNK. Ties go to the lowest id.
    """
    graph = Graph("step")
    tokens, origins = (graph.input(name, INT64, ["N"]) for name in ("tokens", "origins"))
    before = graph.input("state", FLOAT, ["P", state_size(weights.sizes)])
    k = graph.input("k", INT64, [1])
    statics = {name: graph.input(name, FLOAT, ["E", *shape[1:]]) for name, shape in statics_of(weights.sizes).items()}
    entries: Entries = SeveralRowsEach(graph, next(iter(statics.values()))) if statics else OneRowEach()
    step = DecoderStep(weights, arithmetic, limit)
    state = _taken_apart(graph, weights, graph.op("Gather", before, origins, attributes={"axis": 0}))
    logits, after = step.step(
        graph, tokens, step.precompute(graph, state, precompute_next=False), statics, entries, precompute_next=False
    )
    log_probs = graph.op("LogSoftmax", logits, attributes={"axis": -1})
    best, ids = graph.ops("TopK", graph.op("Add", log_probs, never_written(graph, weights)), k, count=2)
    graph.output(graph.concat(after.values()), FLOAT, ["N", state_size(weights.sizes)], "new_state")
    graph.output(log_probs, FLOAT, ["N", weights.sizes.target_vocabulary], "log_probs")
    graph.output(ids, INT64, ["N", "K"], "ids")
    graph.output(best, FLOAT, ["N", "K"], "best")
    return graph


def never_written(graph: Graph, weights: ModelWeights) -> Value:
    """Return [V]: -inf for ids that no search writes, 0 for the others."""
    banned = np.zeros(weights.sizes.target_vocabulary, np.float32)
    banned[list(NEVER_WRITTEN)] = -np.inf
    return graph.constant("never_written", banned)


def _parts(weights: ModelWeights) -> list[int]:
    sizes = weights.sizes
    return [sizes.hidden_size] * (sizes.num_layers * sizes.states_per_layer + sizes.input_feeding)


def _taken_apart(graph: Graph, weights: ModelWeights, state: Value) -> StepValues:
    sizes = weights.sizes
    cell = "" if sizes.cell_spec.has_cell_state else None
    parts = StepValues([("", cell)] * sizes.num_layers, "" if sizes.input_feeding else None)
    return parts.like(graph.split(state, _parts(weights)))
