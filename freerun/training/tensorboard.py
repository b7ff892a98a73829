"""Training metrics as TensorBoard events, if the extra is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freerun.log import log
from freerun.training.callbacks import Callback, EvaluationResult

__all__ = ["TensorBoardCallback", "tensorboard_is_installed"]


def tensorboard_is_installed() -> bool:
    """Return True if the extra ``tensorboard`` is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoardCallback(Callback):
    """Writes ``train/*`` at each journal record and ``dev/*`` at each evaluation.

    Events after the update that training starts from are replaced. No training depends on these events: if they cannot
    be written, a warning is logged, and no more are written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None
        self._hook = threading.excepthook

    def on_start(self, update: int, updates: int) -> None:
        """Open the file of events."""
        with self._warning():
            from torch.utils.tensorboard import SummaryWriter

            # its thread would print a traceback; the same error is raised here at the next event
            self._hook, threading.excepthook = threading.excepthook, self._quiet
            self._writer = SummaryWriter(str(self._directory), purge_step=update + 1)

    def on_update(self, update: int, metrics: Mapping[str, float]) -> None:
        """Write one scalar per metric."""
        with self._warning():
            for name, value in metrics.items():
                self._scalar(f"train/{name}", value, update)

    def on_evaluation(self, update: int, result: EvaluationResult, is_best: bool) -> None:
        """Write one scalar per metric, and the example outputs as text."""
        with self._warning():
            for name, value in result.metrics.items():
                if value is not None:
                    self._scalar(f"dev/{name}", value, update)
            lines = [f"- `{source}`: {free} (reference: {reference})" for source, reference, free in result.examples]
            if self._writer is not None:
                self._writer.add_text("dev/examples", "\n".join(lines), update)
                self._writer.flush()

    def on_end(self) -> None:
        """Write the events that are still buffered."""
        with self._warning():
            if self._writer is not None:
                self._writer.close()
        if threading.excepthook == self._quiet:
            threading.excepthook = self._hook

    def _scalar(self, name: str, value: float, update: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(name, value, update)

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            log.warning(f"{self._directory}: TensorBoard's events cannot be written ({error.strerror or error}).")

    def _quiet(self, arguments: threading.ExceptHookArgs) -> None:
        is_tensorboard = type(arguments.thread).__module__.startswith("tensorboard.")
        if not (is_tensorboard and isinstance(arguments.exc_value, OSError)):
            self._hook(arguments)
