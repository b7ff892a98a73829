"""The reader of ONNX files: what it reads is what onnx reads, and other bytes give a GraphError, soon."""

from __future__ import annotations

import random
import time

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from freerun.onnx_export.graph import model_of
from freerun.onnx_export.greedy_graph import greedy_graph
from freerun.onnx_export.products import Fp32
from freerun.onnx_export.quantise import Int8
from freerun.runtime.onnx_file import MAX_FIELDS, GraphError, OnnxGraph, quoted, read_onnx
from tests.exported import GraphsOf
from tests.networks import network


def exported(arithmetic=None, **options):
    weights = GraphsOf(network(1, torch.float32, **options)).weights
    return model_of(greedy_graph(weights, arithmetic or Fp32()), {"freerun.graph": "greedy", "empty": ""})


@pytest.fixture(scope="module")
def content():
    return exported(num_layers=1, hidden_size=2, embedding_size=2)


def error_of(content, **options):
    with pytest.raises(GraphError) as error:
        read_onnx(content, **options)
    return str(error.value)


# ----------------------------------------------------------------------------------------------------- as onnx reads it


def as_read(graph):
    """A graph of the package onnx as ``OnnxGraph`` has it."""
    nodes = [
        (node.op_type, node.domain, tuple(node.input), tuple(node.output), dict(map(attribute, node.attribute)))
        for node in graph.node
    ]
    constants = [(each.name, each.data_type, tuple(each.dims), each.raw_data) for each in graph.initializer]
    values = [[declared(each) for each in values] for values in (graph.input, graph.output)]
    return nodes, constants, *values


def attribute(each):
    value = onnx.helper.get_attribute_value(each)
    if isinstance(value, onnx.GraphProto):
        return each.name, as_read(value)
    return each.name, tuple(value) if isinstance(value, list) else value.decode() if isinstance(value, bytes) else value


def declared(each):
    kind = each.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in kind.shape.dim]
    return each.name, kind.elem_type, tuple(dims)


def plain(value):
    """``OnnxGraph`` in tuples and lists."""
    if isinstance(value, OnnxGraph):
        nodes = [(*node[:4], {name: plain(each) for name, each in node.attributes.items()}) for node in value.nodes]
        constants = [(*each[:3], bytes(each.data)) for each in value.constants]
        return nodes, constants, [tuple(each) for each in value.inputs], [tuple(each) for each in value.outputs]
    return value


@pytest.mark.parametrize("arithmetic", [Fp32(), Int8()], ids=["fp32", "int8"])
@pytest.mark.parametrize(
    "options", [{}, {"cell": "gru", "bidirectional": True, "attention": "concat", "context": "every_step"}], ids=str
)
def test_a_file_is_read_as_onnx_reads_it(options, arithmetic):
    content = exported(arithmetic, **options)
    found, expected = read_onnx(content), onnx.load_from_string(content)
    assert plain(found.graph) == as_read(expected.graph)
    assert found.metadata == {"freerun.graph": "greedy", "empty": ""}
    assert (found.ir_version, found.opsets) == (expected.ir_version, {"": 20})


def test_the_data_of_constants_are_not_copied(content):
    constants = read_onnx(content).graph.constants
    expected = {each.name: numpy_helper.to_array(each) for each in onnx.load_from_string(content).graph.initializer}
    for each in constants:
        assert each.data.obj is content
        assert np.frombuffer(each.data, expected[each.name].dtype).tolist() == expected[each.name].ravel().tolist()


# ---------------------------------------------------------------------------------------------------------- other bytes


def outcome(content):
    try:
        read_onnx(bytes(content))
    except GraphError:
        return "rejected"
    return "read"


def test_a_file_that_is_cut_anywhere_is_rejected_or_is_a_shorter_file(content):
    found = [outcome(content[:length]) for length in range(len(content))]
    # onnx writes the graph before opsets and metadata: only between two of those can a file end as well
    assert found[: content.rindex(b"constant.")] == ["rejected"] * content.rindex(b"constant.")
    assert set(found) == {"rejected", "read"} and found.count("read") <= 4


def test_flipped_bits_give_a_graph_or_an_error(content):
    found = []
    for place in range(0, len(content), 4):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        found.append(outcome(changed))
    assert set(found) == {"rejected", "read"}


def test_random_bytes_give_a_graph_or_an_error():
    for number in range(3000):
        chance = random.Random(number)
        outcome(chance.randbytes(chance.randrange(60)))
        # bytes that begin as a file does
        outcome(b"\x08\x09\x3a" + chance.randbytes(chance.randrange(60)))


def field(number, content):
    """A field of bytes."""
    return length((number << 3) | 2) + length(len(content)) + content


