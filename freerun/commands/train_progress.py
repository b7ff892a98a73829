"""The progress of a training on the terminal."""

from __future__ import annotations

from typing import TextIO

from freerun.commands.console import StatusLine, say
from freerun.text import printable
from freerun.training.callbacks import EvaluationResult
from freerun.training.progress_line import ProgressLine, evaluation_line

__all__ = ["ConsoleProgress"]


class ConsoleProgress(ProgressLine):
    """Prints every evaluation, and a progress line every few seconds, which is rewritten in place on a terminal.

    If the terminal is closed or the disk of a log is full, training continues and the output is lost.
    """

    def __init__(self, stream: TextIO | None = None, every_seconds: float = 10.0) -> None:
        self._status = StatusLine(stream)
        super().__init__(0.5 if self._status.is_terminal else every_seconds)

    def on_evaluation(self, update: int, result: EvaluationResult, is_best: bool) -> None:
        """Print the metrics and the example outputs."""
        self.on_message(evaluation_line(update, result, is_best))
        for source, reference, free_run in result.examples:
            text, *features = source.split("\t")
            say(f"    source     {printable('  '.join([text, *features]))}", self._status.stream)
            say(f"    reference  {printable(reference)}", self._status.stream)
            say(f"    free run   {printable(free_run)}", self._status.stream)

    def on_message(self, text: str) -> None:
        """Print a message on its own line."""
        self.on_end()
        say(text, self._status.stream)

    def on_end(self) -> None:
        """Remove the progress line, so that the next output has a line of its own."""
        self._status.clear()

    def show_line(self, text: str) -> None:
        """Rewrite the line on a terminal, else print another one."""
        self._status.show(text)
