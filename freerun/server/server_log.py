"""The log of the service, on standard error: lines for people, or JSON Lines.

Writing may block (a pipe that is not read) or fail (a full disk), which must not stop an answer: a thread of its own
writes, and lines that cannot be written are counted.
"""

from __future__ import annotations

import json
import os
import queue
import select
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

from freerun.streams import error_descriptor
from freerun.text import one_line

__all__ = ["ServerLog"]

_WAITING: Final = 10_000
"""Lines that may wait to be written."""


class ServerLog:
    """Events of one process. Messages name no texts and no keys."""

    def __init__(self, as_json: bool, lost: Callable[[], None] | None = None) -> None:
        """``lost`` is called for each line that could not be written.

        Without it there is no thread, which a process that forks must not have, and a line is written immediately or
        dropped.
        """
        self._as_json = as_json
        self._lost = lost
        self._lines: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        if lost is not None:
            threading.Thread(target=self._write_all, name="freerun log", daemon=True).start()

    def info(self, event: str, **values: Any) -> None:
        """Log an event with its values."""
        self._log("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Log something to look into."""
        self._log("warning", event, values)

    def failure(self, event: str, error: BaseException | None = None, trace: bool = False, **values: Any) -> None:
        """Log a failure, with the traceback if it is a mistake of the program."""
        if error is not None:
            values["error"] = str(error) or type(error).__name__
        if trace and error is not None:
            values["traceback"] = "".join(traceback.format_exception(error))
        self._log("error", event, values)

    def _log(self, level: str, event: str, values: dict[str, Any]) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        line = self._json_line(stamp, level, event, values) if self._as_json else _line(stamp, level, event, values)
        if self._lost is None:
            if _is_writable():
                _written(line)
        elif self._lines.qsize() < _WAITING:
            self._lines.put(line)
        else:
            self._lost()

    @staticmethod
    def _json_line(stamp: str, level: str, event: str, values: dict[str, Any]) -> str:
        return json.dumps({"time": stamp, "level": level, "event": event, "process": os.getpid(), **values}) + "\n"

    def _write_all(self) -> None:
        while True:
            line = self._lines.get()
            if isinstance(line, threading.Event):
                line.set()
            elif not _written(line) and self._lost is not None:
                self._lost()

    def flush(self, seconds: float = 1.0) -> None:
        """Wait until what was logged is written, but not for long."""
        if self._lost is not None:
            reached = threading.Event()
            self._lines.put(reached)
            reached.wait(seconds)


def _line(stamp: str, level: str, event: str, values: dict[str, Any]) -> str:
    trace = values.pop("traceback", "")
    named = "".join(f" {name}={one_line(str(value))}" for name, value in values.items())
    return f"{stamp} {'' if level == 'info' else level + ': '}{one_line(event)}{named}\n{trace}"


def _is_writable() -> bool:
    """Return True if a line can be written without waiting."""
    try:
        return bool(select.select([], [error_descriptor()], [], 0)[1])
    except (OSError, ValueError, AttributeError):
        return False


def _written(line: str) -> bool:
    """Write to standard error in one call, so that lines of several processes do not mix; return False on failure."""
    try:
        data = line.encode(errors="backslashreplace")
        return os.write(error_descriptor(), data) == len(data)
    except (OSError, ValueError, AttributeError):
        return False
