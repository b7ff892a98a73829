"""One line of text that says how far a training is, for the terminal and for notebooks."""

from __future__ import annotations

import time
from collections.abc import Mapping

from freerun.text import duration
from freerun.training.callbacks import Callback, EvaluationResult

__all__ = ["ProgressLine", "evaluation_line"]

_EVALUATION_METRICS = ("nll.teacher", "token_accuracy.teacher", "symbol_error_rate.free", "sequence_accuracy.free")


class ProgressLine(Callback):
    """Shows the update, the newest metrics and the time left, at most once in ``every`` seconds.

    A base class: ``show_line`` decides where the line appears.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self._first = self._updates = 0
        self._start_time = self._shown = time.perf_counter()
        self._metrics: Mapping[str, float] = {}

    def on_start(self, update: int, updates: int) -> None:
        """Start the clock; what an earlier training showed is over."""
        self._first, self._updates, self._metrics = update, updates, {}
        self._start_time = self._shown = time.perf_counter()

    def on_update(self, update: int, metrics: Mapping[str, float]) -> None:
        """Show the line when it is time."""
        self._metrics = metrics or self._metrics
        now = time.perf_counter()
        if now - self._shown >= self._every:
            self._shown = now
            self.show_line(self._line(update, now))

    def show_line(self, text: str) -> None:
        """Show the line in place of the one before."""
        raise NotImplementedError

    def _line(self, update: int, now: float) -> str:
        left = (now - self._start_time) / max(1, update - self._first) * (self._updates - update)
        parts = [f"update {update:,}/{self._updates:,}"]
        if self._metrics:
            parts += [f"epoch {self._metrics['epoch']:.2f}", f"loss {self._metrics['loss']:.4f}"]
            others = [name for name in self._metrics if name.startswith("nll.") or name == "effective_rate"]
            parts += [f"{name} {self._metrics[name]:.4f}" for name in others]
            parts += [f"{self._metrics['pairs_per_second']:,.0f} pairs/s"]
        return "  ".join([*parts, f"{duration(left)} left"])


def evaluation_line(update: int, result: EvaluationResult, is_best: bool) -> str:
    """Return the metrics of an evaluation, each with how the decoder was fed, in one line."""
    metrics = "  ".join(
        f"{name} {_shown(result.metrics[name])}" for name in _EVALUATION_METRICS if name in result.metrics
    )
    if unknown := result.metrics.get("unknown_target_tokens"):
        metrics += f"  unknown_target_tokens {unknown:.4f}"
    return f"evaluation at update {update:,}: {metrics}{'  (best so far)' if is_best else ''}"


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
