"""What a person sees while a command works: plain lines on standard error."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TextIO

from freerun.streams import is_terminal, write_notice
from freerun.text import duration, one_line, printable

if TYPE_CHECKING:  # a command that does not train need not wait for the trainer
    from freerun.training.trainer import Measured

__all__ = ["ConsoleReporter", "CountLine", "say", "shown_notices"]


def say(text: str, stream: TextIO | None = None) -> None:
    """News on standard error, whose text may quote files from anywhere."""
    write_notice("\n".join(map(one_line, text.split("\n"))) + "\n", stream)


@contextlib.contextmanager
def shown_notices() -> Iterator[None]:
    """Within the block, print the library's notices as ``say`` does, and its warnings with "warning: " in front."""
    import logging  # 10 ms that a prediction does not need

    from freerun.log import log

    class Console(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"{'warning: ' if record.levelno >= logging.WARNING else ''}{record.getMessage()}")

    handler, level, passes_on = Console(), log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # a host program's own handlers would print them a second time
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = passes_on


class CountLine:
    """A line on a terminal that says how much is done, and goes away in the end; nothing where there is no terminal."""

    def __init__(self, doing: str, things: str) -> None:
        self._doing, self._things = doing, things
        self._shows = is_terminal(sys.stderr)

    def __enter__(self) -> CountLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Remove the line."""
        if self._shows:
            write_notice("\r\x1b[2K")

    def __call__(self, done: int, total: int) -> None:
        """Show it."""
        if self._shows:
            write_notice(f"\r\x1b[2K{self._doing}: {done:,} of {total:,} {self._things}")


class ConsoleReporter:
    """Progress of training: a line every few seconds, rewritten in place on a terminal, and the evaluations in full.

    A terminal that was closed, or a full disk under a log, does not end a training: what it would have shown is lost.
    """

    def __init__(self, updates: int, start: int, stream: TextIO | None = None, every_seconds: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self.updates = updates
        self.start = start
        self._terminal = is_terminal(self.stream)
        self._every = 0.5 if self._terminal else every_seconds
        self._began = self._shown = time.perf_counter()
        self._figures: Mapping[str, float] = {}

    def updated(self, update: int, figures: Mapping[str, float]) -> None:
        """Remember the newest figures for the progress line."""
        self._figures = figures

    def ticked(self, update: int) -> None:
        """Show the progress line when it is time."""
        now = time.perf_counter()
        if now - self._shown < self._every:
            return
        self._shown = now
        left = (now - self._began) / max(1, update - self.start) * (self.updates - update)
        parts = [f"update {update:,}/{self.updates:,}"]
        if self._figures:
            parts += [f"epoch {self._figures['epoch']:.2f}", f"loss {self._figures['loss']:.4f}"]
            told = [name for name in self._figures if name.startswith("nll.") or name == "effective_rate"]
            parts += [f"{name} {self._figures[name]:.4f}" for name in told]
            parts += [f"{self._figures['pairs_per_second']:,.0f} pairs/s"]
        self._line("  ".join([*parts, f"{duration(left)} left"]))

    def evaluated(self, update: int, measured: Measured, is_best: bool) -> None:
        """The figures, how the decoder was fed named beside each, and the example outputs."""
        names = ("nll.teacher", "token_accuracy.teacher", "symbol_error_rate.free", "sequence_accuracy.free")
        figures = "  ".join(f"{name} {_shown(measured.metrics[name])}" for name in names if name in measured.metrics)
        if unknown := measured.metrics.get("unknown_target_tokens"):
            figures += f"  unknown_target_tokens {unknown:.4f}"
        best = "  (best so far)" if is_best else ""
        self.said(f"evaluation at update {update:,}: {figures}{best}")
        for source, reference, free_run in measured.examples:
            say(f"    source     {printable(source)}", self.stream)
            say(f"    reference  {printable(reference)}", self.stream)
            say(f"    free run   {printable(free_run)}", self.stream)

    def said(self, text: str) -> None:
        """One line of news."""
        self.close()
        say(text, self.stream)

    def close(self) -> None:
        """Remove the progress line, so that whatever is printed next stands alone."""
        if self._terminal:
            write_notice("\r\x1b[2K", self.stream)

    def _line(self, text: str) -> None:
        if self._terminal:
            # a line that wraps could not be rewritten in place
            write_notice(f"\r\x1b[2K{text[: shutil.get_terminal_size().columns - 1]}", self.stream)
        else:
            say(text, self.stream)


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
