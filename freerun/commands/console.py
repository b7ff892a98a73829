"""Console output of a running command: plain lines on standard error."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from typing import Final, TextIO

from freerun.streams import is_terminal, write_notice
from freerun.text import one_line

__all__ = ["CountLine", "StatusLine", "say", "shown_notices"]

_ERASED: Final = "\r\x1b[2K"
"""Goes back to the beginning of a terminal's line and erases it."""


def say(text: str, stream: TextIO | None = None) -> None:
    """Write lines to standard error, or to ``stream``; their text may quote files from anywhere."""
    write_notice("\n".join(map(one_line, text.split("\n"))) + "\n", stream)


@contextlib.contextmanager
def shown_notices() -> Iterator[None]:
    """Within the block, print the library's notices as ``say`` does, and its warnings with the prefix "warning: "."""
    import logging  # 10 ms that a prediction does not need

    from freerun.log import log

    class Console(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"{'warning: ' if record.levelno >= logging.WARNING else ''}{record.getMessage()}")

    handler, level, propagates = Console(), log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # a host program's own handlers would print them a second time
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagates


class StatusLine:
    """A line of progress: rewritten in place on a terminal, else a new line each time."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.is_terminal = is_terminal(self.stream)

    def show(self, text: str) -> None:
        """Show the line in place of the one before."""
        if self.is_terminal:
            # a line that wraps could not be rewritten in place
            write_notice(f"{_ERASED}{text[: shutil.get_terminal_size().columns - 1]}", self.stream)
        else:
            say(text, self.stream)

    def clear(self) -> None:
        """Remove the line, so that the next output has a line of its own."""
        if self.is_terminal:
            write_notice(_ERASED, self.stream)


class CountLine:
    """A line on a terminal that counts finished work and is removed at the end; without a terminal, nothing."""

    def __init__(self, activity: str, unit: str) -> None:
        self._activity, self._unit = activity, unit
        self._shows = is_terminal(sys.stderr)

    def __enter__(self) -> CountLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Remove the line."""
        if self._shows:
            write_notice(_ERASED)

    def __call__(self, done: int, total: int) -> None:
        """Rewrite the line."""
        if self._shows:
            write_notice(f"{_ERASED}{self._activity}: {done:,} of {total:,} {self._unit}")
