"""The runs of a study: trained in processes of their own, some at a time, evaluated, and stored as results."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from freerun.config import StudyConfig
from freerun.errors import Interrupted, UserError
from freerun.evaluation.items import EvaluationSet
from freerun.evaluation.predictor_evaluation import evaluate_pairs
from freerun.evaluation.searcher_evaluation import Evaluation
from freerun.experiment.origin import starting_version
from freerun.experiment.overlap import pairs_of_study
from freerun.experiment.pairs_for_model import read_for_models
from freerun.experiment.pairs_spec import dev_pairs_of
from freerun.experiment.run_columns import data_of_run
from freerun.loading import load
from freerun.lock import holder, inner_lock
from freerun.log import log
from freerun.studies.plan import StudyRun
from freerun.studies.results import Result, write_result
from freerun.studies.training_process import TrainingProcess
from freerun.threads import cores
from freerun.training.journal import read_journal
from freerun.training.signals import checkpoints_on_signals, stop_on_signals
from freerun.version import VERSION

__all__ = ["train_all"]

_POLL_SECONDS = 0.2

Progress = Callable[[int, int], None]


def train_all(
    waiting: Sequence[StudyRun], settings: StudyConfig, progress: Progress | None = None, device: str | None = None
) -> None:
    """Train runs, each in a process of its own, and store their results.

    ``progress`` is called while a trained model is evaluated. ``device`` is that of all trainings; None: that of their
    configurations.

    Raises:
        UserError: a run could not be trained.
        Interrupted: a signal stopped the study; all trainings have written checkpoints.
    """
    todo = list(waiting)
    reported: set[str] = set()
    running: dict[str, tuple[StudyRun, TrainingProcess]] = {}
    finished = 0
    with stop_on_signals() as stop, checkpoints_on_signals() as requested:
        try:
            while todo or running:
                if requested.take():
                    _request_checkpoints(running.values())
                while len(running) < settings.processes and not stop and (run := _take_free_run(todo, reported)):
                    running[run.name] = run, _start(run, settings.processes, device)
                if stop:
                    raise Interrupted(stop.signal)
                for run, process in list(running.values()):
                    code = process.poll()
                    if code is None:
                        continue
                    del running[run.name]
                    if process.was_locked_out():
                        todo.append(run)  # a training of an earlier study had just started
                        continue
                    finished += 1
                    failure = _save_result(run, code, process.start_time, settings, progress)
                    outcome = f"failed: {failure}" if failure else "done"
                    log.info(f"{run.name}: {outcome} ({finished} of {len(waiting)})")
                time.sleep(_POLL_SECONDS)
        finally:
            # however this ends, no training continues unnoticed
            for _, process in running.values():
                process.request_stop()
            for _, process in running.values():
                process.wait()


def _request_checkpoints(running: Iterable[tuple[StudyRun, TrainingProcess]]) -> None:
    """Send SIGUSR1 to the trainings that handle it: it would end one that is still starting."""
    ready = [process for run, process in running if holder(inner_lock(run.directory)) is not None]
    for process in ready:
        process.request_checkpoint()
    log.info(f"Received SIGUSR1: requested a checkpoint from {len(ready)} training{'' if len(ready) == 1 else 's'}.")


def _take_free_run(todo: list[StudyRun], reported: set[str]) -> StudyRun | None:
    """Take the first run that no other process trains, if any.

    A training may outlive a study that was killed. Its run waits for its end, and is then resumed like any other.
    """
    for number, run in enumerate(todo):
        other = holder(inner_lock(run.directory))
        if other is None:
            return todo.pop(number)
        if run.name not in reported:
            reported.add(run.name)
            log.info(f"{run.name}: {other} is training it; waiting for it to end.")
    return None


def _start(run: StudyRun, processes: int, device: str | None) -> TrainingProcess:
    environment = dict(os.environ)
    if processes > 1 and not run.config.training.threads:
        # cores are divided among processes; a configuration key would change with their number
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    log.info(f"{run.name}: training, see {run.log}")
    arguments = [str(run.study / "configs" / f"{run.arm}.toml"), "--seed", str(run.seed)]
    arguments += [] if device is None else ["--device", device]
    return TrainingProcess([*arguments, "--out", str(run.directory), "--resume"], run.log, environment)


def _save_result(
    run: StudyRun, code: int, start_time: float, settings: StudyConfig, progress: Progress | None
) -> str | None:
    """Evaluate the run's best model and write its result; returns why there is no model, None if there is one."""
    failure = _divergence(run, start_time) if code == 2 else None
    if code and failure is None:
        raise UserError(
            run.log,
            f"{run.name} could not be trained (exit code {code}): {_last_line(run)}",
            "Expected every run to be trained to its end",
            "Fix the cause that the log names, then rerun the command: finished runs are kept",
        )
    events = read_journal(run.directory / "journal.jsonl")
    result = Result(
        arm=run.arm,
        seed=run.seed,
        config_hash=run.config_hash,
        failed=failure,
        sources_hash="",
        ratios={},
        scores={},
        curve=[],
        updates=max((event["update"] for event in events), default=0),
        seconds=_seconds(events),
        journal={},
        freerun=starting_version(run.directory) or VERSION,
    )
    # a failed run is a result, too: a study is to find out whether a strategy fails under some seeds
    if failure is None:
        result = _with_metrics(result, _evaluation(run, settings, progress), events)
    write_result(run.result, result)
    return failure