def length(number):
    found = b""
    while number > 127:
        number, found = number >> 7, found + bytes([number & 127 | 128])
    return found + bytes([number])


GRAPH = field(7, b"")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no graph"),
        (b"garbage", "the field 12 (wire type 7) in a ModelProto, which freerun never writes"),
        (b"\x08", "truncated"),
        (b"\x08\x09" * 2 + GRAPH, "the field ir_version of a ModelProto occurs twice"),
        (GRAPH + GRAPH, "the field graph of a ModelProto occurs twice"),
        (b"\x3a\x05", "a ModelProto ends in the middle of a field"),
        (field(7, b"\x0a\x04") + field(8, b"\x0a\x00"), "a GraphProto ends in the middle of a field"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a ModelProto ends in the middle of a field"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "a number of more than 64 bits"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "a number of more than 64 bits"),
        (b"\x08" + b"\x80" * 10 + b"\x00" + GRAPH, "a number of more than 64 bits"),
        (b"\x3b\x3c" + GRAPH, "the field 7 (wire type 3) in a ModelProto, which freerun never writes"),
        (b"\x38\x00", "the field 7 (wire type 0) in a ModelProto, which freerun never writes"),
        (field(20, b"") + GRAPH, "training information in a ModelProto, which freerun never writes"),
        (field(25, b"") + GRAPH, "functions in a ModelProto, which freerun never writes"),
        (field(14, field(1, b"a")) * 2 + GRAPH, "the same entry occurs twice"),
        (field(8, b"") * 2 + GRAPH, "the same domain occurs twice"),
        (field(14, field(1, b"\xff")) + GRAPH, "a name that is not UTF-8"),
        (field(7, field(15, b"")), "sparse tensors in a GraphProto, which freerun never writes"),
        (field(7, field(5, field(13, b""))), "external data in a TensorProto, which freerun never writes"),
        (field(7, field(5, b"\x70\x01")), "external data in a TensorProto, which freerun never writes"),
        (field(7, field(5, b"\x70\x00")), "external data in a TensorProto, which freerun never writes"),
        (field(7, field(5, b"\x0a\x01\x02")), "the field 1 (wire type 2) in a TensorProto, which freerun never writes"),
        (field(7, field(1, field(5, field(5, b"")))), "a tensor in a AttributeProto, which freerun never writes"),
        (field(7, field(1, field(5, b"\x18\x01"))), "the attribute '' does not have exactly one value of its type"),
        (field(7, field(11, field(2, field(1, field(2, field(1, b"\x08\x01\x12\x00")))))), "both a size and a name"),
    ],
)
def test_what_freerun_never_writes_is_told(content, expected):
    assert expected in error_of(content)


def nested(depth):
    """A node whose body has a node whose body ..., ``depth`` bodies deep."""
    content = b""
    for _ in range(depth):
        content = field(1, field(5, b"\xa0\x01\x05" + field(6, content)))
    return field(7, content)


def test_bodies_in_bodies_are_rejected_however_deep():
    assert read_onnx(nested(1)).graph.nodes
    for depth in (2, 3, 2000):
        assert error_of(nested(depth)) == "a node in the body of another one has a body itself"


def test_an_attribute_has_one_value_of_its_type():
    def attributed(content):
        return field(7, field(1, field(5, field(1, b"axis") + content)))

    (node,) = read_onnx(attributed(b"\xa0\x01\x02\x18" + b"\xff" * 9 + b"\x01")).graph.nodes
    assert node.attributes == {"axis": -1}
    for content in (b"\xa0\x01\x02", b"\xa0\x01\x02\x40\x01", b"\xa0\x01\x02\x18\x01\x40\x01", b"\xa0\x01\x09\x18\x01"):
        assert error_of(attributed(content)) == "the attribute 'axis' does not have exactly one value of its type"


def test_a_file_of_millions_of_fields_is_rejected_soon():
    start = time.process_time()
    assert error_of(field(7, field(1, b"") * 99), max_fields=99) == "more than 99 fields"
    assert read_onnx(field(7, field(1, b"") * 98), max_fields=99).graph.nodes
    assert error_of(field(7, field(1, b"") * (MAX_FIELDS + 1))) == f"more than {MAX_FIELDS:,} fields"
    assert error_of(field(7, field(1, field(1, b"") * (MAX_FIELDS + 1)))) == f"more than {MAX_FIELDS:,} fields"
    assert time.process_time() - start < 10


def test_names_are_quoted_without_control_characters_and_cut():
    assert quoted("a\x1b[2J\n") == "'a\\x1b[2J\\n'"
    assert quoted("x" * 99) == "'" + "x" * 37 + "...'"
