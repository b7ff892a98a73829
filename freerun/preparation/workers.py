"""Worker processes: they run a function on blocks, and results come back in the order of the blocks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, Final, TypeVar

from freerun.errors import RunError

__all__ = ["in_order"]

K = TypeVar("K")
T = TypeVar("T")

_shared: list[Any] = []
"""In a worker process: what all tasks share."""
_AHEAD: Final = 2
"""Blocks per process that have been read and are not finished: they bound the memory."""


def in_order(
    function: Callable[..., T], tasks: Iterable[tuple[K, tuple[Any, ...]]], processes: int, shared: object
) -> Iterator[tuple[K, T]]:
    """Yield (key, ``function(*arguments, shared)``) for each (key, arguments) of ``tasks``, in their order.

    ``shared``, which may be large, is sent to each process once. With one process the function runs in this one.

    Raises:
        RunError: a process was killed.
        Exception: whatever the function raises.
    """
    if processes == 1:
        for key, arguments in tasks:
            yield key, function(*arguments, shared)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a program with threads may hang
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=(shared,))
    running: deque[tuple[K, Future[T]]] = deque()
    try:
        for key, arguments in tasks:
            running.append((key, pool.submit(_call, function, arguments)))
            if len(running) >= _AHEAD * processes:
                yield _next(running)
        while running:
            yield _next(running)
    except BrokenProcessPool as error:
        raise RunError(
            "freerun data prepare",
            "one of its processes was killed, perhaps for lack of memory",
            "Expected all of them to finish",
            "Run the same command again, which continues; fewer --processes need less memory",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # nothing is written after this


def _next(running: deque[tuple[K, Future[T]]]) -> tuple[K, T]:
    key, future = running.popleft()
    return key, future.result()


def _call(function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    return function(*arguments, _shared[0])


def _start_worker(shared: object) -> None:
    """Let this process end with the one that started it, however that ends, and leave Ctrl-C to it."""
    _shared.append(shared)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def end_with_parent() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
