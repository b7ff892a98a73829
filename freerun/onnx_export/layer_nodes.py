"""A layer over a whole source, in one direction or two, as ONNX nodes, in either of two ways.

- ``by_operator``: ONNX's own recurrent operators, which take a length for each row. They multiply in float32;
- ``by_scan``: the cell's equations in a ``Scan``, for any cell and in any arithmetic. A row that has ended keeps its
  state, and a row that is read from its end has none until then.

Both give a row's final state after its last real token, and nothing in it depends on padding. Shape suffixes: S source,
B batch, I input, H hidden, M memory (H x directions), G gates x hidden.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from freerun.onnx_export.cell_nodes import CELL_NODES, LayerState
from freerun.onnx_export.graph import BOOL, FLOAT, Array, Graph, Value
from freerun.onnx_export.products import Arithmetic, several
from freerun.runtime.weights import LayerWeights, part_widths

__all__ = ["by_operator", "by_scan", "input_gates", "token_gates"]

_DIRECTIONS: Final = ("forward", "backward")

Sequence = tuple[Value, LayerState]
"""Outputs [S, B, M] (undefined on padding, and not computed at all unless ``needs_outputs``) and the final (h, c), each
[B, M]."""


def by_operator(
    graph: Graph,
    arithmetic: Arithmetic,
    name: str,
    layer: list[LayerWeights],
    values: Value,
    lengths: Value,
    needs_outputs: bool,
) -> Sequence:
    """Run ``values`` [S, B, I] through a layer in its one or two directions; lengths [B] int32."""
    cell = layer[0].cell
    nodes = CELL_NODES[cell.name]
    biases, inputs, recurrents = [], [], []
    for one in layer:
        assert nodes.operator is not None and one.weight_hh is not None and one.bias_hh is not None
        biases.append(np.concatenate([_reordered(nodes.operator, bias) for bias in (one.bias_ih, one.bias_hh)]))
        inputs.append(_reordered(nodes.operator, one.weight_ih))
        recurrents.append(_reordered(nodes.operator, one.weight_hh))
    outputs, *final = graph.ops(
        cell.name.upper(),
        values,
        _joined(graph, arithmetic, f"{name}.input", inputs),
        _joined(graph, arithmetic, f"{name}.recurrent", recurrents),
        graph.constant(f"{name}.bias", np.stack(biases)),
        lengths,
        count=3 if cell.has_cell_state else 2,
        attributes={
            "hidden_size": layer[0].hidden_size,
            "direction": "forward" if len(layer) == 1 else "bidirectional",
            **(nodes.attributes or {}),
        },
    )
    h, *c = [_flat(graph, value, len(layer)) for value in final]
    return _side_by_side(graph, outputs, len(layer)) if needs_outputs else "", (h, c[0] if c else None)


def _reordered(order: tuple[int, ...], array: Array) -> Array:
    """Reorder gates (the first axis) from torch's order to that of ONNX."""
    gates = np.split(array, len(order))
    return np.concatenate([gates[number] for number in order])


def _joined(graph: Graph, arithmetic: Arithmetic, name: str, arrays: list[Array]) -> Value:
    """Return [directions, ...], each direction's array stored separately."""
    of_each = [
        arithmetic.weight(graph, f"{name}.{direction}", array[None], -1)
        for direction, array in zip(_DIRECTIONS, arrays, strict=False)
    ]
    return of_each[0] if len(of_each) == 1 else graph.op("Concat", *of_each, attributes={"axis": 0})


def _flat(graph: Graph, final: Value, directions: int) -> Value:
    """Reshape [directions, B, H] to [B, M]."""
    if directions == 1:
        return graph.op("Squeeze", final, graph.ints(0))
    final = graph.op("Transpose", final, attributes={"perm": [1, 0, 2]})
    return graph.op("Reshape", final, graph.ints(0, -1))


def _side_by_side(graph: Graph, outputs: Value, directions: int) -> Value:
    """Reshape [S, directions, B, H] to [S, B, M]."""
    if directions == 1:
        return graph.op("Squeeze", outputs, graph.ints(1))
    return graph.op("Reshape", graph.op("Transpose", outputs, attributes={"perm": [0, 2, 1, 3]}), graph.ints(0, 0, -1))


# -- in a scan --------------------------------------------------------------------------------------------------------


def input_gates(
    graph: Graph, arithmetic: Arithmetic, name: str, layer: list[LayerWeights], values: Value
) -> list[list[Value]]:
    """Return each direction's parts of the input projection [S, B, ...] of ``values`` [S, B, I] within [-1, 1]."""
    return [
        several(graph, arithmetic.for_sequences(), f"{name}.{direction}.input", values, one.inputs_and_bias())
        for direction, one in zip(_DIRECTIONS, layer, strict=False)
    ]


