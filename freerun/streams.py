"""The standard streams, whatever state the process got them in: closed, full, replaced, or in another encoding."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, BinaryIO

__all__ = ["binary_input", "discard_output", "is_terminal", "prepare_streams", "write_notice"]

_STREAMS = {0: ("stdin", "r"), 1: ("stdout", "w"), 2: ("stderr", "w")}


def prepare_streams() -> None:
    """Make the three streams of a command usable.

    A closed stream counts as /dev/null, which takes its number: otherwise the next file that is opened would get it,
    and warnings would go into that file. Text is written as UTF-8, as into files, whatever the locale says.
    """
    for number, (name, mode) in _STREAMS.items():
        _take_number(number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (until the end)
    for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _take_number(number: int) -> None:
    """Open /dev/null as the descriptor ``number`` if that is closed; those below it are open."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(opened, True)


def is_terminal(stream: Any) -> bool:
    """Return True if a person watches; False for None, closed streams and objects that can do no more than write."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def binary_input() -> BinaryIO:
    """Standard input as bytes, also where a host program put a stream of text in its place."""
    if sys.stdin is None:
        return io.BytesIO()
    buffer: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    return io.BytesIO(sys.stdin.read().encode()) if buffer is None else buffer


def write_notice(text: str, stream: Any = None) -> None:
    """Write to ``stream`` or to standard error what no result depends on: where that fails, work goes on without.

    It never goes to standard output by itself, which is for results.
    """
    where = sys.stderr if stream is None else stream
    with contextlib.suppress(OSError, ValueError, AttributeError):  # full or gone; closed; None, or without flush
        where.write(text)
        where.flush()


def discard_output() -> None:
    """After a failed write to standard output: forget the rest, which Python would try to write again at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream of a host program has no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
