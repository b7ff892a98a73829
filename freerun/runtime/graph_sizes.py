"""Sizes of a graph's values before it runs: shape inference for the operators that freerun writes.

A graph of harmless operators can still fill any memory: values that are concatenated with themselves, or broadcast
against each other, grow with every node. So shapes are computed once for small inputs, and once more for each size
that is only known at run time (sources, their length, features, steps, ...), with that size huge and the others small.
If all values together stay below ``per_position`` numbers times the product of these sizes, none of them grows faster
than linearly in each size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final, NamedTuple, TypeAlias

from freerun.runtime.onnx_file import Declared, GraphError, Node, OnnxGraph, quoted

__all__ = ["MAX_CONTENT", "RULES", "Shape", "check_growth", "shapes_of"]

_SMALL: Final = {"B": 2, "S": 3, "Q": 2, "T": 5, "E": 2, "R": 7, "P": 11, "K": 2}
"""The sizes of small inputs, named as in docs/export.md. N is E * R: R rows for each entry; S+Q is the sum."""
_LARGE: Final = 10**12
_MAX_RANK: Final = 8
MAX_CONTENT: Final = 1024
"""Maximum length of an array that a shape may depend on: a list of widths is about as long as a model has layers."""

Shape: TypeAlias = tuple[int, ...]


class Tensor(NamedTuple):
    """A value: its shape, and its content if it has integers that a shape may depend on."""

    shape: Shape
    content: Shape | None = None


Rule: TypeAlias = Callable[[Mapping[str, Any], Sequence[Tensor]], list[Tensor]]
"""(attributes, inputs) -> outputs."""


def check_growth(graph: OnnxGraph, contents: Mapping[str, Shape], per_position: int) -> None:
    """Check that the values of ``graph`` grow at most in proportion to its inputs.

    Args:
        graph: a graph whose inputs have named axes, and whose bodies have no constants.
        contents: the content of its integer constants by name.
        per_position: the limit of numbers in all values together, per source, source token, feature, row and step.

    Raises:
        GraphError: they grow faster, or the inputs of a node do not fit it.
    """
    stored = sum(prod(constant.dims) for constant in graph.constants)
    free = _free_sizes(graph)
    for large in ("", *free):
        sizes = {name: _LARGE if name == large else _SMALL[name] for name in free}
        _Evaluation(sizes, 8 * stored + per_position * prod(sizes.values())).run(graph, contents)


def shapes_of(graph: OnnxGraph, contents: Mapping[str, Shape], sizes: Mapping[str, int]) -> dict[str, Shape]:
    """Return the shapes of a graph's values by name, except in bodies, for the ``sizes`` B, S, Q, T, E, R, P and K."""
    known = _Evaluation(sizes, _LARGE).run(graph, contents)
    return {name: tensor.shape for name, tensor in known.items()}


def _free_sizes(graph: OnnxGraph) -> list[str]:
    """Return the names of the sizes that are known only at run time."""
    axes = {axis for each in graph.inputs for axis in each.shape if isinstance(axis, str)}
    if "N" in axes:
        axes |= {"E", "R", "K"}
    if "S+Q" in axes:
        axes.add("S")
    if any(node.operator == "Loop" for node in graph.nodes):
        axes.add("T")
    return [name for name in _SMALL if name in axes]


