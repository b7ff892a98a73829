"""The callbacks of trainings, checked."""

from __future__ import annotations

from typing import Any

from freerun.arguments import as_list, wrong_type
from freerun.training.callbacks import Callback
from freerun.training.notebook import NotebookProgress, is_notebook

__all__ = ["as_callbacks"]


def as_callbacks(callbacks: Any) -> list[Callback]:
    """Return the argument ``callbacks`` as a list; without any, the line of a notebook if this is one.

    Raises:
        TypeError: an item is no callback.
    """
    items = as_list("callbacks", callbacks, "callbacks")
    for number, callback in enumerate(items):
        if not isinstance(callback, Callback):
            raise wrong_type(f"callbacks[{number}]", callback, "an object of a subclass of freerun.Callback")
    return items or ([NotebookProgress()] if is_notebook() else [])
