"""Training figures as TensorBoard events, where the extra is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from freerun.training.trainer import Measured

__all__ = ["TensorBoardReporter", "tensorboard_is_installed"]


def tensorboard_is_installed() -> bool:
    """Whether the extra ``tensorboard`` is there."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoardReporter:
    """Writes ``train/*`` at each journal line and ``dev/*`` at each evaluation; events after ``start`` are replaced."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start + 1)

    def updated(self, update: int, figures: Mapping[str, float]) -> None:
        """One scalar a figure."""
        for name, value in figures.items():
            self._writer.add_scalar(f"train/{name}", value, update)

    def ticked(self, update: int) -> None:
        """Nothing: single updates are not recorded."""

    def evaluated(self, update: int, measured: Measured, is_best: bool) -> None:
        """One scalar a metric, and the example outputs as text."""
        for name, value in measured.metrics.items():
            if value is not None:
                self._writer.add_scalar(f"dev/{name}", value, update)
        lines = [f"- `{source}`: {free} (reference: {reference})" for source, reference, free in measured.examples]
        self._writer.add_text("dev/examples", "\n".join(lines), update)
        self._writer.flush()

    def said(self, text: str) -> None:
        """Nothing: news is for the terminal."""

    def close(self) -> None:
        """Write what is still waiting."""
        self._writer.close()
