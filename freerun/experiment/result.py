"""The result of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from freerun.errors import RunError
from freerun.html_table import metrics_table
from freerun.loading import load
from freerun.runtime.predictor import Predictor
from freerun.training.journal import read_journal
from freerun.training.selection import Metrics

__all__ = ["TrainResult"]

_NOT_IN_A_ROW = ("event", "examples", "averaged", "best_sha256")


@dataclass(frozen=True)
class TrainResult:
    """A trained model and how it was trained.

    Attributes:
        directory: the run directory.
        metrics: of the best model on all development pairs, by name; None for an undefined one.
        updates: the number of updates.
        best_update: the update of the best model.
        baselines: metrics of trivial outputs on the same pairs, by the name of the baseline. Empty if the run was
            complete before.
    """

    directory: Path
    metrics: Metrics
    updates: int
    best_update: int
    baselines: Mapping[str, Metrics] = field(default_factory=dict, repr=False, compare=False)
    _absolute: Path = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # the program may change its working directory before it uses the model
        object.__setattr__(self, "_absolute", self.directory.absolute())

    @cached_property
    def model(self) -> Predictor:
        """The best model, loaded when it is first used."""
        return load(self._absolute)

    @cached_property
    def history(self) -> list[dict[str, float | bool | None]]:
        """The evaluations of the run in their order, as rows of a table: ``pandas.DataFrame(result.history)``.

        Besides the metrics, each row has ``update``, ``best`` (better than all before), ``seconds`` since training
        began or was resumed, ``averaged`` (of the mean of several checkpoints) and ``final`` (of the best model on all
        development pairs; then ``best_update`` is its update).

        Raises:
            RunError: the run directory has been removed or moved.
        """
        path = self._absolute / "journal.jsonl"
        events = read_journal(path)
        if not events:
            what = "this journal is missing or empty"
            raise RunError(path, what, "Expected the journal of the run", "Put the run directory back")
        return [
            {
                "update": event["update"],
                "final": bool(event.get("final")),
                "averaged": "averaged" in event,
                **{key: value for key, value in event.items() if key not in (*_NOT_IN_A_ROW, "update", "final")},
            }
            for event in events
            if event["event"] == "evaluation"
        ]

    def _repr_html_(self) -> str:
        """Return the metrics as a table, for notebooks."""
        caption = f"{self.directory}: {self.updates:,} updates, best model from update {self.best_update:,}"
        return metrics_table(self.metrics, self.baselines, caption)
