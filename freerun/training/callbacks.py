"""Callbacks: reports to a person, a dashboard or a program while training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from freerun.training.selection import Metrics

__all__ = ["Callback", "EvaluationResult"]


@dataclass(frozen=True)
class EvaluationResult:
    """The metrics of an evaluation by name, and (source, reference, free-running output) of a few examples.

    A metric is None where it is undefined.
    """

    metrics: Metrics
    examples: Sequence[tuple[str, str, str]] = ()


class Callback:
    """The base class of callbacks. Every method does nothing; override the ones that you need.

        class StopWatch(freerun.Callback):
            def on_evaluation(self, update, result, is_best):
                print(update, result.metrics["symbol_error_rate.free"])

    The methods are called in the thread that trains, in the order of the callbacks, and training waits for them.
    They observe: a callback must not change its arguments, nor torch's settings, nor any file in the run directory.
    Random numbers are no concern, because training draws its own from the seed.

    An exception ends the training: a checkpoint of the last update is saved, ``on_end`` is called for all callbacks,
    and the exception is passed on unchanged. The run can then be resumed, and ends with the same bytes as if it had not
    been stopped. KeyboardInterrupt and SystemExit end it at once, without a checkpoint: the run is resumed from the
    one before.
    """

    def on_start(self, update: int, updates: int) -> None:
        """Called once, before the first update: training begins after ``update`` (0, or the checkpoint's).

        It lasts until ``updates``.
        """

    def on_update(self, update: int, metrics: Mapping[str, float]) -> None:
        """Called after each update.

        ``metrics`` is empty except at the updates that the journal records (every ``training.journal_every``). There it
        has the means since the last record (loss, gradient_norm, ...), the sums of pairs and target_tokens, and the
        learning_rate, epoch, pairs_per_second and seconds.
        """

    def on_evaluation(self, update: int, result: EvaluationResult, is_best: bool) -> None:
        """Called after each evaluation during training, and after the checkpoint that belongs to it.

        ``is_best``: the model is better than all before, and is now in ``best/``.
        """

    def on_checkpoint(self, update: int, path: Path) -> None:
        """Called after each checkpoint; ``path`` is its directory, which a later checkpoint may remove."""

    def on_message(self, text: str) -> None:
        """Called with a message for the user, in complete sentences."""

    def on_end(self) -> None:
        """Called once, when training has ended, was stopped or failed."""