class _Evaluation:
    """Shape inference for one choice of the ``sizes`` known only at run time, for values of up to ``limit`` numbers."""

    def __init__(self, sizes: Mapping[str, int], limit: int) -> None:
        derived = {"N": sizes.get("E", 1) * sizes.get("R", 1), "S+Q": sizes.get("S", 0) + sizes.get("Q", 0)}
        self._sizes = {**sizes, **derived}
        self._left = limit

    def run(self, graph: OnnxGraph, contents: Mapping[str, Shape]) -> dict[str, Tensor]:
        """Return all values of a graph by name."""
        known = {each.name: self._input(each) for each in graph.inputs}
        for constant in graph.constants:
            _add(known, constant.name, Tensor(constant.dims, contents.get(constant.name)))
        self._run(graph.nodes, known)
        for declared in graph.outputs:
            if declared.name not in known or known[declared.name].shape != self._input(declared).shape:
                raise GraphError(f"the output {quoted(declared.name)} does not have its declared shape")
        return known

    def _input(self, declared: Declared) -> Tensor:
        shape = tuple([size if isinstance(size, int) else self._sizes[size] for size in declared.shape])
        return Tensor(shape, (self._sizes["K"],) if declared.name == "k" else None)

    def _run(self, nodes: Sequence[Node], known: dict[str, Tensor]) -> None:
        for node in nodes:
            try:
                outputs = self._outputs(node, known)
            except (IndexError, KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError):
                # an input, axis or attribute is missing, or of a kind that the rule does not support
                raise _misfit(node) from None
            if len(node.outputs) > len(outputs):
                raise _misfit(node)
            for name, tensor in zip(node.outputs, outputs, strict=False):
                if len(tensor.shape) > _MAX_RANK:
                    raise _misfit(node)
                self._left -= prod(tensor.shape)
                if self._left < 0:
                    raise GraphError("its values grow out of proportion to the model and the inputs")
                _add(known, name, tensor)

    def _outputs(self, node: Node, known: dict[str, Tensor]) -> list[Tensor]:
        given = [known[name] for name in node.inputs if name]
        if node.operator == "Loop":
            return self._loop(node.attributes["body"], given[1:], known)
        if node.operator == "Scan":
            return self._scan(node.attributes["body"], given, node.attributes["num_scan_inputs"], known)
        return RULES[node.operator](node.attributes, given)

    def _loop(self, body: Any, carried: list[Tensor], known: dict[str, Tensor]) -> list[Tensor]:
        """[trips, carried...] -> [carried..., steps of each further output]."""
        outputs = self._body(body, [Tensor(()), Tensor(()), *carried], known)
        after, each = outputs[1 : len(carried) + 1], outputs[len(carried) + 1 :]
        _check_states(carried, after)
        return [*carried, *(Tensor((self._sizes["T"], *one.shape)) for one in each)]

    def _scan(self, body: Any, given: list[Tensor], number: Any, known: dict[str, Tensor]) -> list[Tensor]:
        """[states..., sequences...] -> [states..., positions of each further output]."""
        states, sequences = given[: len(given) - number], given[len(given) - number :]
        (length,) = {one.shape[0] for one in sequences}
        outputs = self._body(body, [*states, *(Tensor(one.shape[1:]) for one in sequences)], known)
        after, each = outputs[: len(states)], outputs[len(states) :]
        _check_states(states, after)
        return [*states, *(Tensor((length, *one.shape)) for one in each)]

    def _body(self, body: OnnxGraph, given: list[Tensor], known: dict[str, Tensor]) -> list[Tensor]:
        inner = dict(known)
        for declared, tensor in zip(body.inputs, given, strict=True):
            _add(inner, declared.name, Tensor(tensor.shape))
        self._run(body.nodes, inner)
        return [inner[declared.name] for declared in body.outputs]


