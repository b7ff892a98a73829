"""Long calls outside of Python that Ctrl-C still ends, without taking over anybody's signals.

Python runs the handlers of signals in the main thread, between two bytecodes: not while that thread is inside a graph.
So the main thread lets another one make a long call, and waits where it can still handle signals.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

__all__ = ["interruptible"]

T = TypeVar("T")

_LONGEST_END: Final = 10.0
"""Seconds after which a call that does not stop is left to itself."""


def interruptible(call: Callable[[], T], stop: Callable[[], None]) -> T:
    """Return ``call()``, and let signals be handled meanwhile; costs about 0.1 ms.

    If a handler raises (Ctrl-C), ``stop`` is called, which has to make ``call`` end soon, and what was raised is raised
    here. In other threads than the main one, which handle no signals, this is ``call()``.
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
            job.ended.wait(_LONGEST_END)
        raise
    return job.result()


class _Job(Generic[T]):
    """A call whose result or error is kept."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.ended = threading.Event()
        self._call = call
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Make the call."""
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001 (it is raised in the thread that waits)
            self._error = error
        finally:
            self.ended.set()

    def result(self) -> T:
        """The result, once it has ended."""
        if self._error is not None:
            raise self._error
        return self._results[0]
