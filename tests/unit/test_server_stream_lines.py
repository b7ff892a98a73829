"""Lines of a stream, as they arrive."""

from __future__ import annotations

import asyncio
import tracemalloc

from hypothesis import example, given
from hypothesis import strategies as st

from freerun.server.stream_route import _groups_of_lines

LONGEST = 20


def lines_of(parts):
    """The lines in these parts of a body."""

    async def receive():
        part = next(rest, b"")
        return {"type": "http.request", "body": part, "more_body": part != b""}

    async def gathered():
        return [line async for group in _groups_of_lines(receive, LONGEST) for line in group]

    rest = iter(parts)
    return asyncio.run(gathered())


contents = st.lists(st.sampled_from([b"a", b"b" * 9, b"c" * 25, b"\n", b"\n\n"]), max_size=30).map(b"".join)


@given(contents, st.lists(st.integers(1, 30), min_size=1))
@example(b"a" * 50 + b"\nb", [7])
@example(b"a" * 50 + b"\n", [60])
@example(b"\n" * 200, [200])
def test_lines_do_not_depend_on_where_packets_begin(content, sizes):
    parts, start = [], 0
    while start < len(content):
        size = sizes[len(parts) % len(sizes)]
        parts.append(content[start : start + size])
        start += size
    expected = content.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert lines_of(parts) == [line[: LONGEST + 1] for line in expected]


def test_a_line_of_any_length_takes_no_memory():
    """A hundred parts of one line, each as large as those that a connection reads."""
    tracemalloc.start()
    try:
        assert lines_of(bytes([letter]) * 65_536 for letter in range(65, 165)) == [b"A" * (LONGEST + 1)]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
