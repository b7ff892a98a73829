"""Training figures as TensorBoard events, where the extra is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from freerun.training.trainer import Measured

__all__ = ["TensorBoardReporter", "tensorboard_is_installed"]


def tensorboard_is_installed() -> bool:
    """Whether the extra ``tensorboard`` is there."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoardReporter:
    """Writes ``train/*`` at each journal line and ``dev/*`` at each evaluation; events after ``start`` are replaced.

    No training depends on these events. If they cannot be written, ``say`` gets a warning, and there are none any more.
    """

    def __init__(self, folder: Path, start: int, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._writer: Any = None
        self._hook = threading.excepthook
        with self._warning():
            from torch.utils.tensorboard import SummaryWriter

            # its thread would print a traceback; the same error is raised here at the next event
            threading.excepthook = self._quiet
            self._writer = SummaryWriter(str(folder), purge_step=start + 1)

    def updated(self, update: int, figures: Mapping[str, float]) -> None:
        """One scalar a figure."""
        with self._warning():
            for name, value in figures.items():
                self._scalar(f"train/{name}", value, update)

    def ticked(self, update: int) -> None:
        """Nothing: single updates are not recorded."""

    def evaluated(self, update: int, measured: Measured, is_best: bool) -> None:
        """One scalar a metric, and the example outputs as text."""
        with self._warning():
            for name, value in measured.metrics.items():
                if value is not None:
                    self._scalar(f"dev/{name}", value, update)
            lines = [f"- `{source}`: {free} (reference: {reference})" for source, reference, free in measured.examples]
            if self._writer is not None:
                self._writer.add_text("dev/examples", "\n".join(lines), update)
                self._writer.flush()

    def said(self, text: str) -> None:
        """Nothing: news is for the terminal."""

    def close(self) -> None:
        """Write what is still waiting."""
        with self._warning():
            if self._writer is not None:
                self._writer.close()
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
            self._say(f"warning: {self._folder}: TensorBoard's events cannot be written ({error.strerror or error}).")

    def _quiet(self, arguments: threading.ExceptHookArgs) -> None:
        is_ours = type(arguments.thread).__module__.startswith("tensorboard.")
        if not (is_ours and isinstance(arguments.exc_value, OSError)):
            self._hook(arguments)
