"""A graph under construction: its nodes, and the constants that it shares with the graphs inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from freerun.runtime.graph_rules import IR_VERSION, OPERATORS, OPSET
from freerun.runtime.interface import BOOL, FLOAT, INT32, INT64

__all__ = ["BOOL", "FLOAT", "INT32", "INT64", "IR_VERSION", "OPSET", "Array", "Graph", "Shape", "Value", "model_of"]

Array: TypeAlias = NDArray[Any]
Value: TypeAlias = str
"""The name of a tensor in a graph."""
Shape: TypeAlias = Sequence[int | str]
"""Numbers, and names of sizes that are known only at run time."""


class Graph:
    """Nodes in the order in which they are written.

    A body of a loop is a graph ``inside`` another: it reads the other's values, and its constants are kept outside, so
    that each is stored once and read by both.
    """

    def __init__(self, name: str, outside: Graph | None = None) -> None:
        self.name = name
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {} if outside is None else outside._constants
        self._taken: set[str] = set() if outside is None else outside._taken
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def inside(self, name: str) -> Graph:
        """Return an empty graph that will be the body of a node of this one."""
        return Graph(name, self)

    def input(self, name: str, kind: int, shape: Shape) -> Value:
        """Declare an input."""
        self._inputs.append(helper.make_tensor_value_info(self._new(name), kind, shape))
        return name

    def output(self, value: Value, kind: int, shape: Shape, name: str = "") -> None:
        """Declare ``value`` as an output, under another ``name`` if one is given."""
        if name:
            self._nodes.append(helper.make_node("Identity", [value], [self._new(name)]))
        self._outputs.append(helper.make_tensor_value_info(name or value, kind, shape))

    def constant(self, name: str, array: Array) -> Value:
        """Return a constant. A name stands for one array: a second call returns the existing constant."""
        name = f"constant.{name}"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def ints(self, *numbers: int) -> Value:
        """Return a constant list of integers."""
        return self.constant("ints." + ".".join(map(str, numbers)), np.array(numbers, np.int64))

    def scalar(self, number: float, kind: type[np.generic] = np.int64) -> Value:
        """Return a constant scalar."""
        return self.constant(f"{kind.__name__}.{number}", np.array(number, kind))

    def op(self, kind: str, *inputs: Value, attributes: Mapping[str, Any] | None = None) -> Value:
        """Add a node with one output, and return that."""
        return self.ops(kind, *inputs, count=1, attributes=attributes)[0]

    def ops(self, kind: str, *inputs: Value, count: int, attributes: Mapping[str, Any] | None = None) -> list[Value]:
        """Add a node with ``count`` outputs, and return them.

        ValueError for an operator or attribute that no reader of bundles accepts: ``graph_rules`` lists them.
        """
        unlisted = set(attributes or {}) - set(OPERATORS.get(kind, ()))
        if kind not in OPERATORS or unlisted:
            raise ValueError(f"{kind} {sorted(unlisted)} is not in OPERATORS of freerun.runtime.graph_rules")
        outputs = [self._new(f"{kind.lower()}.{len(self._taken)}") for _ in range(count)]
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, **(attributes or {})))
        return outputs

    def split(self, value: Value, sizes: Sequence[int]) -> list[Value]:
        """Split the last axis into parts of these sizes."""
        if len(sizes) == 1:
            return [value]
        return self.ops("Split", value, self.ints(*sizes), count=len(sizes), attributes={"axis": -1})

    def concat(self, values: Sequence[Value]) -> Value:
        """Join values along the last axis."""
        return values[0] if len(values) == 1 else self.op("Concat", *values, attributes={"axis": -1})

    def finished(self) -> onnx.GraphProto:
        """Return the graph as an ONNX message; constants belong to the outermost graph."""
        return helper.make_graph(self._nodes, self.name, self._inputs, self._outputs)

    def constants(self) -> list[onnx.TensorProto]:
        """Return all constants of this graph and of those inside it."""
        return list(self._constants.values())

    def _new(self, name: str) -> Value:
        if name in self._taken:
            raise ValueError(f"the graph {self.name} has a value {name!r} already")
        self._taken.add(name)
        return name


def model_of(graph: Graph, metadata: Mapping[str, str]) -> bytes:
    """Return the finished graph as the bytes of an ONNX file, checked; equal graphs give equal bytes."""
    proto = graph.finished()
    proto.initializer.extend(graph.constants())
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="freerun"
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
