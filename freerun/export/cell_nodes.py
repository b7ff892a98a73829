"""The cells of ``freerun.models.recurrence`` once more, as ONNX nodes: one step from the two halves of the gates.

Gates come in *parts*, which are what a cell treats as one: an LSTM's i f o and g, a GRU's r z and n, an RNN's only one.
Legend: B rows, H hidden, G gates x hidden. Each of ``inputs`` is the input's half of a part with all biases but a GRU's
``bias_n``, each of ``recurrent`` the state's half with that one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from freerun.export.graph import Array, Graph, Value
from freerun.runtime.sizes import NUM_GATES

__all__ = ["CELLS", "Cell", "LayerState", "in_parts", "part_widths"]

_PARTS: Final = {"lstm": ((0, 1, 3), (2,)), "gru": ((0, 1), (2,)), "rnn": ((0,),)}
"""The gates of each part, numbered as torch has them: i f g o, r z n."""

LayerState = tuple[Value, Value | None]
"""(h, c) of a layer, each [B, H]; c is None but for an LSTM."""

Cell = Callable[[Graph, Sequence[Value], Sequence[Value], LayerState, int], LayerState]
"""(graph, inputs, recurrent, the state before, H) -> the state after."""


def in_parts(cell: str, array: Array) -> list[Array]:
    """An array whose first axis is gates in torch's order [G, ...], a part each."""
    gates = np.split(array, NUM_GATES[cell])
    return [np.concatenate([gates[number] for number in part]) for part in _PARTS[cell]]


def part_widths(cell: str, size: int) -> list[int]:
    """How wide each part is for H = ``size``."""
    return [len(part) * size for part in _PARTS[cell]]


def lstm_cell(
    graph: Graph, inputs: Sequence[Value], recurrent: Sequence[Value], state: LayerState, size: int
) -> LayerState:
    """C' = f c + i g;  h' = o tanh(c')  (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000)."""
    _, c = state
    assert c is not None
    ifo = graph.op("Sigmoid", graph.op("Add", inputs[0], recurrent[0]))
    i, f, o = graph.split(ifo, [size] * 3)
    g = graph.op("Tanh", graph.op("Add", inputs[1], recurrent[1]))
    c = graph.op("Add", graph.op("Mul", f, c), graph.op("Mul", i, g))
    return graph.op("Mul", o, graph.op("Tanh", c)), c


def gru_cell(
    graph: Graph, inputs: Sequence[Value], recurrent: Sequence[Value], state: LayerState, size: int
) -> LayerState:
    """N = tanh(input_n + r recurrent_n);  h' = (1 - z) n + z h  (Cho et al. 2014, reset gate after the product).

    Written as n + z (h - n), which is a node less.
    """
    h, _ = state
    r, z = graph.split(graph.op("Sigmoid", graph.op("Add", inputs[0], recurrent[0])), [size] * 2)
    n = graph.op("Tanh", graph.op("Add", inputs[1], graph.op("Mul", r, recurrent[1])))
    return graph.op("Add", n, graph.op("Mul", z, graph.op("Sub", h, n))), None


def rnn_cell(
    graph: Graph, inputs: Sequence[Value], recurrent: Sequence[Value], state: LayerState, size: int
) -> LayerState:
    """H' = tanh(input + recurrent)  (Elman 1990)."""
    return graph.op("Tanh", graph.op("Add", inputs[0], recurrent[0])), None


CELLS: Final[Mapping[str, Cell]] = {"lstm": lstm_cell, "gru": gru_cell, "rnn": rnn_cell}
