"""``greedy.onnx``: the whole greedy decoding in one graph.

The only other decoding loop in Python is ``freerun.search.loop``; tests compare the two. Shape suffixes: B sources, S
source, Q features of a source, T steps taken, V vocabulary.
"""

from __future__ import annotations

import numpy as np

from freerun.onnx_export.decoder_nodes import DecoderStep, StepValues
from freerun.onnx_export.encoder_nodes import SourceValues, encode
from freerun.onnx_export.entry_nodes import OneRowEach
from freerun.onnx_export.graph import BOOL, FLOAT, INT64, Graph, Value
from freerun.onnx_export.products import Arithmetic
from freerun.onnx_export.step_graph import never_written
from freerun.runtime.weights import ModelWeights
from freerun.symbols import BOS, EOS, PAD

__all__ = ["greedy_graph"]


def greedy_graph(weights: ModelWeights, arithmetic: Arithmetic, limit: float = 1.0) -> Graph:
    """Build the graph: source [B, S], lengths [B], features [B, Q], max_lengths [B] -> tokens [B, T], scores [B, T].

    Only a model that reads features has them as an input.
    ``tokens`` are the output, EOS last; PAD after a row's end. A row of ``max_length`` tokens without an end has no
    EOS. ``scores`` are their log-probabilities, 0 after the end. T is at most 1 more than the largest bound.
    """
    graph = Graph("greedy")
    source, bounds = SourceValues.inputs(graph, weights.sizes), graph.input("max_lengths", INT64, ["B"])
    encoded = encode(graph, weights, arithmetic, source)
    step = DecoderStep(weights, arithmetic, limit)
    first = step.precompute(graph, encoded.state(graph, weights), precompute_next=True)
    limit_of_steps = graph.op("Add", graph.op("ReduceMax", bounds, attributes={"keepdims": 0}), graph.scalar(1))
    fed = graph.op("Clip", source.lengths, graph.scalar(BOS), graph.scalar(BOS))
    active = graph.op("Cast", fed, attributes={"to": BOOL})
    carried = [fed, active, *first.values()]
    body = _body(graph, weights, step, first, encoded.statics)
    outputs = graph.ops(
        "Loop", limit_of_steps, "", *carried, count=len(carried) + 2, attributes={"body": body.finished()}
    )
    tokens, scores = _within_bounds(graph, outputs[-2], outputs[-1], bounds)
    graph.output(tokens, INT64, ["B", "T"], "tokens")
    graph.output(scores, FLOAT, ["B", "T"], "scores")
    return graph


def _body(graph: Graph, weights: ModelWeights, step: DecoderStep, like: StepValues, statics: dict[str, Value]) -> Graph:
    """Build one iteration: feed, take the best token, and mark the rows that continue."""
    body = graph.inside("one_token")
    body.input("iteration", INT64, [])
    body.input("condition", BOOL, [])
    fed, active = body.input("fed", INT64, ["B"]), body.input("alive", BOOL, ["B"])
    state = like.like([body.input(f"before.{value}", FLOAT, ["B", "?"]) for value in like.values()])
    logits, after = step.step(body, fed, state, statics, OneRowEach(), precompute_next=True)
    log_probs = body.op("LogSoftmax", logits, attributes={"axis": -1})
    allowed = body.op("Add", log_probs, never_written(body, weights))
    best = body.op("ArgMax", allowed, attributes={"axis": 1, "keepdims": 0})
    score = body.op("ReduceMax", allowed, body.ints(1), attributes={"keepdims": 0})
    written = body.op("Where", active, best, body.scalar(PAD))
    continues = np.ones(weights.sizes.target_vocabulary, np.bool_)
    continues[EOS] = False
    active = body.op("And", active, body.op("Gather", body.constant("goes_on", continues), best))
    body.output(body.op("ReduceMax", active, body.ints(0), attributes={"keepdims": 0}), BOOL, [])
    body.output(best, INT64, ["B"])
    body.output(active, BOOL, ["B"])
    for value in after.values():
        body.output(value, FLOAT, ["B", "?"])
    body.output(written, INT64, ["B"])
    body.output(score, FLOAT, ["B"])
    return body


def _within_bounds(graph: Graph, tokens: Value, scores: Value, bounds: Value) -> tuple[Value, Value]:
    """Transpose [T, B] to [B, T]; PAD beyond a row's bound, unless it ends right there; scores are 0 at PAD."""
    tokens, scores = (graph.op("Transpose", value, attributes={"perm": [1, 0]}) for value in (tokens, scores))
    ones = graph.op("Clip", tokens, graph.scalar(1), graph.scalar(1))
    positions = graph.op("CumSum", ones, graph.scalar(1), attributes={"exclusive": 1})
    ends = graph.op("Equal", tokens, graph.scalar(EOS))
    # EOS may be one position beyond the last token
    positions = graph.op("Sub", positions, graph.op("Cast", ends, attributes={"to": INT64}))
    within = graph.op("Less", positions, graph.op("Unsqueeze", bounds, graph.ints(1)))
    tokens = graph.op("Where", within, tokens, graph.scalar(PAD))
    real = graph.op("Cast", tokens, attributes={"to": BOOL})  # PAD is 0
    return tokens, graph.op("Where", real, scores, graph.scalar(0.0, np.float32))
