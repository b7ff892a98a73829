"""Long calls outside of Python that Ctrl-C can interrupt, without replacing signal handlers.

Python runs signal handlers in the main thread, between two bytecodes, so not while that thread is inside a graph.
Therefore another thread makes the long call, and the main thread waits where it can handle signals.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_int32
from typing import Final, Generic, TypeVar

__all__ = ["interruptible", "stop_flag", "stopped_by"]

T = TypeVar("T")

_MAX_WAIT: Final = 10.0
"""Seconds to wait for a call to stop."""


_flags = threading.local()


@contextmanager
def stopped_by(flag: c_int32) -> Iterator[None]:
    """Within the block, let another thread end this thread's calls of the C library early, by setting ``flag`` to 1."""
    _flags.current = flag
    try:
        yield
    finally:
        del _flags.current


def stop_flag() -> c_int32:
    """Return the flag of ``stopped_by``, otherwise a new one."""
    flag: c_int32 | None = getattr(_flags, "current", None)
    return c_int32() if flag is None else flag


def interruptible(call: Callable[[], T], stop: Callable[[], None]) -> T:
    """Return ``call()`` and let signals be handled meanwhile; costs about 0.1 ms.

    If a handler raises (Ctrl-C), ``stop`` is called, which must make ``call`` end soon, and the exception is raised
    here. Threads other than the main one handle no signals and just make the call.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    job = _Job(call)
    thread = threading.Thread(target=job.run, name="freerun graph", daemon=True)
    try:
        thread.start()
        job.ended.wait()
    except BaseException:
        stop()
        if thread.is_alive():
            job.ended.wait(_MAX_WAIT)
        raise
    return job.result()


class _Job(Generic[T]):
    """A call, and its result or error."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.ended = threading.Event()
        self._call = call
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Make the call."""
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001 (raised in the waiting thread)
            self._error = error
        finally:
            self.ended.set()

    def result(self) -> T:
        """Return the result of the ended call, or raise its error."""
        if self._error is not None:
            raise self._error
        return self._results[0]
