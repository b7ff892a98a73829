"""``freerun tune``: tries settings around the recipe, then prints the best trials and the next steps."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freerun.api.model_tuning import TuneResult, run_tuning
from freerun.commands.console import say, shown_notices
from freerun.commands.tables import aligned
from freerun.commands.train_progress import ConsoleProgress
from freerun.config import HIGHER_IS_BETTER
from freerun.errors import Interrupted
from freerun.experiment.request import TrainRequest
from freerun.studies.trials import Trial, ranked
from freerun.text import duration
from freerun.training.callbacks import EvaluationResult

__all__ = ["tune"]

_SHOWN = 5
"""Trials in the table."""


class TrialProgress(ConsoleProgress):
    """The line of one trial, without its evaluations: the trials have one line each when they are over."""

    def on_evaluation(self, update: int, result: EvaluationResult, is_best: bool) -> None:
        """Print nothing."""

    def on_message(self, text: str) -> None:
        """Print nothing."""


def tune(request: TrainRequest, out: Path | None, minutes: float, trials: int, as_json: bool) -> None:
    """Tune, and print the result."""
    with shown_notices():
        try:
            result = run_tuning(request, out, minutes, trials, [TrialProgress()], request.started)
        except (Interrupted, KeyboardInterrupt):
            say("Run the same command again to continue.")
            raise
    if as_json:
        print(json.dumps(_as_json(result)))
        return
    print(as_text(result), flush=True)
    name = shlex.quote(str(result.directory))
    say("")
    say(f"  freerun evaluate {shlex.quote(str(result.run))} TEST.tsv")
    say(f"  freerun train {name}/best.toml --seed 2 --out {shlex.quote(str(result.directory) + '-seed-2')}")


def as_text(result: TuneResult) -> str:
    """Return the statements, and a table of the best trials."""
    parts = ["\n".join(result.statements)]
    best_first = ranked(result.trials, result.metric in HIGHER_IS_BETTER)[:_SHOWN]
    rows = [["trial", result.metric, "updates", "time", "settings that differ from trial 0"]]
    rows += [_row(trial, result.start) for trial in best_first]
    parts.append("\n".join(aligned(rows)))
    return "\n\n".join(parts)


def _row(trial: Trial, start: Mapping[str, Any]) -> list[str]:
    value = "failed" if trial.value is None else f"{trial.value:.4f}"
    others = {key: each for key, each in trial.settings.items() if key in start and each != start[key]}
    settings = ", ".join(f"{key.partition('.')[2]} {each}" for key, each in others.items())
    return [str(trial.number), value, f"{trial.updates:,}", duration(trial.seconds), settings]


def _as_json(result: TuneResult) -> dict[str, Any]:
    trials = [
        {"trial": trial.number, "value": trial.value, "updates": trial.updates, "seconds": trial.seconds}
        | ({"failed": trial.failed} if trial.failed else {})
        | {"settings": dict(trial.settings)}
        for trial in result.trials
    ]
    return {
        "metric": result.metric,
        "best": result.best.number,
        "model": str(result.run),
        "config": str(result.config),
        "trials": trials,
        "importances": dict(result.importances),
    }
