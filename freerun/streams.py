"""The standard streams in whatever state the process got them: closed, full, replaced, or in another encoding."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, BinaryIO

__all__ = ["binary_input", "discard_output", "error_descriptor", "is_terminal", "prepare_streams", "write_notice"]

_STREAMS = {0: ("stdin", "r"), 1: ("stdout", "w"), 2: ("stderr", "w")}


def prepare_streams() -> None:
    """Make the three standard streams usable for a command.

    A closed stream is replaced by /dev/null under its descriptor: otherwise the next file to be opened would get the
    descriptor, and warnings would go into that file. Text is written as UTF-8, as in files, whatever the locale.
    """
    for number, (name, mode) in _STREAMS.items():
        _occupy_descriptor(number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (until the end)
    for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _occupy_descriptor(number: int) -> None:
    """Open /dev/null as the descriptor ``number`` if it is closed; all lower descriptors are open."""
    try:
        os.fstat(number)
    except OSError:
        descriptor = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(descriptor, True)


def is_terminal(stream: Any) -> bool:
    """Return True for a terminal; False for None, closed streams and objects that have only ``write``."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def binary_input() -> BinaryIO:
    """Return standard input as bytes, even if a host program has replaced it by a text stream."""
    if sys.stdin is None:
        return io.BytesIO()
    buffer: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    return io.BytesIO(sys.stdin.read().encode()) if buffer is None else buffer


def write_notice(text: str, stream: Any = None) -> None:
    """Write text that no result depends on to ``stream``, by default standard error; errors are ignored.

    It is never written to standard output by default, which is for results.
    """
    target = sys.stderr if stream is None else stream
    with contextlib.suppress(OSError, ValueError, AttributeError):  # full or gone; closed; None, or without flush
        target.write(text)
        target.flush()


def discard_output() -> None:
    """Discard buffered output after a failed write to standard output; Python would write it again at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream of a host program has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def error_descriptor() -> int:
    """Return the file descriptor of standard error; an OSError, ValueError or AttributeError if it has none."""
    return sys.stderr.fileno()
