"""The structure of an ONNX file, read without the package ``onnx``: a graph is checked before onnxruntime sees it.

A reader of protobuf's wire format (https://protobuf.dev/programming-guides/encoding) for exactly those fields of
onnx.proto that freerun writes. Any other field is an error, so nothing needs to be searched for: external data,
functions, sparse tensors, tensors in attributes and training information are fields that are not in the tables below.
Parsers of protobuf merge a message that occurs twice, and read repeated numbers in two encodings; freerun writes
neither of these, so both are errors, and no other parser can see another graph in the same bytes.

The data of constants are not copied. Cost: about a microsecond per field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

__all__ = ["Attribute", "Constant", "Declared", "Node", "OnnxFault", "OnnxFile", "OnnxGraph", "quoted", "read_onnx"]

MAX_FIELDS: Final = 2**20
"""Fields of a whole file, whatever the model."""

_NUMBER, _BYTES = 0, 2
"""Wire types: a number of 7 bits per byte, and a length followed by bytes."""
_SIGN: Final = 2**63

Span: TypeAlias = tuple[int, int]
"""Where a message's or a string's bytes begin and end in the file."""


class OnnxFault(Exception):
    """What is wrong with a graph, as the middle part of a message."""


class _Message(NamedTuple):
    """A kind of message: its fields by tag, each with its name and True if it may be repeated.

    ``unwritten`` has words for fields that freerun never writes.
    """

    name: str
    fields: Mapping[int, tuple[str, bool]]
    unwritten: Mapping[int, str] = {}


def _tagged(wire: int, *fields: tuple[int, str, bool]) -> dict[int, tuple[str, bool]]:
    return {number << 3 | wire: (name, repeated) for number, name, repeated in fields}


_MODEL: Final = _Message(
    "ModelProto",
    {
        **_tagged(_NUMBER, (1, "ir_version", False)),
        **_tagged(
            _BYTES,
            (2, "producer_name", False),
            (7, "graph", False),
            (8, "opset_import", True),
            (14, "metadata_props", True),
        ),
    },
    {20: "training information", 25: "functions"},
)
_OPSET: Final = _Message("OperatorSetIdProto", {10: ("domain", False), 16: ("version", False)})
_ENTRY: Final = _Message("StringStringEntryProto", _tagged(_BYTES, (1, "key", False), (2, "value", False)))
_GRAPH: Final = _Message(
    "GraphProto",
    _tagged(
        _BYTES,
        (1, "node", True),
        (2, "name", False),
        (5, "initializer", True),
        (11, "input", True),
        (12, "output", True),
    ),
    {15: "sparse tensors"},
)
_NODE: Final = _Message(
    "NodeProto",
    _tagged(
        _BYTES,
        (1, "input", True),
        (2, "output", True),
        (3, "name", False),
        (4, "op_type", False),
        (5, "attribute", True),
        (7, "domain", False),
    ),
)
_ATTRIBUTE: Final = _Message(
    "AttributeProto",
    {
        **_tagged(_NUMBER, (3, "i", False), (8, "ints", True), (20, "type", False)),
        **_tagged(_BYTES, (1, "name", False), (4, "s", False), (6, "g", False)),
    },
    {5: "a tensor", 10: "tensors", 22: "a sparse tensor", 23: "sparse tensors"},
)
_TENSOR: Final = _Message(
    "TensorProto",
    {
        **_tagged(_NUMBER, (1, "dims", True), (2, "data_type", False)),
        **_tagged(_BYTES, (8, "name", False), (9, "raw_data", False)),
    },
    {13: "external data", 14: "external data"},
)
_VALUE: Final = _Message("ValueInfoProto", _tagged(_BYTES, (1, "name", False), (2, "type", False)))
_TYPE: Final = _Message("TypeProto", _tagged(_BYTES, (1, "tensor_type", False)))
_TENSOR_TYPE: Final = _Message(
    "TypeProto.Tensor", {**_tagged(_NUMBER, (1, "elem_type", False)), **_tagged(_BYTES, (2, "shape", False))}
)
_SHAPE: Final = _Message("TensorShapeProto", _tagged(_BYTES, (1, "dim", True)))
_DIM: Final = _Message(
    "TensorShapeProto.Dimension", {**_tagged(_NUMBER, (1, "value", False)), **_tagged(_BYTES, (2, "name", False))}
)

_ATTRIBUTE_FIELDS: Final = {2: "i", 3: "s", 5: "g", 7: "ints"}
"""The field of an attribute's value by the attribute's ``type``."""


class Constant(NamedTuple):
    """An initializer. ``element_type`` is a TensorProto.DataType; ``data`` are its bytes, little endian."""

    name: str
    element_type: int
    dims: tuple[int, ...]
    data: memoryview


class Declared(NamedTuple):
    """An input or output: element type, and for each axis its size or the name of one known only at run time."""

    name: str
    element_type: int
    shape: tuple[int | str, ...]


class Node(NamedTuple):
    """A node; a domain of "" is ONNX's own. An input that is left out has the name ""."""

    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


