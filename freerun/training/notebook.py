"""Progress in a notebook: one line that is rewritten while training runs."""

from __future__ import annotations

import sys
from typing import Any

from freerun.training.callbacks import EvaluationResult
from freerun.training.progress_line import ProgressLine, evaluation_line

__all__ = ["NotebookProgress", "is_notebook"]


def is_notebook() -> bool:
    """Return True in a process whose cells can rewrite their output: an IPython kernel, but not its terminal."""
    ipython = sys.modules.get("IPython")  # a kernel has imported it already
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and hasattr(shell, "kernel")


class NotebookProgress(ProgressLine):
    """One line of output in a cell: the progress, and the newest evaluation behind it."""

    def __init__(self, every: float = 0.5) -> None:
        super().__init__(every)
        self._handle: Any = None
        self._progress = self._evaluation = ""

    def show_line(self, text: str) -> None:
        """Rewrite the line with the progress."""
        self._progress = text
        self._rewrite()

    def on_evaluation(self, update: int, result: EvaluationResult, is_best: bool) -> None:
        """Rewrite the line with the evaluation."""
        self._evaluation = evaluation_line(update, result, is_best)
        self._rewrite()

    def on_end(self) -> None:
        """Leave the last evaluation in the cell, without a time that is left."""
        self._progress = ""
        if self._handle is not None:
            self._rewrite()

    def _rewrite(self) -> None:
        text = " | ".join(part for part in (self._progress, self._evaluation) if part)
        data = {"text/plain": text or "training has ended"}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
