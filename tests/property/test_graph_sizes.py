"""Shapes that are inferred before a graph runs are those of its values when it does."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from freerun.onnx_export.encoder_graph import encoder_graph
from freerun.onnx_export.graph import model_of
from freerun.onnx_export.greedy_graph import greedy_graph
from freerun.onnx_export.products import Fp32
from freerun.onnx_export.quantise import Int8
from freerun.onnx_export.step_graph import step_graph
from freerun.runtime.graph_rules import checked_constants
from freerun.runtime.graph_sizes import shapes_of
from freerun.runtime.interface import inputs_of
from freerun.runtime.onnx_file import read_onnx
from freerun.runtime.session import open_session
from tests.exported import GraphsOf, feature_options, model_options
from tests.networks import network

MAKERS = {"encoder": encoder_graph, "step": step_graph, "greedy": greedy_graph}


def with_all_values(content):
    """The graph with every value of its nodes as an output."""
    model = onnx.load_from_string(content)
    there = {each.name for each in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name and name not in there]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return model.SerializeToString(), [*there, *names]


def feeds_of(name, sizes, free):
    """Inputs of the ``free`` sizes: ids that exist, and as many steps as there may be."""
    feeds = {}
    for each in inputs_of(name, sizes):
        shape = [free[size] if isinstance(size, str) else size for size in each.shape]
        feeds[each.name] = np.zeros(shape, np.float32 if each.element_type == 1 else np.int64)
    feeds.get("lengths", np.empty(0))[:] = free.get("S", 1)
    feeds.get("max_lengths", np.empty(0))[:] = free.get("T", 1) - 1
    feeds.get("k", np.empty(0))[:] = free.get("K", 1)
    return feeds


@settings(max_examples=40)
@given(
    st.one_of(model_options(), feature_options()),
    st.sampled_from([Fp32(), Int8()]),
    st.lists(st.integers(1, 4), min_size=6, max_size=6),
)
def test_inferred_shapes_are_those_of_the_values(options, arithmetic, numbers):
    model = network(3, torch.float32, scale=0.1, **options)
    with torch.no_grad():
        model.decoder.output_bias[2] = -50  # no end: as many steps as allowed
    weights = GraphsOf(model).weights
    free = dict(zip("BSQTER", numbers, strict=True))
    free |= {"N": free["E"] * free["R"], "S+Q": free["S"] + free["Q"], "P": 5, "K": 2}
    for name, make in MAKERS.items():
        content = model_of(make(weights, arithmetic), {})
        graph = read_onnx(content).graph
        expected = shapes_of(graph, checked_constants(graph, 9, 100), free)
        changed, names = with_all_values(content)
        found = open_session(changed, 1, name).run(names, feeds_of(name, weights.sizes, free))
        for each, array in zip(names, found, strict=True):
            assert expected[each] == array.shape, each