class OnnxGraph(NamedTuple):
    """A graph or the body of a node."""

    nodes: tuple[Node, ...]
    constants: tuple[Constant, ...]
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]


class OnnxFile(NamedTuple):
    """A whole file: ``opsets`` has versions by domain."""

    ir_version: int
    opsets: Mapping[str, int]
    metadata: Mapping[str, str]
    graph: OnnxGraph


Attribute: TypeAlias = int | str | tuple[int, ...] | OnnxGraph


def read_onnx(content: bytes, max_fields: int = MAX_FIELDS) -> OnnxFile:
    """Read a file of at most so many fields that freerun may have written.

    Raises:
        OnnxFault: it is damaged, or has something in it that freerun never writes.
    """
    try:
        return _FieldReader(content, max_fields).file()
    except IndexError:
        raise OnnxFault("it is truncated") from None
    except UnicodeDecodeError:
        raise OnnxFault("it has a name that is not UTF-8") from None


class _FieldReader:
    def __init__(self, content: bytes, max_fields: int) -> None:
        self._content = content
        self._view = memoryview(content)
        self._max_fields = self._left = min(max_fields, MAX_FIELDS)

    # -- protobuf ------------------------------------------------------------------------------------------------------

    def _fields(self, span: Span, message: _Message) -> dict[str, Any]:
        """The fields of a message by name, as numbers and spans; lists of them for repeated ones.

        IndexError at the end of the file.
        """
        content, known = self._content, message.fields
        found: dict[str, Any] = {}
        at, end = span
        while at < end:
            # nearly all numbers are one byte, and a call would take twice as long
            tag, at = (content[at], at + 1) if content[at] < 128 else self._number(at)
            if tag not in known:
                raise _unwritten(message, tag)
            number, at = (content[at], at + 1) if content[at] < 128 else self._number(at)
            name, repeated = known[tag]
            value: int | Span = number
            if tag & 7 == _BYTES:
                value, at = (at, at + number), at + number
            if repeated:
                found.setdefault(name, []).append(value)
            elif name in found:
                raise OnnxFault(f"the field {name} of a {message.name} occurs twice")
            else:
                found[name] = value
            self._left -= 1
            if self._left < 0:
                raise OnnxFault(f"it has more than {self._max_fields:,} fields")
        if at != end or at > len(content):
            raise OnnxFault(f"a {message.name} ends in the middle of a field")
        return found

    def _number(self, at: int) -> tuple[int, int]:
        """The number that begins at ``at``, unsigned, and where it ends."""
        number = 0
        for shift in range(0, 70, 7):
            byte = self._content[at]
            at += 1
            number |= (byte & 127) << shift
            if byte < 128:
                if number >= 2 * _SIGN:
                    break
                return number, at
        raise OnnxFault("it has a number of more than 64 bits")

    def _text(self, span: Span | None) -> str:
        return "" if span is None else self._content[span[0] : span[1]].decode()

    def _texts(self, spans: list[Span]) -> tuple[str, ...]:
        return tuple([self._text(span) for span in spans])

    # -- ONNX ----------------------------------------------------------------------------------------------------------

    def file(self) -> OnnxFile:
        """The whole file."""
        fields = self._fields((0, len(self._content)), _MODEL)
        if "graph" not in fields:
            raise OnnxFault("it has no graph")
        opsets = [self._fields(span, _OPSET) for span in fields.get("opset_import", [])]
        entries = [self._fields(span, _ENTRY) for span in fields.get("metadata_props", [])]
        return OnnxFile(
            fields.get("ir_version", 0),
            _unique("domain", [(self._text(each.get("domain")), each.get("version", 0)) for each in opsets]),
            _unique("entry", [(self._text(each.get("key")), self._text(each.get("value"))) for each in entries]),
            self._graph(fields["graph"], is_body=False),
        )

    def _graph(self, span: Span, is_body: bool) -> OnnxGraph:
        fields = self._fields(span, _GRAPH)
        return OnnxGraph(
            tuple([self._node(each, is_body) for each in fields.get("node", [])]),
            tuple([self._constant(each) for each in fields.get("initializer", [])]),
            tuple([self._declared(each) for each in fields.get("input", [])]),
            tuple([self._declared(each) for each in fields.get("output", [])]),
        )

    def _node(self, span: Span, is_in_body: bool) -> Node:
        fields = self._fields(span, _NODE)
        attributes = [self._attribute(each, is_in_body) for each in fields.get("attribute", [])]
        return Node(
            self._text(fields.get("op_type")),
            self._text(fields.get("domain")),
            self._texts(fields.get("input", [])),
            self._texts(fields.get("output", [])),
            _unique("attribute", attributes),
        )

    def _attribute(self, span: Span, is_in_body: bool) -> tuple[str, Attribute]:
        fields = self._fields(span, _ATTRIBUTE)
        name, kind = self._text(fields.pop("name", None)), fields.pop("type", 0)
        field = _ATTRIBUTE_FIELDS.get(kind, "")
        if list(fields) != [field]:
            raise OnnxFault(f"the attribute {quoted(name)} has not exactly one value of its type")
        value = fields[field]
        if field == "i":
            return name, _signed(value)
        if field == "s":
            return name, self._text(value)
        if field == "ints":
            return name, tuple(map(_signed, value))
        if is_in_body:
            raise OnnxFault("a node in the body of another one has a body itself")
        return name, self._graph(value, is_body=True)

    def _constant(self, span: Span) -> Constant:
        fields = self._fields(span, _TENSOR)
        start, end = fields.get("raw_data", (0, 0))
        dims = tuple([_signed(size) for size in fields.get("dims", [])])
        return Constant(self._text(fields.get("name")), fields.get("data_type", 0), dims, self._view[start:end])

    def _declared(self, span: Span) -> Declared:
        fields = self._fields(span, _VALUE)
        kind = self._fields(fields.get("type", (0, 0)), _TYPE)
        tensor = self._fields(kind.get("tensor_type", (0, 0)), _TENSOR_TYPE)
        shape = self._fields(tensor.get("shape", (0, 0)), _SHAPE)
        dims = [self._fields(each, _DIM) for each in shape.get("dim", [])]
        return Declared(
            self._text(fields.get("name")), tensor.get("elem_type", 0), tuple([self._dim(each) for each in dims])
        )

    def _dim(self, fields: Mapping[str, Any]) -> int | str:
        if len(fields) == 2:
            raise OnnxFault("an axis has both a size and a name")
        return _signed(fields["value"]) if "value" in fields else self._text(fields.get("name"))


def quoted(name: str) -> str:
    """A name from the file for a message: quoted, without control characters, at most about 40 characters."""
    return repr(name if len(name) <= 40 else f"{name[:37]}...")


def _signed(number: int) -> int:
    return number - 2 * _SIGN if number >= _SIGN else number


def _unique(what: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise OnnxFault(f"the same {what} occurs twice")
    return found


def _unwritten(message: _Message, tag: int) -> OnnxFault:
    number = tag >> 3
    what = message.unwritten.get(number, f"the field {number} (wire type {tag & 7})")
    return OnnxFault(f"{what} in a {message.name}, which freerun never writes")
