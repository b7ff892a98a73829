"""``freerun train``: trains with the progress on standard error, then prints the metrics and the next steps."""

from __future__ import annotations

import shlex
from pathlib import Path

from freerun.commands.console import say, shown_notices
from freerun.commands.tables import metrics_table
from freerun.commands.train_progress import ConsoleProgress
from freerun.config import read_toml, strategies_of
from freerun.errors import Interrupted
from freerun.experiment.request import TrainRequest, run_directory
from freerun.experiment.result import TrainResult
from freerun.experiment.run import train as run_training
from freerun.text import printable
from freerun.training.journal import read_journal

__all__ = ["example_argument", "train"]

_EXAMPLE = "some text"
_MAX_EXAMPLE = 40


def train(request: TrainRequest) -> TrainResult:
    """Train and print; raises as ``freerun.experiment.run.train`` does."""
    with shown_notices():
        try:
            result = run_training(request, [ConsoleProgress()])
        except Interrupted:
            _print_next_steps(run_directory(request))
            raise
        if result.baselines:  # else it was complete before
            say(f"Done: {result.updates:,} updates; best model from update {result.best_update:,}.\n")
            print(metrics_table(result.metrics, result.baselines), flush=True)
        _print_next_steps(result.directory)
    return result


def _print_next_steps(directory: Path) -> None:
    """Print the exact commands that use or continue the run."""
    raw = read_toml(directory / "config.toml")
    dev = raw["data"].get("dev")
    pairs = directory / "dev.tsv" if dev is None else dev
    name = shlex.quote(str(directory))
    say("")
    if (directory / "best").exists():
        say(f"  freerun predict {name} {example_argument(directory)}")
        evaluation = f" {shlex.quote(str(pairs))}" if not isinstance(pairs, dict) else ""
        say(f"  freerun evaluate {name}{evaluation}")
    has_custom_code = any(":" in strategy for strategy in strategies_of(raw))
    say(f"  freerun train --resume --out {name}{' --trust-code' if has_custom_code else ''}")


def example_argument(directory: Path) -> str:
    """Return a text for the model as an argument in bash; for one with features, a development source with its own."""
    events = read_journal(directory / "journal.jsonl")
    labels = (example["source"] for event in events for example in event.get("examples", ()))
    source, tab, features = next(labels, "").partition("\t")
    if not tab:
        return shlex.quote(_EXAMPLE)
    text = source if 0 < len(source) <= _MAX_EXAMPLE else _EXAMPLE
    escaped = f"{text}\t{features}".replace("\\", r"\\").replace("'", r"\'").replace("\t", r"\t")
    return f"$'{printable(escaped)}'"
