"""The cells of ``freerun.models.recurrence`` once more, as ONNX nodes: one step from the two halves of the gates.

Legend: B rows, H hidden, G gates x hidden. ``inputs`` [B, G] is the input's half with all biases but a GRU's
``bias_n``, ``recurrent`` [B, G] the state's half with that one. Gates stand in torch's order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from freerun.export.graph import Graph, Value

__all__ = ["CELLS", "NUM_GATES", "Cell", "LayerState"]

NUM_GATES: Final = {"lstm": 4, "gru": 3, "rnn": 1}

LayerState = tuple[Value, Value | None]
"""(h, c) of a layer, each [B, H]; c is None but for an LSTM."""

Cell = Callable[[Graph, Value, Value, LayerState, int], LayerState]
"""(graph, inputs, recurrent, the state before, H) -> the state after."""


def lstm_cell(graph: Graph, inputs: Value, recurrent: Value, state: LayerState, size: int) -> LayerState:
    """Gates i f g o: c' = f c + i g;  h' = o tanh(c')  (Hochreiter & Schmidhuber 1997; Gers et al. 2000)."""
    _, c = state
    assert c is not None
    gates = graph.op("Add", inputs, recurrent)
    in_and_forget, candidate, out = graph.split(gates, [2 * size, size, size])
    i, f = graph.split(graph.op("Sigmoid", in_and_forget), [size, size])
    kept = graph.op("Mul", f, c)
    added = graph.op("Mul", i, graph.op("Tanh", candidate))
    c = graph.op("Add", kept, added)
    return graph.op("Mul", graph.op("Sigmoid", out), graph.op("Tanh", c)), c


def gru_cell(graph: Graph, inputs: Value, recurrent: Value, state: LayerState, size: int) -> LayerState:
    """Gates r z n: n = tanh(input_n + r recurrent_n);  h' = (1 - z) n + z h  (Cho et al. 2014, reset after product).

    Written as n + z (h - n), which is a node less.
    """
    h, _ = state
    input_rz, input_n = graph.split(inputs, [2 * size, size])
    recurrent_rz, recurrent_n = graph.split(recurrent, [2 * size, size])
    r, z = graph.split(graph.op("Sigmoid", graph.op("Add", input_rz, recurrent_rz)), [size, size])
    n = graph.op("Tanh", graph.op("Add", input_n, graph.op("Mul", r, recurrent_n)))
    return graph.op("Add", n, graph.op("Mul", z, graph.op("Sub", h, n))), None


def rnn_cell(graph: Graph, inputs: Value, recurrent: Value, state: LayerState, size: int) -> LayerState:
    """H' = tanh(input + recurrent)  (Elman 1990)."""
    return graph.op("Tanh", graph.op("Add", inputs, recurrent)), None


CELLS: Final[Mapping[str, Cell]] = {"lstm": lstm_cell, "gru": gru_cell, "rnn": rnn_cell}
