"""The progress of a training on the terminal."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

from freerun.commands.console import say
from freerun.streams import is_terminal, write_notice
from freerun.text import printable
from freerun.training.callbacks import EvaluationResult
from freerun.training.progress_line import ProgressLine, evaluation_line

__all__ = ["ConsoleProgress"]


class ConsoleProgress(ProgressLine):
    """Prints every evaluation, and a progress line every few seconds, which is rewritten in place on a terminal.

    If the terminal is closed or the disk of a log is full, training continues and the output is lost.
    """

    def __init__(self, stream: TextIO | None = None, every_seconds: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self._is_terminal = is_terminal(self.stream)
        super().__init__(0.5 if self._is_terminal else every_seconds)

    def on_evaluation(self, update: int, result: EvaluationResult, is_best: bool) -> None:
        """Print the metrics and the example outputs."""
        self.on_message(evaluation_line(update, result, is_best))
        for source, reference, free_run in result.examples:
            text, *features = source.split("\t")
            say(f"    source     {printable('  '.join([text, *features]))}", self.stream)
            say(f"    reference  {printable(reference)}", self.stream)
            say(f"    free run   {printable(free_run)}", self.stream)

    def on_message(self, text: str) -> None:
        """Print a message on its own line."""
        self.on_end()
        say(text, self.stream)

    def on_end(self) -> None:
        """Remove the progress line, so that the next output has a line of its own."""
        if self._is_terminal:
            write_notice("\r\x1b[2K", self.stream)

    def show_line(self, text: str) -> None:
        """Rewrite the line on a terminal, else print another one."""
        if self._is_terminal:
            # a line that wraps could not be rewritten in place
            write_notice(f"\r\x1b[2K{text[: shutil.get_terminal_size().columns - 1]}", self.stream)
        else:
            say(text, self.stream)
