"""Rules for the graphs of a bundle: bundles are untrusted, and onnxruntime runs whatever a graph contains.

A graph is accepted if it consists of what freerun writes and of nothing else:

- operators, attributes and the opset version of ``OPERATORS`` and ``OPSET``, no functions and no external data
  (``onnx_file`` rejects those);
- constants whose data have the length that their shape implies, whose values are finite, and whose integers, which may
  become sizes, are no larger than the model's;
- the inputs and outputs of ``interface``;
- at most one loop, only in greedy.onnx, which ends after max(max_lengths) + 1 steps;
- values that do not grow out of proportion (``graph_sizes``).

An accepted graph can still compute nonsense, but in bounded memory and, given the length bound, in bounded time.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, isqrt, prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from freerun.architecture import Architecture
from freerun.runtime.graph_sizes import MAX_CONTENT, Shape, check_growth
from freerun.runtime.interface import BOOL, FLOAT, INT8, INT32, INT64, UINT8, inputs_of, outputs_of
from freerun.runtime.onnx_file import Attribute, Constant, Declared, GraphError, Node, OnnxFile, OnnxGraph, quoted
from freerun.symbols import NEVER_WRITTEN

__all__ = ["IR_VERSION", "OPERATORS", "OPSET", "check_graph", "checked_constants", "max_fields"]

OPSET: Final = 20
"""The opset of the standard operators: the first in which ReduceMax accepts booleans."""
IR_VERSION: Final = 9

_RECURRENT: Final = ("hidden_size", "direction")
OPERATORS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("Add", "And", "Clip", "Equal", "Expand", "Gemm", "GreaterOrEqual", "Identity", "Less"), ()),
    **dict.fromkeys(("MatMul", "MatMulInteger", "Max", "Mul", "QuantizeLinear", "Range", "Reshape", "Sigmoid"), ()),
    **dict.fromkeys(("Squeeze", "Sub", "Tanh", "TopK", "Unsqueeze", "Where"), ()),
    **dict.fromkeys(("Concat", "LogSoftmax", "Softmax", "Split", "Gather"), ("axis",)),
    "ArgMax": ("axis", "keepdims"),
    "Cast": ("to",),
    "CumSum": ("exclusive",),
    "GRU": (*_RECURRENT, "linear_before_reset"),
    "LSTM": _RECURRENT,
    "Loop": ("body",),
    "RNN": _RECURRENT,
    "ReduceMax": ("keepdims",),
    "Scan": ("body", "num_scan_inputs", "scan_input_directions", "scan_output_directions"),
    "Shape": ("start", "end"),
    "Transpose": ("perm",),
}
"""Every operator that freerun writes, with its attributes. ``freerun.onnx_export`` writes no others."""

_KINDS: Final[Mapping[int, np.dtype[Any]]] = {
    FLOAT: np.dtype("<f4"),
    UINT8: np.dtype("u1"),
    INT8: np.dtype("i1"),
    INT32: np.dtype("<i4"),
    INT64: np.dtype("<i8"),
    BOOL: np.dtype("u1"),
}
_MIN_LIMIT: Final = 16
"""Integers up to this limit are always allowed: even a small model has such axes, ids and element types."""
_PER_LAYER: Final = 64
"""Maximum values per layer, each as wide as the model's widest; freerun's layers compute up to about 20."""


def max_fields(sizes: Architecture) -> int:
    """Return the maximum number of fields (names, nodes, attributes, ...) in a graph: twice that of the largest."""
    return 2000 * (sizes.num_layers + 4)


def check_graph(file: OnnxFile, name: str, sizes: Architecture) -> None:
    """Check that the graph ``name`` of a model of these ``sizes`` consists of what freerun writes.

    Raises:
        GraphError: it does not.
    """
    graph = file.graph
    if file.ir_version != IR_VERSION or file.opsets != {"": OPSET}:
        versions = ", ".join(f"{quoted(domain)} {version}" for domain, version in file.opsets.items())
        what = f"IR version {file.ir_version} and opsets {versions or 'of no domain'}"
        raise GraphError(f"{what}; freerun writes {IR_VERSION} and '' {OPSET}")
    widest = _widest(graph, sizes)
    for node in graph.nodes:
        _check_node(node, max(widest, _MIN_LIMIT))
    _check_loops(graph, name)
    contents = checked_constants(graph, sizes.target_vocabulary, max(widest, _MIN_LIMIT))
    _check_interface("input", graph.inputs, inputs_of(name, sizes))
    _check_interface("output", graph.outputs, outputs_of(name, sizes))
    check_growth(graph, contents, _PER_LAYER * (min(sizes.num_layers, len(graph.nodes)) + 2) * widest)


def _widest(graph: OnnxGraph, sizes: Architecture) -> int:
    """Return the width of the model's widest vector, counting a size only if the graph has the constants it implies.

    A recurrent weight is [G, H], and without one each input of a layer has G weights. Values are as wide as an
    embedding only if the output layer projects to it [H, E], or features are summarized by a table [V, E].
    """
    stored = sum(prod(constant.dims) for constant in graph.constants)
    spec = sizes.cell_spec
    hidden = min(sizes.hidden_size, isqrt(max(stored, 0)) if spec.is_recurrent else stored // spec.gates)
    embedding = min(sizes.embedding_size, stored // sizes.hidden_size) if sizes.is_projected else 0
    if sizes.feature_summary_size:
        embedding = max(embedding, min(sizes.embedding_size, stored // sizes.feature_vocabulary))
    return max(sizes.source_vocabulary, sizes.target_vocabulary, 4 * hidden, embedding)


#  nodes ---------------------------------------------------------------------------------------------------------------


def _check_node(node: Node, limit: int) -> None:
    if node.domain:
        raise GraphError(f"an operator {quoted(node.operator)} of the domain {quoted(node.domain)}")
    if node.operator not in OPERATORS:
        raise GraphError(f"an operator {quoted(node.operator)}, which freerun never writes")
    for name, value in node.attributes.items():
        if name not in OPERATORS[node.operator]:
            raise GraphError(f"an attribute {quoted(name)} of {node.operator}, which freerun never writes")
        if isinstance(value, OnnxGraph) != (name == "body"):
            raise GraphError(f"the attribute {quoted(name)} of {node.operator} has another type than freerun writes")
        if isinstance(value, OnnxGraph):
            _check_body(value, limit)
        else:
            _check_attribute(node.operator, name, value, limit)


def _check_body(body: OnnxGraph, limit: int) -> None:
    if body.constants:
        raise GraphError("the body of a node has its own constants")
    for node in body.nodes:
        if "body" in OPERATORS.get(node.operator, ()):
            raise GraphError(f"a {node.operator} in the body of another node")
        _check_node(node, limit)


def _check_attribute(operator: str, name: str, value: Attribute, limit: int) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, int) and not -1 <= number <= limit:
            what = f"the attribute {quoted(name)} of {operator} is {number}"
            raise GraphError(f"{what}; the model has no size above {limit}")


def _check_loops(graph: OnnxGraph, name: str) -> None:
    """Check that only the greedy graph has a loop, just one, whose trip count is computed from ``max_lengths``."""
    loops = [node for node in graph.nodes if node.operator == "Loop"]
    if len(loops) != (name == "greedy"):
        raise GraphError(f"{len(loops)} loops; freerun writes {int(name == 'greedy')} in this graph")
    if name == "step" and any(node.operator == "Scan" for node in graph.nodes):
        raise GraphError("a Scan, which freerun never writes in this graph")
    producers = {output: node for node in graph.nodes for output in node.outputs}
    ones = {each.name for each in graph.constants if _is_one(each)}
    for loop in loops:
        trips, condition = (*loop.inputs[:2], "", "")[:2]
        if condition or not _is_bounded(producers.get(trips), producers, ones):
            raise GraphError("a Loop whose number of steps is not max(max_lengths) + 1")


def _is_bounded(trips: Node | None, producers: Mapping[str, Node], ones: set[str]) -> bool:
    """Return True if a trip count is ReduceMax(max_lengths) + 1, as ``freerun.onnx_export.greedy_graph`` writes it."""
    if trips is None or trips.operator != "Add" or len(trips.inputs) != 2 or trips.inputs[1] not in ones:
        return False
    longest = producers.get(trips.inputs[0])
    return longest is not None and longest.operator == "ReduceMax" and longest.inputs == ("max_lengths",)


def _is_one(constant: Constant) -> bool:
    return constant.element_type == INT64 and not constant.dims and bytes(constant.data) == b"\1" + bytes(7)


#  constants -----------------------------------------------------------------------------------------------------------


def checked_constants(graph: OnnxGraph, vocabulary: int, limit: int) -> dict[str, Shape]:
    """Check all constants; return the content of those that a shape may depend on, by name.

    ``vocabulary`` is the number of target ids. Integers must not exceed ``limit``.
    """
    contents = {}
    for constant in graph.constants:
        array = _array(constant)
        if constant.element_type == FLOAT:
            _check_finite(constant, array, vocabulary)
        elif constant.element_type == BOOL:
            _check_range(constant, array, 0, 1)
        elif constant.element_type in (INT32, INT64):
            _check_range(constant, array, -1, limit)
            if array.size <= MAX_CONTENT:
                contents[constant.name] = tuple(array.tolist())
    return contents


def _array(constant: Constant) -> NDArray[Any]:
    """Return the values of a constant as a flat array, without copying."""
    kind = _KINDS.get(constant.element_type)
    if kind is None:
        raise GraphError(f"the constant {quoted(constant.name)} has the element type {constant.element_type}")
    size = prod(constant.dims)
    if min(constant.dims, default=1) < 1 or len(constant.data) != size * kind.itemsize:
        what = f"is {constant.dims} and has {len(constant.data):,} bytes of data"
        raise GraphError(f"the constant {quoted(constant.name)} {what}")
    return np.frombuffer(constant.data, kind)


def _check_range(constant: Constant, array: NDArray[Any], low: int, high: int) -> None:
    for number in (int(array.min()), int(array.max())):
        if not low <= number <= high:
            raise GraphError(f"the constant {quoted(constant.name)} has the value {number}, outside {low} to {high}")


def _check_finite(constant: Constant, array: NDArray[Any], vocabulary: int) -> None:
    with np.errstate(all="ignore"):
        total = array.sum()  # four times as fast as checking each value; overflows only for enormous values
    if not isfinite(total) and not np.isfinite(array).all() and not _bans_ids(constant, array, vocabulary):
        raise GraphError(f"the constant {quoted(constant.name)} has values that are not finite")


def _bans_ids(constant: Constant, array: NDArray[Any], vocabulary: int) -> bool:
    """Return True for the mask on log-probabilities: -inf for ids that no search writes, 0 for the others."""
    if constant.dims != (vocabulary,):
        return False
    banned = np.zeros(vocabulary, np.float32)
    banned[list(NEVER_WRITTEN)] = -np.inf
    return bool((array == banned).all())


#  inputs and outputs --------------------------------------------------------------------------------------------------


def _check_interface(what: str, actual: tuple[Declared, ...], expected: tuple[Declared, ...]) -> None:
    names = [[each.name for each in values] for values in (actual, expected)]
    if names[0] != names[1]:
        listed = [", ".join(map(quoted, each[:12])) or "none" for each in names]
        raise GraphError(f"the {what}s are {listed[0]}, but this model has {listed[1]}")
    for one, other in zip(actual, expected, strict=True):
        if one != other:
            shapes = [f"type {each.element_type} and shape {list(each.shape)}" for each in (one, other)]
            raise GraphError(f"the {what} {one.name} has {shapes[0]}, but in this model {shapes[1]}")
