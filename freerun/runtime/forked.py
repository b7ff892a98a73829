"""Renewal of locks and thread pools in a forked child: ``fork`` copies only the thread that calls it.

A lock that another thread held would stay locked forever in the child, and a pool would have no threads. Objects with
either are registered as long as they live, and renewed in each forked child before anything else runs there.
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
        """Replace locks and objects with threads."""
        ...


_registered: WeakSet[Renewable] = WeakSet()


def renew_when_forked(thing: Renewable) -> None:
    """Call ``thing.renew()`` in each child that this process forks as long as ``thing`` lives."""
    _registered.add(thing)


def keep_for_ever(thing: object) -> None:
    """Never delete an object, not even when the process exits, because that would wait for its threads."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _renew_all() -> None:
    for thing in list(_registered):
        thing.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
