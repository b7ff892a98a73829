"""What a forked child has to renew: ``fork`` copies only the thread that calls it.

A lock that another thread held stays locked for ever in the child, and a pool has no threads there. So objects with
either are listed as long as they live, and renewed in each forked child before anything else runs in it.
"""

from __future__ import annotations

import ctypes
import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["Renewable", "keep_for_ever", "renew_when_forked"]


class Renewable(Protocol):
    """An object that can be renewed in a forked child."""

    def renew(self) -> None:
        """Replace locks, and what has threads."""
        ...


_living: WeakSet[Renewable] = WeakSet()


def renew_when_forked(thing: Renewable) -> None:
    """Call ``thing.renew()`` in each child that this process forks, as long as it lives."""
    _living.add(thing)


def keep_for_ever(thing: object) -> None:
    """Let an object never be deleted, not even at the end of the process, because that would wait for its threads."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _renew_all() -> None:
    for thing in list(_living):
        thing.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
