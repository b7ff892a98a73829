"""``freerun.tune``: settings around those that are chosen without a configuration, tried for equal times."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freerun.api.checks import AnyPath, Pairs, as_location, as_settings, optional_path
from freerun.api.training_callbacks import as_callbacks
from freerun.arguments import check_int, check_number
from freerun.errors import MissingExtraError
from freerun.experiment.request import TrainRequest, run_directory
from freerun.experiment.run import train as run_training
from freerun.files import write_atomic
from freerun.loading import load
from freerun.lock import inner_lock, only_writer
from freerun.log import log
from freerun.runtime.predictor import Predictor
from freerun.studies.trials import Trial
from freerun.training.callbacks import Callback

if TYPE_CHECKING:
    from freerun.studies.tuner import Tuner

__all__ = ["TuneResult", "run_tuning", "tune"]

REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What a tuning found.

    Attributes:
        directory: of the tuning.
        metric: that was tuned, on the development pairs.
        trials: all of them, in their order; trial 0 has the settings that are chosen without tuning.
        best: the best one.
        importances: by key path, how much a setting decided whether a trial was among the best (PED-ANOVA, Watanabe et
            al. 2023), the largest first; they sum to 1. Empty if there were too few trials.
        config: the configuration of the best trial, for ``freerun.train``.
        run: the run directory of the best trial.
        start: the first trial's value of every key that was tuned.
    """

    directory: Path
    metric: str
    trials: Sequence[Trial]
    best: Trial
    importances: Mapping[str, float]
    config: Path
    run: Path
    start: Mapping[str, Any] = field(repr=False)
    _absolute: Path = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # the program may change its working directory before it uses the model
        object.__setattr__(self, "_absolute", self.run.absolute())

    @cached_property
    def model(self) -> Predictor:
        """The model of the best trial, loaded when it is first used."""
        return load(self._absolute)

    @property
    def statements(self) -> list[str]:
        """What was found, in sentences."""
        first, best, count = self.trials[0], self.best, len(self.trials)
        if count == 1:
            return [f"Only the first trial fitted into the time: {self.metric} {first.value:.4f}."]
        if best is first:
            found = f"No trial was better than the settings chosen without tuning: {self.metric} {first.value:.4f}."
        else:
            found = (
                f"The best is trial {best.number} with {self.metric} {best.value:.4f}; the settings chosen without "
                f"tuning have {first.value:.4f}."
            )
        flattered = f"The pairs that the best of {count} trials was chosen on flatter it: judge it on other pairs."
        decisive = ", ".join(f"{key} ({100 * share:.0f} %)" for key, share in list(self.importances.items())[:3])
        return [found, flattered, *([f"Most decisive for being among the best: {decisive}."] if decisive else [])]


def tune(
    source: Pairs,
    *,
    minutes: float,
    dev: Pairs | None = None,
    out: AnyPath | None = None,
    trials: int = 16,
    settings: Sequence[str] = (),
    seed: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> TuneResult:
    """Try settings around those that ``train`` chooses for these pairs. Nothing is printed.

    Each trial is a training that gets ``minutes / trials`` on this machine, so a larger model makes fewer updates. The
    first one has the settings of ``train``; those of the others follow from the results before them (TPE, Bergstra et
    al. 2011). Call it again with the same arguments to continue a tuning that was stopped.

    Args:
        source: pairs, as ``train`` takes them.
        minutes: for all trials together.
        dev: development pairs, by which trials are compared. Default: 5 % of the sources are held out.
        out: the directory of the tuning. Default: ``runs/<name of the file>-tuning``.
        trials: how many trials the minutes are divided among. There are more if some take less than their share.
        settings: "key.path=value" items that all trials have; these keys are not tuned.
        seed: of all random numbers.
        callbacks: learn of the progress of every trial, see ``freerun.Callback``.

    Returns:
        The trials, the best one with its model and configuration, and the importance of each setting. The directory has
        them as trials.jsonl, best.toml and, with the extra ``report``, report.html.

    Raises:
        TypeError: an argument of the wrong type.
        UserError: anything that you can fix; the message says how.
        MissingExtraError: Optuna is not installed; the extra ``tune`` has it.
        Interrupted: a signal stopped it.
    """
    started = time.monotonic()
    check_number("minutes", minutes)
    check_int("trials", trials)
    if seed is not None:
        check_int("seed", seed)
    checked = as_callbacks(callbacks)
    request = TrainRequest(
        source=as_location("source", source, "pairs"),
        dev=None if dev is None else as_location("dev", dev),
        settings=as_settings(settings),
        seed=seed,
    )
    return run_tuning(request, optional_path("out", out), minutes, trials, checked, started)


def run_tuning(
    request: TrainRequest,
    out: Path | None,
    minutes: float,
    trials: int,
    callbacks: Sequence[Callback] = (),
    started: float | None = None,
) -> TuneResult:
    """Tune as ``tune`` does, from the request of a training."""
    from freerun.studies.tuner import Tuner, TuningPlan

    if out is None:
        default = run_directory(request)
        out = default.with_name(f"{default.name}-tuning")
    plan = TuningPlan(
        training=request,
        directory=out,
        minutes=minutes,
        trials=trials,
        started=time.monotonic() if started is None else started,
    )
    with only_writer(inner_lock(out)):
        tuner = Tuner(plan, lambda each: run_training(each, callbacks))
        return _result(tuner, tuner.run())


def _result(tuner: Tuner, best: Trial) -> TuneResult:
    from freerun.studies.tuner import BEST_CONFIG

    directory = tuner.plan.directory
    result = TuneResult(
        directory=directory,
        metric=tuner.metric,
        trials=list(tuner.trials),
        best=best,
        importances=tuner.space.importances(tuner.trials),
        config=directory / BEST_CONFIG,
        run=tuner.directory_of(best.number),
        start=tuner.space.start,
    )
    _write_report(result)
    return result


def _write_report(result: TuneResult) -> None:
    try:
        from freerun.report.tuning_page import tuning_page
    except MissingExtraError as error:  # a tuning is complete without its plots
        log.info(f"No {REPORT}: {error}")
        return
    page = tuning_page(
        result.directory.name,
        result.metric,
        result.trials,
        result.statements,
        result.start,
        result.importances,
    )
    write_atomic(result.directory / REPORT, page)
    log.info(f"Wrote {result.directory / REPORT}: open it in a browser.")
