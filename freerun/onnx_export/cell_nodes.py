"""The cells of ``freerun.models.cells`` as ONNX nodes: one step from the input and recurrent projections of the gates.

Gates come in parts (``freerun.runtime.weights``). Shape suffixes: B rows, H hidden, G gates x hidden. Each of
``inputs`` is the input projection of a part with all biases except a gated one; each of ``recurrent`` is the recurrent
projection with that one, and there are none if the cell is not recurrent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from freerun.onnx_export.graph import Graph, Value

__all__ = ["CELL_NODES", "CellNodes", "LayerState"]

LayerState = tuple[Value, Value | None]
"""(h, c) of a layer, each [B, H]; c is None unless the cell has one."""


@dataclass(frozen=True)
class CellNodes:
    """One cell in ONNX.

    Attributes:
        step: ``(graph, inputs, recurrent, state before, H) -> state after``.
        operator: torch's number of each gate in the order of ONNX's own recurrent operator, which is named like the
            cell in capitals; None if there is no such operator, so the encoder is a ``Scan`` over the step.
        attributes: further attributes of that operator.
    """

    step: Callable[[Graph, Sequence[Value], Sequence[Value], LayerState, int], LayerState]
    operator: tuple[int, ...] | None = None
    attributes: Mapping[str, int] | None = None


def lstm_step(
    graph: Graph, inputs: Sequence[Value], recurrent: Sequence[Value], state: LayerState, size: int
) -> LayerState:
    """LSTM (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    c' = f * c + i * g;  h' = o * tanh(c').
    """
    _, c = state
    assert c is not None
    ifo = graph.op("Sigmoid", graph.op("Add", inputs[0], recurrent[0]))
    i, f, o = graph.split(ifo, [size] * 3)
    g = graph.op("Tanh", graph.op("Add", inputs[1], recurrent[1]))
    c = graph.op("Add", graph.op("Mul", f, c), graph.op("Mul", i, g))
    return graph.op("Mul", o, graph.op("Tanh", c)), c


def gru_step(
    graph: Graph, inputs: Sequence[Value], recurrent: Sequence[Value], state: LayerState, size: int
) -> LayerState:
    """GRU (Cho et al. 2014, reset gate after the matmul).

    n = tanh(input_n + r * recurrent_n);  h' = (1 - z) * n + z * h, written as n + z * (h - n), which is a node less.
    """
    h, _ = state
    r, z = graph.split(graph.op("Sigmoid", graph.op("Add", inputs[0], recurrent[0])), [size] * 2)
    n = graph.op("Tanh", graph.op("Add", inputs[1], graph.op("Mul", r, recurrent[1])))
    return graph.op("Add", n, graph.op("Mul", z, graph.op("Sub", h, n))), None


def rnn_step(
    graph: Graph, inputs: Sequence[Value], recurrent: Sequence[Value], state: LayerState, size: int
) -> LayerState:
    """Plain RNN: h' = tanh(input + recurrent) (Elman 1990)."""
    return graph.op("Tanh", graph.op("Add", inputs[0], recurrent[0])), None


def mingru_step(
    graph: Graph, inputs: Sequence[Value], recurrent: Sequence[Value], state: LayerState, size: int
) -> LayerState:
    """MinGRU (Feng et al. 2024): n = g(input_n);  h' = (1 - z) * h + z * n, written as h + z * (n - h).

    g(x) = x + 1/2 for x >= 0, else sigmoid(x).
    """
    h, _ = state
    z, x = graph.op("Sigmoid", inputs[0]), inputs[1]
    is_linear = graph.op("GreaterOrEqual", x, graph.scalar(0.0, np.float32))
    n = graph.op("Where", is_linear, graph.op("Add", x, graph.scalar(0.5, np.float32)), graph.op("Sigmoid", x))
    return graph.op("Add", h, graph.op("Mul", z, graph.op("Sub", n, h))), None


CELL_NODES: Final[Mapping[str, CellNodes]] = {
    "lstm": CellNodes(lstm_step, operator=(0, 3, 1, 2)),
    "gru": CellNodes(gru_step, operator=(1, 0, 2), attributes={"linear_before_reset": 1}),
    "rnn": CellNodes(rnn_step, operator=(0,)),
    "mingru": CellNodes(mingru_step),
}
"""ONNX's operators order their gates i o f c and z r h."""
