"""Texts as a person reads them: one line each, and no terminal is moved."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freerun.text import in_minutes, json_line, one_line


@given(st.text())
def test_a_text_stays_one_line_and_moves_no_terminal(text):
    for shown in (one_line(text), json_line(text)):
        assert len(shown.splitlines()) <= 1
        assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in shown)
    assert json.loads(json_line(text)) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc\rd\x1b[2J\0", r"a\tb\nc\rd\x1b[2J\x00"),
        ("\x7f\x9b\x85\u2028\u2029", r"\x7f\x9b\x85\u2028\u2029"),
        ("plain \\n text, ümläut, 日本", "plain \\n text, ümläut, 日本"),
        ("a\u200cb\u00a0c\u3000d\u200de\u00adf", "a\u200cb\u00a0c\u3000d\u200de\u00adf"),  # parts of writing systems
    ],
)
def test_only_controls_are_escaped(text, shown):
    assert one_line(text) == shown


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_such_numbers(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_line([value])


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "1 minute"), (1.001, "1 minute"), (1.5, "1.5 minutes"), (0.1, "0.1 minutes"), (30.0, "30 minutes")],
)
def test_minutes_are_told_as_they_were_set(number, text):
    assert in_minutes(number) == text
