"""Shapes by operator, where freerun's own graphs do not need all that a stranger's may use."""

from __future__ import annotations

import pytest

from freerun.runtime.graph_sizes import RULES, Tensor


def shapes(operator, *given, contents=(), **attributes):
    """Output shapes for inputs of these shapes, then inputs of these contents."""
    inputs = [*map(Tensor, given), *(Tensor((len(each),), each) for each in contents)]
    return [tensor.shape for tensor in RULES[operator](attributes, inputs)]


@pytest.mark.parametrize(
    ("operator", "given", "options", "expected"),
    [
        ("Gather", [(2, 3, 4), (5, 6)], {"axis": 1}, (2, 5, 6, 4)),
        ("Gather", [(2, 3, 4), ()], {"axis": -1}, (2, 3)),
        ("Gather", [(2, 3), (4,)], {}, (4, 3)),
        ("MatMul", [(3, 1, 2, 4), (5, 4, 6)], {}, (3, 5, 2, 6)),
        ("MatMulInteger", [(2, 4), (7, 4, 6)], {}, (7, 2, 6)),
        ("Add", [(3, 1), (4,)], {}, (3, 4)),
        ("Where", [(2, 1, 1), (3, 1), (4,)], {}, (2, 3, 4)),
        ("Concat", [(2, 3), (5, 3)], {"axis": 0}, (7, 3)),
        ("Concat", [(2, 3), (2, 4)], {"axis": -1}, (2, 7)),
        ("Reshape", [(2, 3, 4)], {"contents": [(0, -1)]}, (2, 12)),
        ("Reshape", [(2, 3, 4)], {"contents": [(4, 6)]}, (4, 6)),
        ("Squeeze", [(1, 3, 1)], {"contents": [(-1,)]}, (1, 3)),
        ("Squeeze", [(1, 3, 1)], {}, (3,)),
        ("Unsqueeze", [(3, 4)], {"contents": [(0, -1)]}, (1, 3, 4, 1)),
        ("ReduceMax", [(2, 3, 4)], {"keepdims": 0, "contents": [(1,)]}, (2, 4)),
        ("ReduceMax", [(2, 3)], {"keepdims": 0}, ()),
        ("ArgMax", [(2, 3)], {"axis": -1, "keepdims": 0}, (2,)),
        ("Shape", [(2, 3, 4)], {"start": 1, "end": 3}, (2,)),
        ("Range", [], {"contents": [(2,), (9,), (3,)]}, (3,)),
        ("Expand", [(3, 1)], {"contents": [(2, 1, 4)]}, (2, 3, 4)),
        ("TopK", [(2, 9)], {"contents": [(4,)]}, (2, 4)),
        ("Transpose", [(2, 3, 4)], {"perm": (2, 0, 1)}, (4, 2, 3)),
        ("Split", [(2, 9)], {"axis": -1, "contents": [(4, 5)]}, (2, 4)),
        ("GRU", [(5, 2, 3), (2, 12, 3), (2, 12, 4)], {"hidden_size": 4}, (5, 2, 2, 4)),
    ],
)
def test_shapes_are_those_of_onnx(operator, given, options, expected):
    assert shapes(operator, *given, **options)[0] == expected


@pytest.mark.parametrize(
    ("operator", "given", "options"),
    [
        ("MatMul", [(2, 3), (4, 5)], {}),
        ("MatMul", [(3,), (3, 5)], {}),
        ("MatMul", [(2, 2, 3), (5, 3, 4)], {}),
        ("Add", [(3,), (4,)], {}),
        ("Concat", [(2, 3), (2, 4)], {"axis": 0}),
        ("Reshape", [(2, 3)], {"contents": [(4,)]}),
        ("Reshape", [(2, 3)], {"contents": [(4, -1)]}),
        ("Reshape", [(2, 3)], {"contents": [(-1, -1)]}),
        ("Reshape", [(2, 3)], {"contents": [(0, 0, 0)]}),
        ("Squeeze", [(2, 3)], {"contents": [(0,)]}),
        ("Unsqueeze", [(2, 3)], {"contents": [(0, 0)]}),
        ("Split", [(2, 9)], {"axis": -1, "contents": [(4, 4)]}),
        ("Split", [(2, 9)], {"axis": -1, "contents": [(-1, 10)]}),
        ("Transpose", [(2, 3)], {"perm": (0, 0)}),
        ("ReduceMax", [(2, 3)], {"keepdims": 1}),
        ("ArgMax", [(2, 3)], {"axis": 2, "keepdims": 0}),
        ("Expand", [(3,)], {"contents": [(0,)]}),
        ("TopK", [(2, 9), (1,)], {}),
        ("GRU", [(5, 2, 3), (2, 12, 7), (2, 12, 4)], {"hidden_size": 4}),
        ("GRU", [(5, 2, 3), (2, 12, 3), (2, 12, 4)], {"hidden_size": 400}),
    ],
)
def test_inputs_that_do_not_fit_are_an_error(operator, given, options):
    with pytest.raises((IndexError, KeyError, TypeError, ValueError, ZeroDivisionError)):
        shapes(operator, *given, **options)
