"""The notices of the library, as a command prints them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from freerun.log import log


@contextlib.contextmanager
def logged_notices() -> Iterator[list[str]]:
    """A list that gets every notice of the block, warnings with "warning: " in front."""
    notices: list[str] = []

    class Listing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            prefix = "warning: " if record.levelno >= logging.WARNING else ""
            notices.append(prefix + record.getMessage())

    handler, level = Listing(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield notices
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
