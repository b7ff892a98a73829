"""Signals to a process, as a list and a pipe to wait at: its main loop acts on them when it is ready."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from types import FrameType

__all__ = ["received_signals"]


@contextlib.contextmanager
def received_signals(numbers: Iterable[signal.Signals], received: list[int]) -> Iterator[int]:
    """Within the block, append signals to ``received``; yield a pipe that has bytes after each."""

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)

    out, into = os.pipe()
    os.set_blocking(out, False)
    os.set_blocking(into, False)
    before = {number: signal.signal(number, receive) for number in numbers}
    old = signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    try:
        yield out
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(out)
        os.close(into)
