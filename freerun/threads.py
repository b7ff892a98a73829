"""How many threads a call may use: the bound, and what 0 stands for.

In a program that imports freerun, 0 leaves torch's threads as the program set them. In a command, whose process is
freerun's own, it is ``OMP_NUM_THREADS`` or else every core that the process may run on.
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

__all__ = ["check_threads", "cores", "in_a_command", "resolve_threads"]

_in_a_command: ContextVar[bool] = ContextVar("in_a_command", default=False)


def check_threads(threads: object, where: str = "threads") -> int:
    """Return ``threads``.

    Raises:
        TypeError: not an int; True and False are none.
        ConfigError: below 0, or above the bound.
    """
    if not isinstance(threads, int) or isinstance(threads, bool):
        raise wrong_type(where, threads, f"an int from 0 to {THREADS.high:,}")
    if threads not in THREADS:
        # not as digits: an int may have more of them than Python is willing to write
        value = f"{threads}" if abs(threads) < 10**18 else "too large to be shown"
        raise ConfigError.single(
            where, f"the value is {value}", f"Expected 0 to {THREADS.high:,} threads", "Choose another number"
        )
    return threads


@contextmanager
def in_a_command() -> Iterator[None]:
    """Within it, 0 threads stands for all that this process may use."""
    token = _in_a_command.set(True)
    try:
        yield
    finally:
        _in_a_command.reset(token)


def resolve_threads(threads: int) -> int:
    """Return the number of threads for torch; 0: as many as it has now."""
    return threads or (_of_this_process() if _in_a_command.get() else 0)


def _of_this_process() -> int:
    """Return ``OMP_NUM_THREADS`` (of a list, for nested regions, the first), or the cores that are free to be used."""
    # what is no number is ignored, as OpenMP does
    found = re.match(r"\s*0*([1-9][0-9]{0,17})\s*(,|$)", os.environ.get("OMP_NUM_THREADS", ""))
    if found:
        return check_threads(int(found[1]), "OMP_NUM_THREADS")
    return min(cores(), int(THREADS.high))


def cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
