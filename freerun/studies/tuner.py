"""Tuning: trainings that each get the same time, with settings that follow from the results of those before.

Trial 0 has the settings that ``freerun train PAIRS`` would choose, so that the best trial is at least as good on the
development pairs. A trial is an ordinary run in ``trials/``, planned for its share of the minutes; of all but the best
one, only configuration and journal are kept.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from logging import WARNING
from pathlib import Path
from typing import Any, Final

from freerun.bounds import MINUTES, TRIALS
from freerun.config import HIGHER_IS_BETTER, Config, flatten, parse_config, read_toml, shown
from freerun.data.memory_pairs import PairsInMemory
from freerun.data.opening import reject_read_once
from freerun.data.readers import files_of
from freerun.errors import ConfigError, Interrupted, RunError, TrainingError, UserError
from freerun.experiment.lengthening import LENGTHS
from freerun.experiment.memory_files import digest_of
from freerun.experiment.pairs_spec import value_of
from freerun.experiment.request import TrainRequest, with_options
from freerun.experiment.result import TrainResult
from freerun.files import write_atomic
from freerun.forcing.registry import EVERYTHING
from freerun.lock import LOCK
from freerun.log import log
from freerun.studies.search_space import SearchSpace
from freerun.studies.source_forms import source_forms
from freerun.studies.trials import Trial, TrialJournal, ranked
from freerun.text import duration, in_minutes
from freerun.training.journal import read_journal

__all__ = ["BEST_CONFIG", "JOURNAL", "Train", "Tuner", "TuningPlan"]

Train = Callable[[TrainRequest], TrainResult]

JOURNAL: Final = "trials.jsonl"
BEST_CONFIG: Final = "best.toml"
_KEPT: Final = ("config.toml", "journal.jsonl")
"""The files of a run directory that every trial keeps."""


@dataclass(frozen=True, kw_only=True)
class TuningPlan:
    """What was requested.

    Attributes:
        training: the pairs, and settings that all trials have.
        directory: of the tuning.
        minutes: for all trials together.
        trials: the share of a trial is ``minutes / trials``; there are more trials if some take less.
        started: when it was requested (``time.monotonic``).
    """

    training: TrainRequest
    directory: Path
    minutes: float
    trials: int
    started: float

    @property
    def share(self) -> float:
        """The minutes of one trial."""
        return self.minutes / self.trials

    def as_json(self) -> dict[str, Any]:
        """Return what a resumed tuning has to repeat."""
        request = self.training
        sources = {"pairs": request.pairs, "dev": request.dev}
        names = {
            name: digest_of(pairs) if isinstance(pairs, PairsInMemory) else value_of(pairs)
            for name, pairs in sources.items()
            if pairs is not None
        }
        return {
            **names,
            "columns": request.columns,
            "settings": list(request.settings),
            "seed": request.seed,
            "minutes": self.minutes,
            "trials": self.trials,
        }


class Tuner:
    """The trials of a plan; only one process may run in its directory.

    Args:
        plan: what was requested.
        train: trains a run, for example ``freerun.experiment.run.train``.

    Raises:
        UserError: the pairs cannot be read for several trials, the plan is out of range, or the directory holds
            something else.
    """

    def __init__(self, plan: TuningPlan, train: Train) -> None:
        self.plan = plan
        self._train = train
        _check_plan(plan)
        _check_directory(plan.directory)
        self.journal = TrialJournal(plan.directory / JOURNAL)
        recorded = self.journal.plan
        if (self.trials or self._has_begun(0)) and recorded != plan.as_json():
            raise _another_plan(plan.directory, recorded, plan.as_json())
        self._used_before = self.journal.seconds

    @property
    def trials(self) -> Sequence[Trial]:
        """The finished trials."""
        return self.journal.trials

    @cached_property
    def config(self) -> Config:
        """The configuration of the first trial, which has to have begun."""
        path = self.directory_of(0) / "config.toml"
        return parse_config(read_toml(path), path, EVERYTHING.settings_of)

    @property
    def metric(self) -> str:
        """The metric that is tuned."""
        return self.config.evaluation.select_on

    @property
    def best(self) -> Trial:
        """The best trial so far; there is one as soon as the first has finished."""
        return ranked(self.trials, self.metric in HIGHER_IS_BETTER)[0]

    @cached_property
    def space(self) -> SearchSpace:
        """The ranges around the first trial's configuration; it has to be finished."""
        fixed = flatten(with_options({}, self.plan.training))
        forms = source_forms(self.config.data, self.plan.training.pairs)
        return SearchSpace(self.config, fixed, self.metric in HIGHER_IS_BETTER, forms)

    def directory_of(self, number: int) -> Path:
        """Return the run directory of a trial."""
        return self.plan.directory / "trials" / f"{number:04d}"

    def run(self) -> Trial:
        """Run trials until the minutes are used, and return the best one.

        Raises:
            UserError: the first trial cannot be trained, or something cannot be written.
            Interrupted: a signal stopped a trial, which is resumed when the tuning is run again.
        """
        if self.journal.plan != self.plan.as_json():
            self.journal.begin(self.plan.as_json())
        try:
            while not self.trials or self._has_begun(len(self.trials)) or self._seconds_left() >= 60 * self.plan.share:
                self._run_trial()
        except UserError:
            if not self._has_begun(0):
                self.journal.path.unlink()  # a mistake in the arguments leaves nothing behind
            raise
        self._keep_the_best()  # a process may have died just before it did
        return self.best

    def _has_begun(self, number: int) -> bool:
        """Return True for a trial with a plan: it is finished, however much time is left."""
        return (self.directory_of(number) / "config.toml").exists()

    def _seconds_left(self) -> float:
        return 60 * self.plan.minutes - self._used_before - (time.monotonic() - self.plan.started)

    # -- one trial ----------------------------------------------------------------------------------------------------

    def _run_trial(self) -> None:
        number = len(self.trials)
        settings = self.space.suggest(self.trials, self.config.training.seed) if number else {}
        if settings:
            log.info(f"Trial {number}: {_described(settings)}")
        started = time.monotonic()
        try:
            trial = self._outcome(number, settings)
        except (Interrupted, KeyboardInterrupt):
            self.journal.add_stop(time.monotonic() - started)
            raise
        self.journal.add(replace(trial, seconds=round(time.monotonic() - started, 1)))
        self._report(self.trials[-1])
        self._keep_the_best()

    def _outcome(self, number: int, settings: dict[str, Any]) -> Trial:
        """Train, or finish a training; settings that cannot be trained are a result, too, except those of trial 0."""
        try:
            with _fewer_notices() if number else contextlib.nullcontext():
                result = self._train(self._request(number, settings))
        except (ConfigError, TrainingError) as error:
            if number == 0:
                raise self._explained(error) from error
            return Trial(number=number, settings=settings, value=None, failed=str(error))
        self._check_same_data(number)
        value = result.metrics[self.metric]
        failed = f"{self.metric} is undefined" if value is None else None
        if number == 0 and failed:
            raise TrainingError(
                self.directory_of(0), failed, "Expected a metric to tune", "Use other development pairs, or more"
            )
        return Trial(number=number, settings=settings, value=value, failed=failed, updates=result.updates)

    def _explained(self, error: ConfigError | TrainingError) -> UserError:
        """Return an error about the first trial's time limit as one about the minutes of the tuning."""
        if error.where != "minutes":
            return error
        what = f"{in_minutes(self.plan.minutes)} for {self.plan.trials:,} trials: {error.what}"
        return UserError("minutes", what, f"{error.expected}, for each trial", "Raise --minutes, or lower --trials")

    def _request(self, number: int, settings: dict[str, Any]) -> TrainRequest:
        directory = self.directory_of(number)
        resumes = self._has_begun(number)
        training = self.plan.training
        given = {**self.space.kept, **settings} if number else {}
        return replace(
            training,
            out=directory,
            settings=(*training.settings, *(f"{key}={shown(value)}" for key, value in given.items())),
            minutes=None if resumes else self.plan.share,
            resume=resumes,
            started=time.monotonic(),
        )

    def _check_same_data(self, number: int) -> None:
        """Check that a trial had the pairs of the first one."""
        keys = ("train_sha256", "dev_sha256")
        first, this = (read_journal(self.directory_of(each) / "journal.jsonl")[0] for each in (0, number))
        if any(first.get(key) != this.get(key) for key in keys):
            raise RunError(
                self.plan.directory,
                f"the pairs have changed between trial 0 and trial {number}",
                "Expected the pairs that the tuning was started with",
                f"Put them back and remove {self.directory_of(number)}, or tune in another directory with --out",
            )

    # -- results ------------------------------------------------------------------------------------------------------

    def _report(self, trial: Trial) -> None:
        best = self.best
        if trial.value is None:
            log.info(f"Trial {trial.number} failed: {trial.failed}")
            return
        place = "the best so far" if best is trial else f"the best is trial {best.number} with {best.value:.4f}"
        log.info(
            f"Trial {trial.number}: {self.metric} {trial.value:.4f} after {trial.updates:,} updates in "
            f"{duration(trial.seconds)}; {place}.\n"
        )

    def _keep_the_best(self) -> None:
        """Write the best configuration, and remove the models of all other trials."""
        best = self.best
        for trial in self.trials:
            if trial is not best:
                _remove_all_but(self.directory_of(trial.number), _KEPT)
        content = (self.directory_of(best.number) / "config.toml").read_text("utf-8")
        found = f"{self.metric} {best.value:.4f} on the development pairs"
        head = f"# The best of {len(self.trials)} trials, trial {best.number}: {found}.\n"
        write_atomic(self.plan.directory / BEST_CONFIG, head + content)


