"""SIGINT and SIGTERM as a request to stop at the next safe place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["StopRequest", "stop_on_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Handler = Callable[[int, FrameType | None], Any] | int | None


class StopRequest:
    """Remembers which signal asked to stop; 0 while none has."""

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within it, the first SIGINT or SIGTERM is only remembered; the next one acts at once, as usual."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # Python delivers signals to the main thread only
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def remember(number: int, _: FrameType | None) -> None:
        request.signal = number
        _restore(before)

    for number in _SIGNALS:
        signal.signal(number, remember)
    try:
        yield request
    finally:
        _restore(before)


def _restore(handlers: Mapping[signal.Signals, _Handler]) -> None:
    for number, handler in handlers.items():
        # None: set by something other than Python, which cannot be put back; the usual one comes nearest
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
