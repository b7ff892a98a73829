"""The trials of a tuning, and their journal: one JSON line for the plan, each trial and each stop."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from freerun.errors import RunError
from freerun.files import write_atomic

__all__ = ["Trial", "TrialJournal", "ranked"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a tuning.

    Attributes:
        number: counts from 0; trial 0 has the recipe's settings.
        settings: the values that were tried, by key path; of trial 0 none.
        value: the metric on the development pairs; None for a trial that failed.
        failed: why there is no value.
        updates: optimizer steps taken.
        seconds: of the whole training, with reading and evaluation.
    """

    number: int
    settings: Mapping[str, Any]
    value: float | None
    failed: str | None = None
    updates: int = 0
    seconds: float = 0.0


def ranked(trials: Sequence[Trial], higher_is_better: bool) -> list[Trial]:
    """Return the trials, the best one first: the earlier of two equal ones, and those that failed at the end."""
    sign = -1 if higher_is_better else 1
    return sorted(trials, key=lambda each: (math.inf if each.value is None else sign * each.value, each.number))


class TrialJournal:
    """``trials.jsonl`` of a tuning. It is written as a whole, so that it is never half a line.

    Attributes:
        plan: what was requested; empty before ``begin``.
        trials: the finished trials.
        seconds: used so far, by a trial that was stopped too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan: dict[str, Any] = {}
        self.trials: list[Trial] = []
        self._stopped: list[float] = []
        if path.exists():
            self._read()

    @property
    def seconds(self) -> float:
        """The time that all trials took."""
        return sum(trial.seconds for trial in self.trials) + sum(self._stopped)

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Record the plan of a new tuning."""
        self.plan = dict(plan)
        self._write()

    def add(self, trial: Trial) -> None:
        """Record a finished trial, whose seconds are those since it was last resumed."""
        seconds = round(trial.seconds + sum(self._stopped), 1)
        self._stopped.clear()
        self.trials.append(replace(trial, seconds=seconds))
        self._write()

    def add_stop(self, seconds: float) -> None:
        """Record the time of a trial that was stopped and will be resumed."""
        self._stopped.append(round(seconds, 1))
        self._write()

    def _write(self) -> None:
        events: list[dict[str, Any]] = [{"event": "start", **self.plan}]
        events += [{"event": "trial", **asdict(trial)} for trial in self.trials]
        events += [{"event": "stop", "seconds": seconds} for seconds in self._stopped]
        write_atomic(self.path, "".join(json.dumps(event) + "\n" for event in events))

    def _read(self) -> None:
        try:
            first, *events = [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]
            if first.pop("event") != "start":
                raise ValueError("it does not begin with the plan")
            for event in events:
                kind = event.pop("event")
                if kind == "stop":
                    self._stopped.append(float(event["seconds"]))
                else:
                    self.trials.append(Trial(**event))
            if [trial.number for trial in self.trials] != list(range(len(self.trials))):
                raise ValueError("its trials are not numbered from 0")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                self.path,
                f"this journal cannot be read ({error})",
                "Expected the file that freerun tune wrote",
                "Put it back, or tune in another directory with --out",
            ) from None
        self.plan = first