def _remove_all_but(directory: Path, names: Collection[str]) -> None:
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name in names:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _described(settings: dict[str, Any]) -> str:
    """Return settings as text, without the sections of their keys."""
    return ", ".join(f"{key.partition('.')[2]} {shown(value)}" for key, value in settings.items()).replace('"', "")


@contextlib.contextmanager
def _fewer_notices() -> Iterator[None]:
    """Leave out what every trial would say again about the same pairs; warnings are shown."""
    level = log.level
    log.setLevel(WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_plan(plan: TuningPlan) -> None:
    MINUTES.check("minutes", plan.minutes, "Choose another time limit")
    TRIALS.check("trials", plan.trials, "Choose another number of trials")
    if plan.share < MINUTES.low:
        raise UserError(
            "minutes",
            f"{plan.minutes:g} minutes for {plan.trials:,} trials are {60 * plan.share:.2g} seconds each",
            f"Expected {60 * MINUTES.low:g} seconds or more for a trial",
            "Raise the minutes, or lower the number of trials",
        )
    training = plan.training
    if training.pairs is None:
        raise ConfigError.single(
            "freerun tune",
            "no pairs are given" if training.configuration is None else "a configuration is given",
            "Expected pairs: what is tuned are the settings that freerun train PAIRS chooses",
            "Name a file of pairs, and pass settings that all trials have with --set",
        )
    lengths = sorted(flatten(with_options({}, training)).keys() & LENGTHS)
    if lengths:
        raise ConfigError.single(
            lengths[0],
            "the length of a training is set, and the minutes set it, too",
            "Expected trials that are as long as their share of the minutes",
            "Leave it out",
        )
    for location in (training.pairs, training.dev):
        for file in () if location is None or isinstance(location, PairsInMemory) else files_of(location):
            reject_read_once(file)


def _check_directory(directory: Path) -> None:
    names = {each.name for each in directory.iterdir()} if directory.is_dir() else set()
    if directory.exists() and (not directory.is_dir() or (names - {LOCK} and JOURNAL not in names)):
        raise RunError(
            directory,
            "this directory is not empty and contains no tuning",
            "Expected a new or empty directory, or one with a tuning to continue",
            "Choose another with --out",
        )


def _another_plan(directory: Path, before: dict[str, Any], now: dict[str, Any]) -> RunError:
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    details = "; ".join(f"{key} was {shown(before.get(key))}, now {shown(now.get(key))}" for key in changed)
    return RunError(
        directory,
        f"this directory contains a tuning with other arguments: {details}",
        "Expected the arguments that it was started with",
        "Repeat them to continue, or use another directory with --out",
    )