def _add(known: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in known:
        raise GraphError(f"two values are named {quoted(name)}")
    known[name] = tensor


def _check_states(before: list[Tensor], after: list[Tensor]) -> None:
    if [each.shape for each in before] != [each.shape for each in after]:
        raise ValueError("a state changes its shape")


def _misfit(node: Node) -> GraphError:
    name = node.outputs[0] if node.outputs else ""
    return GraphError(f"the inputs or attributes of {quoted(node.operator)} (for {quoted(name)}) do not fit it")


def _integers(tensor: Tensor) -> Shape:
    """Return the content of a value that a shape depends on. TypeError if it is unknown before the graph runs."""
    if tensor.content is None:
        raise TypeError("not known")
    return tensor.content


#  rules: attributes and inputs to outputs -----------------------------------------------------------------------------


def _first(_: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    return [Tensor(given[0].shape)]


def _unchanged(_: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    return [given[0]]


def _broadcast(*shapes: Shape) -> Shape:
    if shapes.count(shapes[0]) == len(shapes):
        return shapes[0]
    rank = max(map(len, shapes))
    sizes = []
    for axis in zip(*[(1,) * (rank - len(shape)) + shape for shape in shapes], strict=True):
        size = max(axis)
        if any(each not in (1, size) for each in axis):
            raise ValueError("not the same size")
        sizes.append(size)
    return tuple(sizes)


def _elementwise(_: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    return [Tensor(_broadcast(*[each.shape for each in given]))]


def _matmul(_: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    (*a, rows, inner), (*b, same, columns) = given[0].shape, given[1].shape
    if inner != same:
        raise ValueError("not the same size")
    return [Tensor((*_broadcast(tuple(a), tuple(b)), rows, columns))]


def _axis(attributes: Mapping[str, Any], name: str, rank: int) -> int:
    axis: int = attributes[name]
    return range(rank)[axis]


def _gather(attributes: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    table, ids = given[0].shape, given[1].shape
    axis = range(len(table))[attributes.get("axis", 0)]
    return [Tensor((*table[:axis], *ids, *table[axis + 1 :]))]


def _transpose(attributes: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    shape, order = given[0].shape, attributes["perm"]
    if sorted(order) != [*range(len(shape))]:
        raise ValueError("not an order of the axes")
    return [Tensor(tuple([shape[axis] for axis in order]))]


def _squeeze(_: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    shape = given[0].shape
    dropped = _axes(given, len(shape)) if len(given) > 1 else {axis for axis, size in enumerate(shape) if size == 1}
    if any(shape[axis] != 1 for axis in dropped):
        raise ValueError("more than one number")
    return [Tensor(tuple([size for axis, size in enumerate(shape) if axis not in dropped]), given[0].content)]


def _unsqueeze(_: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    sizes = iter(given[0].shape)
    rank = len(given[0].shape) + len(_integers(given[1]))
    added = _axes(given, rank)
    if len(added) != len(_integers(given[1])):
        raise ValueError("an axis twice")
    return [Tensor(tuple([1 if axis in added else next(sizes) for axis in range(rank)]))]


def _axes(given: Sequence[Tensor], rank: int) -> set[int]:
    return {range(rank)[axis] for axis in _integers(given[1])}


def _reshape(_: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    old = given[0].shape
    shape = [old[axis] if size == 0 else size for axis, size in enumerate(_integers(given[1]))]
    if -1 in shape:
        rest = -prod(shape)
        shape[shape.index(-1)] = prod(old) // rest
    if min(shape, default=1) < 0 or prod(shape) != prod(old):
        raise ValueError("not as many numbers")
    return [Tensor(tuple(shape))]


def _split(attributes: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    shape, sizes = given[0].shape, _integers(given[1])
    axis = _axis(attributes, "axis", len(shape))
    if sum(sizes) != shape[axis] or min(sizes) < 0:
        raise ValueError("parts that are not the whole")
    return [Tensor((*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]


def _concat(attributes: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    shape = given[0].shape
    axis = _axis(attributes, "axis", len(shape))
    (before,) = {each.shape[:axis] for each in given}
    (after,) = {each.shape[axis + 1 :] for each in given}
    size = sum(each.shape[axis] for each in given)
    content = None
    if len(shape) == 1 and size <= MAX_CONTENT and all(each.content is not None for each in given):
        content = tuple([number for each in given for number in _integers(each)])
    return [Tensor((*before, size, *after), content)]


def _reduced(attributes: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    shape = given[0].shape
    axes = _axes(given, len(shape)) if len(given) > 1 else set(range(len(shape)))
    if attributes["keepdims"] != 0:
        raise ValueError("axes of 1")
    return [Tensor(tuple([size for axis, size in enumerate(shape) if axis not in axes]))]


def _argmax(attributes: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    axis = _axis(attributes, "axis", len(given[0].shape))
    return _reduced(attributes, [given[0], Tensor((1,), (axis,))])


def _top(_: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    (number,) = _integers(given[1])
    return [Tensor((*given[0].shape[:-1], number))] * 2


def _shape(attributes: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    sizes = given[0].shape[attributes["start"] : attributes["end"]]
    return [Tensor((len(sizes),), sizes)]


def _range(_: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    (first,), (last,), (step,) = map(_integers, given)
    return [Tensor((len(range(first, last, step)),))]


def _expand(_: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    shape = _integers(given[1])
    if min(shape, default=1) < 1:
        raise ValueError("not a size")
    return [Tensor(_broadcast(given[0].shape, shape))]


def _recurrent(attributes: Mapping[str, Any], given: Sequence[Tensor]) -> list[Tensor]:
    """LSTM, GRU and RNN: x [S, B, I], weights [directions, G, I] and [directions, G, H] -> Y, Y_h and Y_c."""
    length, rows, inputs = given[0].shape
    (directions, gates, same), (_, _, hidden) = given[1].shape, given[2].shape
    if inputs != same or given[2].shape != (directions, gates, attributes["hidden_size"]):
        raise ValueError("weights of another size")
    last = Tensor((directions, rows, hidden))
    return [Tensor((length, directions, rows, hidden)), last, last]


RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(("Identity", "Cast"), _unchanged),
    **dict.fromkeys(
        ("Clip", "CumSum", "LogSoftmax", "QuantizeLinear", "Sigmoid", "Softmax", "Tanh"),
        _first,
    ),
    **dict.fromkeys(("Add", "And", "Equal", "GreaterOrEqual", "Less", "Max", "Mul", "Sub", "Where"), _elementwise),
    **dict.fromkeys(("Gemm", "MatMul", "MatMulInteger"), _matmul),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
    "ArgMax": _argmax,
    "Concat": _concat,
    "Expand": _expand,
    "Gather": _gather,
    "Range": _range,
    "ReduceMax": _reduced,
    "Reshape": _reshape,
    "Shape": _shape,
    "Split": _split,
    "Squeeze": _squeeze,
    "TopK": _top,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
