"""Entries: tensors of a source that stay constant while its rows are decoded.

A *static* tensor has one entry per source. There are as many rows as entries, or R times as many: then the rows of one
source are adjacent. Shape suffixes: E entries, R rows of each, N = E x R rows.
"""

from __future__ import annotations

from typing import Protocol

from freerun.onnx_export.graph import Graph, Value

__all__ = ["Entries", "OneRowEach", "SeveralRowsEach"]


class Entries(Protocol):
    """How rows find their entry."""

    def grouped(self, graph: Graph, rows: Value, size: int) -> Value:
        """Reshape [N, size] to [E, R, size]."""
        ...

    def flat(self, graph: Graph, grouped: Value, size: int) -> Value:
        """Reshape [E, R, size] to [N, size]."""
        ...

    def add(self, graph: Graph, rows: Value, static: Value, size: int) -> Value:
        """Add to each row of [N, size] its entry of ``static`` [E, size]."""
        ...


class OneRowEach:
    """R = 1."""

    def grouped(self, graph: Graph, rows: Value, size: int) -> Value:
        """See ``Entries``."""
        return graph.op("Reshape", rows, graph.ints(-1, 1, size))

    def flat(self, graph: Graph, grouped: Value, size: int) -> Value:
        """See ``Entries``."""
        return graph.op("Reshape", grouped, graph.ints(-1, size))

    def add(self, graph: Graph, rows: Value, static: Value, size: int) -> Value:
        """See ``Entries``."""
        return graph.op("Add", rows, static)


class SeveralRowsEach:
    """Any R, computed from a static tensor."""

    def __init__(self, graph: Graph, static: Value) -> None:
        self._number = graph.op("Shape", static, attributes={"start": 0, "end": 1})

    def grouped(self, graph: Graph, rows: Value, size: int) -> Value:
        """See ``Entries``."""
        return graph.op("Reshape", rows, graph.concat([self._number, graph.ints(-1, size)]))

    def flat(self, graph: Graph, grouped: Value, size: int) -> Value:
        """See ``Entries``."""
        return graph.op("Reshape", grouped, graph.ints(-1, size))

    def add(self, graph: Graph, rows: Value, static: Value, size: int) -> Value:
        """See ``Entries``."""
        static = graph.op("Unsqueeze", static, graph.ints(1))
        return self.flat(graph, graph.op("Add", self.grouped(graph, rows, size), static), size)
