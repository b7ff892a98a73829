"""Signals as requests: SIGINT, SIGTERM and SIGHUP to stop at the next safe point, SIGUSR1 to write a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["CheckpointRequest", "StopNow", "StopRequest", "checkpoints_on_signals", "stop_on_signals"]

# Windows has neither SIGHUP nor SIGUSR1.
_HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)
_CHECKPOINT: signal.Signals | None = getattr(signal, "SIGUSR1", None)
_Handler = Callable[[int, FrameType | None], Any] | int | None


class StopNow(Exception):
    """Leaves a loop, or an evaluation, after a signal."""


class StopRequest:
    """Records the signal that requested a stop; 0 while there is none."""

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0


class CheckpointRequest:
    """Records that a signal requested a checkpoint: then ``is_open`` is True, until it is taken."""

    def __init__(self) -> None:
        self.is_open = False

    def open(self) -> None:
        """Ask for one."""
        self.is_open = True

    def take(self) -> bool:
        """Return True if a checkpoint was requested since the last call."""
        was_open, self.is_open = self.is_open, False
        return was_open


@contextmanager
def stop_on_signals(grace: float = 0.0) -> Iterator[StopRequest]:
    """Within the block, only record the first SIGINT, SIGTERM or SIGHUP; the next one acts immediately, as usual.

    Within ``grace`` seconds of the first one, others are ignored: of several processes, each may get a signal twice,
    from a person or system that signals all of them, and from the launcher, which passes its own on.

    A SIGHUP that was ignored before (``nohup``) stays ignored. Another SIGHUP after the first signal is ignored, too:
    when a terminal is closed, the shell and the system may both send one, and the checkpoint is still being written.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # Python delivers signals to the main thread only
        return
    before = _handlers([signal.SIGINT, signal.SIGTERM, *_caught(_HANG_UP)])

    first = 0.0

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if request and time.monotonic() - first < grace:
            return
        is_second, first = bool(request), time.monotonic()
        request.signal = request.signal or number
        if is_second or not grace:
            _restore(before)
        if _HANG_UP in before:
            signal.signal(_HANG_UP, signal.SIG_IGN)
        if is_second:
            os.kill(os.getpid(), number)

    for number in before:
        signal.signal(number, remember)
    try:
        yield request
    finally:
        _restore(before)


@contextmanager
def checkpoints_on_signals() -> Iterator[CheckpointRequest]:
    """Within the block, let SIGUSR1 request a checkpoint instead of ending the process, unless it is ignored."""
    request = CheckpointRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = _handlers(_caught(_CHECKPOINT))
    for number in before:
        signal.signal(number, lambda number, frame: request.open())
    try:
        yield request
    finally:
        _restore(before)


def _caught(number: signal.Signals | None) -> list[signal.Signals]:
    """Return the signal in a list, unless it is ignored or does not exist here."""
    return [] if number is None or signal.getsignal(number) is signal.SIG_IGN else [number]


def _handlers(numbers: list[signal.Signals]) -> dict[signal.Signals, _Handler]:
    return {number: signal.getsignal(number) for number in numbers}


def _restore(handlers: Mapping[signal.Signals, _Handler]) -> None:
    for number, handler in handlers.items():
        # None: set by something other than Python, which cannot be put back; the usual one comes nearest
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
