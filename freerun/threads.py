"""Numbers of threads: their limit, and the meaning of 0.

In a program that imports freerun, 0 leaves torch's number of threads unchanged. In a command, whose process belongs to
freerun, 0 means ``OMP_NUM_THREADS`` or else all cores that the process may run on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from freerun.arguments import wrong_type
from freerun.bounds import THREADS
from freerun.errors import ConfigError

__all__ = ["check_threads", "cores", "in_a_command", "resolve_threads", "usable_cores"]

_in_a_command: ContextVar[bool] = ContextVar("in_a_command", default=False)


def check_threads(threads: object, location: str = "threads") -> int:
    """Return ``threads``.

    Raises:
        TypeError: not an int; bool is rejected, too.
        ConfigError: below 0, or above the limit.
    """
    if not isinstance(threads, int) or isinstance(threads, bool):
        raise wrong_type(location, threads, f"an int from 0 to {THREADS.high:,}")
    if threads not in THREADS:
        # an int may have more digits than Python converts to a string
        value = f"{threads}" if abs(threads) < 10**18 else "too large to be shown"
        raise ConfigError.single(
            location, f"the value is {value}", f"Expected 0 to {THREADS.high:,} threads", "Choose another number"
        )
    return threads


@contextmanager
def in_a_command() -> Iterator[None]:
    """Make 0 threads mean all cores that this process may use, inside the block."""
    token = _in_a_command.set(True)
    try:
        yield
    finally:
        _in_a_command.reset(token)


def resolve_threads(threads: int) -> int:
    """Return the number of threads for torch; 0 leaves it unchanged."""
    return threads or (_default_threads() if _in_a_command.get() else 0)


def _default_threads() -> int:
    """Return ``OMP_NUM_THREADS`` (the first value of a list for nested regions), or the number of usable cores."""
    # an invalid value is ignored, as in OpenMP
    match = re.match(r"\s*0*([1-9][0-9]{0,17})\s*(,|$)", os.environ.get("OMP_NUM_THREADS", ""))
    if match:
        return check_threads(int(match[1]), "OMP_NUM_THREADS")
    return min(cores(), int(THREADS.high))


def cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(usable_cores())


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