def _evaluation(run: StudyRun, settings: StudyConfig, progress: Progress | None) -> Evaluation:
    directory = run.directory
    spec = pairs_of_study(settings.pairs, data_of_run(directory)) if settings.pairs else dev_pairs_of(directory)
    search = run.config.evaluation
    predictor = load(run.directory)
    return evaluate_pairs(
        predictor,
        read_for_models(spec, predictor.source),
        spec.description,
        model=run.name,
        beam_size=search.beam_size,
        length_penalty=search.length_penalty,
        early_stop=search.early_stop,
        progress=progress,
    )


def _sources_hash(items: EvaluationSet) -> str:
    """Return a hash of the sources, with their features if they have any."""
    return hashlib.sha256("\n".join(items.labels).encode()).hexdigest()


def _with_metrics(result: Result, evaluation: Evaluation, events: Sequence[Mapping[str, Any]]) -> Result:
    ratios = {
        name: (np.asarray(above, np.float64).tolist(), np.asarray(below, np.float64).tolist())
        for name, (above, below) in evaluation.ratios.items()
    }
    # the last event of a run describes its best model on all development pairs, and is no point of its curve
    points = [event for event in events if event["event"] == "evaluation" and not event.get("final")]
    return replace(
        result,
        sources_hash=_sources_hash(evaluation.items),
        ratios=ratios,
        scores={name: score.value for name, score in evaluation.free.scores.items()},
        curve=[(event["update"], _metrics(event)) for event in points if "averaged" not in event],
        journal=_journal_means(events, result.updates),
    )


def _divergence(run: StudyRun, start_time: float) -> str | None:
    """Return what was not finite in this process's training, None if that is not why it ended."""
    for path in run.directory.glob("not-finite-update-*.json"):
        if path.stat().st_mtime >= start_time:
            values = json.loads(path.read_text(encoding="utf-8"))
            loss, norm = values["loss"], values["gradient_norm"]
            return f"update {values['update']:,}: loss {loss}, gradient norm {norm}"
    return None


def _seconds(events: Sequence[Mapping[str, Any]]) -> float:
    """Return the time that the journal covers, over all processes that worked on the run."""
    total = last = 0.0
    for event in events:
        if event["event"] == "resume":
            total, last = total + last, 0.0
        last = event.get("seconds", last)
    return total + last


def _metrics(event: Mapping[str, Any]) -> dict[str, float]:
    """Return an evaluation's metrics without their intervals."""
    return {
        key: value
        for key, value in event.items()
        if key.endswith((".free", ".teacher")) and isinstance(value, int | float)
    }


def _journal_means(events: Sequence[Mapping[str, Any]], updates: int) -> dict[str, float]:
    """Return means over the last quarter of what update events have: losses, rates, accuracies of a discriminator."""
    late = [event for event in events if event["event"] == "update" and event["update"] > 0.75 * updates]
    names = set().union(*(event.keys() for event in late)) - {"event", "update", "epoch"}
    means: dict[str, float] = {}
    for name in sorted(names):
        values = [event[name] for event in late if isinstance(event.get(name), int | float)]
        if values and not name.endswith(("seconds", "_per_second")):
            means[name] = float(np.mean(values))
    return means


def _last_line(run: StudyRun) -> str:
    lines = run.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "the log is empty"
