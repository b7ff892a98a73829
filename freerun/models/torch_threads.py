"""Torch's threads: as many as a call was given, and one in a forked child.

``fork`` copies only the thread that calls it. OpenMP's threads, which torch computes with, are missing in the child,
and the next computation there would wait for them for ever. A child computes with one thread, which needs no others.
"""

from __future__ import annotations

import os
from types import TracebackType

import torch

__all__ = ["Threads"]


class _Process:
    is_forked = False


class Threads:
    """``with Threads(2):`` lets torch use two threads in the block, in this Python thread; 0 leaves them alone.

    The number from before comes back at the end of the block, because torch's threads belong to the whole program.
    Both together take 0.7 µs. In a forked child this does nothing: torch has one thread there.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._before = 0

    def __enter__(self) -> None:
        if self._number and not _Process.is_forked:
            self._before = torch.get_num_threads()
            torch.set_num_threads(self._number)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # a child that was forked inside the block leaves it with its one thread
        if self._before and not _Process.is_forked:
            torch.set_num_threads(self._before)


def _limit_forked_child() -> None:
    """Leave a forked child the one thread that it has."""
    _Process.is_forked = True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    # here, so that programs which never use torch do not import it at a fork
    os.register_at_fork(after_in_child=_limit_forked_child)
