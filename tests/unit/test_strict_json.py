"""JSON from a stranger."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freerun.strict_json import MAX_DEPTH, parse

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_json_comes_back_as_it_was(value, ascii_only):
    assert parse(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff", "invalid start byte"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"", "Expecting value"),
        (b"{} x", "Extra data"),
        (b"[NaN]", "NaN is not a number in JSON"),
        (b"[-Infinity]", "-Infinity is not a number in JSON"),
        (b"[1e999]", "the number 1e999 is too large"),
        (b"1" * 5000, "does not fit into 64 bits"),
        (str(2**63).encode(), "does not fit into 64 bits"),
        (str(-(2**63) - 1).encode(), "does not fit into 64 bits"),
        (b'["\\ud800"]', "half a surrogate pair, U+D800"),
        (b'{"\\udfff": 1}', "half a surrogate pair, U+DFFF"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 deep"),
        (b"[" * 100_000, "nested more than 64 deep"),
    ],
)
def test_everything_else_is_told(content, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        parse(content)


def test_the_edges_of_what_is_allowed():
    assert parse(str(2**63 - 1).encode()) == 2**63 - 1
    assert parse(str(-(2**63)).encode()) == -(2**63)
    assert parse(b'"\\ud83d\\ude00"') == "\U0001f600"
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    brackets = ["[" * 100, '"' + "[" * 100, "\\" + "{" * 100]  # in strings, brackets nest nothing
    assert parse(json.dumps(brackets).encode()) == brackets
    assert parse(json.dumps([[]] * 1000).encode()) == [[]] * 1000