def token_gates(
    graph: Graph, arithmetic: Arithmetic, layer: list[LayerWeights], embedding: Array, tokens: Value
) -> list[list[Value]]:
    """Return the same for tokens [S, B]: rows of a table, or matmuls if the table were larger than the weights."""
    if len(embedding) <= embedding.shape[1]:
        return [
            [
                graph.op(
                    "Gather", graph.constant(f"tokens.{direction}.{part}", embedding @ each.weight + each.bias), tokens
                )
                for part, each in enumerate(one.inputs_and_bias())
            ]
            for direction, one in enumerate(layer)
        ]
    values = graph.op("Gather", arithmetic.weight(graph, "encoder.embedding", embedding, -1), tokens)
    return [
        [
            graph.op(
                "Add",
                graph.op("MatMul", values, arithmetic.weight(graph, f"tokens.{direction}.{part}", each.weight, 0)),
                graph.constant(f"tokens.{direction}.{part}.bias", np.asarray(each.bias)),
            )
            for part, each in enumerate(one.inputs_and_bias())
        ]
        for direction, one in enumerate(layer)
    ]


def by_scan(
    graph: Graph,
    arithmetic: Arithmetic,
    name: str,
    layer: list[LayerWeights],
    gates: list[list[Value]],
    running: Value,
    needs_outputs: bool,
) -> Sequence:
    """Run each direction's parts of the ``gates`` through a layer; ``running`` [S, B, 1] is True on real positions."""
    directions = [
        _scan(graph, arithmetic, f"{name}.{direction}", one, parts, running, needs_outputs)
        for direction, one, parts in zip(_DIRECTIONS, layer, gates, strict=False)
    ]
    outputs = graph.concat([each[0] for each in directions]) if needs_outputs else ""
    cells = [c for _, (_, c) in directions if c is not None]
    return outputs, (graph.concat([h for _, (h, _) in directions]), graph.concat(cells) if cells else None)


def _scan(
    graph: Graph,
    arithmetic: Arithmetic,
    name: str,
    layer: LayerWeights,
    gates: list[Value],
    running: Value,
    needs_outputs: bool,
) -> Sequence:
    """Run one direction, the backward one from the end of the arrays."""
    size, has_c = layer.hidden_size, layer.cell.has_cell_state
    rows = graph.op("Shape", running, attributes={"start": 1, "end": 2})
    zeros = graph.op("Expand", graph.scalar(0.0, np.float32), graph.concat([rows, graph.ints(size)]))
    backward = int(name.endswith(_DIRECTIONS[1]))
    states = 2 if has_c else 1
    results = graph.ops(
        "Scan",
        *[zeros] * states,
        *gates,
        running,
        count=states + needs_outputs,
        attributes={
            "body": _one_position(graph, arithmetic, name, layer, needs_outputs).finished(),
            "num_scan_inputs": len(gates) + 1,
            "scan_input_directions": [backward] * (len(gates) + 1),
            **({"scan_output_directions": [backward]} if needs_outputs else {}),
        },
    )
    return results[-1] if needs_outputs else "", (results[0], results[1] if has_c else None)


def _one_position(graph: Graph, arithmetic: Arithmetic, name: str, layer: LayerWeights, needs_outputs: bool) -> Graph:
    """Return the body of the scan: (h, c), parts of the gates, running rows -> (h, c), and h again if needed."""
    size = layer.hidden_size
    body = graph.inside(name)
    h = body.input(f"{name}.h", FLOAT, ["B", size])
    c = body.input(f"{name}.c", FLOAT, ["B", size]) if layer.cell.has_cell_state else None
    widths = part_widths(layer.cell.name, size)
    parts = [body.input(f"{name}.gates.{n}", FLOAT, ["B", width]) for n, width in enumerate(widths)]
    runs = body.input(f"{name}.running", BOOL, ["B", 1])
    recurrent = several(body, arithmetic, f"{name}.recurrent", h, layer.recurrent())
    new_h, new_c = CELL_NODES[layer.cell.name].step(body, parts, recurrent, (h, c), size)
    body.output(body.op("Where", runs, new_h, h), FLOAT, ["B", size])
    if c is not None and new_c is not None:
        body.output(body.op("Where", runs, new_c, c), FLOAT, ["B", size])
    if needs_outputs:
        body.output(new_h, FLOAT, ["B", size])
    return body
