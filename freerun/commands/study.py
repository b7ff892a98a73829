"""``freerun study``: strategies, or whole configurations, over seeds, and which differences are real."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from freerun.commands.console import say
from freerun.commands.evaluate import evaluate_predictor
from freerun.commands.figures import aligned
from freerun.config import (
    Config,
    StudyConfig,
    absolute_paths,
    changed_keys,
    check_values,
    merge,
    parse_config,
    read_toml,
    shown,
)
from freerun.data.readers import content_hash
from freerun.diagnostics.plain import as_values
from freerun.errors import ConfigError, Interrupted, RunError, UserError
from freerun.experiment.begun import Begun, begun_with, check_study_begun, is_over
from freerun.experiment.overlap import Overlap, checked_overlap, pairs_of_study
from freerun.experiment.pairs_spec import dev_pairs_of, location_of
from freerun.files import real_path, remove_leftovers, write_atomic
from freerun.forcing.registry import EVERYTHING
from freerun.loading import load
from freerun.lock import LOCK, holder, inner_lock, only_writer
from freerun.runtime.bundle import read_bundle
from freerun.studies.analysis import Analysis, ArmFigures, Comparison, analyse
from freerun.studies.results import Result, read_result, write_result
from freerun.studies.training_process import TrainingProcess
from freerun.threads import cores
from freerun.training.journal import read_journal
from freerun.training.signals import checkpoints_on_signals, stop_on_signals
from freerun.version import VERSION

__all__ = ["StudyRequest", "study"]

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class StudyRequest:
    """The arguments of ``freerun study``."""

    config: Path
    out: Path | None = None
    json: bool = False


@dataclass(frozen=True)
class _Run:
    """One arm under one seed: where its configuration, run folder, log and result stand."""

    arm: str
    seed: int
    config: Config
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / self.name

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.name}.log"

    @property
    def result(self) -> Path:
        return self.folder / "results" / f"{self.name}.json"

    @property
    def config_hash(self) -> str:
        """Of what decides the figures: not of where the data lie, nor of the number of threads."""
        values = _placeless(self.config)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def begun(self) -> Begun:
        """The version that began it, by its result or else its journal."""
        result = read_result(self.result, self.config_hash)
        return Begun(begun_with(self.run), is_over(self.run)) if result is None else Begun(result.freerun, True)


def study(request: StudyRequest) -> Analysis:
    """Train what is not yet there, evaluate it, compare, and print (or write as JSON) what came out.

    Everything finished is kept in ``results/`` and not run again; a run that was stopped goes on where it was.

    Raises:
        UserError: a fault in the study or in any arm, a folder of another study, another process that runs this one.
        Interrupted: a signal stopped it; the same command goes on.
    """
    settings, raws = _settled(request.config)
    folder = request.out or Path("runs") / request.config.stem
    with only_writer(inner_lock(folder)):
        return _study(request, settings, raws, folder)


def _study(
    request: StudyRequest, settings: StudyConfig, raws: Mapping[str, tuple[dict[str, Any], Config]], folder: Path
) -> Analysis:
    arms = {name: config for name, (_, config) in raws.items()}
    runs = [
        _Run(name, seed, _with_seed(config, seed), folder) for name, config in arms.items() for seed in settings.seeds
    ]
    # bad pairs are better found now than after the first training
    overlap = checked_overlap(settings.pairs, [config.data for config in arms.values()], say)
    _begin_folder(folder, settings, arms, runs)
    for name, (raw, _) in raws.items():
        write_atomic(folder / "configs" / f"{name}.toml", tomli_w.dumps(raw))
    waiting = [run for run in runs if read_result(run.result, run.config_hash) is None]
    say(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished before; in {folder}.")
    _train_all(waiting, settings)
    results = [found for run in runs if (found := read_result(run.result, run.config_hash)) is not None]
    analysis = analyse(results, list(arms), settings.control, settings.metric, settings.reach)
    _write_report(folder, analysis, results, settings, overlap)
    print(json.dumps(_as_json(analysis, overlap)) if request.json else as_text(analysis, settings, overlap))
    return analysis


# -- configuration -----------------------------------------------------------------------------------------------------


def _settled(path: Path) -> tuple[StudyConfig, dict[str, tuple[dict[str, Any], Config]]]:
    """The study, its paths absolute, and each arm's configuration, as it was set and whole; all faults at once."""
    settings = check_values(StudyConfig, read_toml(path), path)
    folder = real_path(path.parent)
    settings = settings.model_copy(
        update={
            "base": str(folder / settings.base),
            "pairs": None if settings.pairs is None else str(folder / settings.pairs),
        }
    )
    _check_study(path, settings)
    base_path = Path(settings.base)
    base = absolute_paths(read_toml(base_path), real_path(base_path.parent))
    arms: dict[str, tuple[dict[str, Any], Config]] = {}
    problems: list[UserError] = []
    for name, raw in _raw_arms(base, settings, folder).items():
        try:
            arms[name] = raw, parse_config(raw, f"{path}, arm {name}", EVERYTHING.settings_of)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return settings, arms


def _raw_arms(base: Mapping[str, Any], settings: StudyConfig, folder: Path) -> dict[str, dict[str, Any]]:
    under = {key: value for key, value in base.items() if key != "forcing"}
    strategies = {name: {**under, "forcing": section} for name, section in settings.strategies.items()}
    variants = {name: merge(base, absolute_paths(raw, folder)) for name, raw in settings.variants.items()}
    return {**strategies, **variants}


def _check_study(path: Path, settings: StudyConfig) -> None:
    names = [*settings.strategies, *settings.variants]
    problems = [
        UserError(
            f"{path}: {name!r}", "this cannot be a file's name", "Expected letters, digits, _ . and -", "Rename it"
        )
        for name in names
        if not _NAME.fullmatch(name)
    ]
    problems += [
        UserError(f"{path}: {name}", "a strategy and a variant have this name", "Expected two names", "Rename one")
        for name in sorted(settings.strategies.keys() & settings.variants.keys())
    ]
    if len(names) < 2:
        what = f"{'one arm' if names else 'no arm'} in [strategies] and [variants]"
        problems.append(UserError(path, what, "Expected two at least, one of them the control", "Add another"))
    if settings.control not in names:
        problems.append(
            UserError(
                f"{path}: control",
                f"the value is {shown(settings.control)}",
                f"Expected the name of an arm: {', '.join(names)}",
                "Name one of them",
            )
        )
    if len(set(settings.seeds)) < len(settings.seeds):
        problems.append(UserError(f"{path}: seeds", f"{settings.seeds} holds a seed twice", "Expected different seeds"))
    if problems:
        raise ConfigError(problems)


def _with_seed(config: Config, seed: int) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})


def _begin_folder(folder: Path, settings: StudyConfig, arms: Mapping[str, Config], runs: Sequence[_Run]) -> None:
    """Keep what the study is; refuse a folder of another one. More seeds, arms and processes may come later."""
    path = folder / "study.json"
    _clean_up_study(folder)
    kept = settings.model_dump(mode="json", exclude={"base", "pairs", "strategies", "variants"})
    asked: dict[str, Any] = {"settings": kept, "arms": {name: _elsewhere_too(config) for name, config in arms.items()}}
    if settings.pairs:
        asked["pairs_sha256"] = content_hash(Path(settings.pairs))
    if path.exists():
        _refuse_changes(folder, _read_study(path), asked)
    elif {each.name for each in folder.iterdir()} - {"results", LOCK}:
        raise RunError(
            folder,
            "this folder is not empty, and holds no study",
            "Expected a new or empty folder, or one with the results of a study",
            "Choose another with --out",
        )
    # before anything is written: the version that began the study may have to finish it
    check_study_begun(folder, {run.name: run.begun for run in runs})
    # first of all: without it, a folder is none of a study
    write_atomic(path, json.dumps(asked, indent=1) + "\n")
    (folder / "configs").mkdir(exist_ok=True)


def _clean_up_study(folder: Path) -> None:
    """Clear away what a killed process left half done; each run clears its own folder."""
    for name in ("study.json", "analysis.json", "report.html"):
        remove_leftovers(folder, name)
    remove_leftovers(folder / "configs", "*.toml")
    remove_leftovers(folder / "results", "*.json")


def _read_study(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found["arms"], dict) and isinstance(found["settings"], dict):
            return dict(found)
        raise ValueError("it holds no arms")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RunError(
            path, f"this cannot be read ({error!r})", "Expected what a study wrote", "Remove it to begin it anew"
        ) from None


def _refuse_changes(folder: Path, before: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    shared = before["arms"].keys() & asked["arms"].keys()
    old = {name: before["arms"][name] for name in shared}
    new = {name: asked["arms"][name] for name in shared}
    changes = changed_keys(old, new)
    pairs = before.get("pairs_sha256"), asked.get("pairs_sha256")
    if pairs[0] != pairs[1]:
        changes.append(("the content of pairs", *pairs))
    if changes:
        told = "; ".join(f"{key} was {shown(one)}, now {shown(other)}" for key, one, other in changes)
        raise RunError(
            folder,
            f"this folder holds a study of another configuration: {told}",
            "Expected the configuration that it was begun with; seeds and arms may be added",
            "Undo the change to go on, or study into another folder with --out",
        )


def _elsewhere_too(config: Config) -> dict[str, Any]:
    """A configuration with what its data are in place of where they lie: a study can go on on another machine."""
    raw = _placeless(config)
    raw["data"]["train_sha256"] = content_hash(location_of(config.data.train))
    if config.data.dev is not None:
        raw["data"]["dev_sha256"] = content_hash(location_of(config.data.dev))
    if config.training.init:
        bundle = read_bundle(Path(config.training.init))
        bundle.check_weights()
        raw["training"]["init_sha256"] = bundle.weights_hash
    return raw


def _placeless(config: Config) -> dict[str, Any]:
    """All that decides the figures: not where data and bundle lie, nor the number of threads."""
    raw = config.model_dump(exclude_none=True, mode="json")
    for section, key in (("data", "train"), ("data", "dev"), ("training", "init"), ("training", "threads")):
        raw[section].pop(key, None)
    # a key that is newer than results which may be there: unless it is set, it changes none of them
    if not raw["evaluation"]["early_stop"]:
        del raw["evaluation"]["early_stop"]
    return raw


# -- running -----------------------------------------------------------------------------------------------------------


def _train_all(waiting: Sequence[_Run], settings: StudyConfig) -> None:
    """Train runs, some at a time, each in a process of its own, and keep their results."""
    todo = list(waiting)
    reported: set[str] = set()
    running: dict[str, tuple[_Run, TrainingProcess]] = {}
    finished = 0
    with stop_on_signals() as stop, checkpoints_on_signals() as wanted:
        try:
            while todo or running:
                if wanted.take():
                    _ask_for_checkpoints(running.values())
                while len(running) < settings.processes and not stop and (run := _next_free(todo, reported)):
                    running[run.name] = run, _started(run, settings.processes)
                if stop:
                    raise Interrupted(stop.signal)
                for run, process in list(running.values()):
                    code = process.poll()
                    if code is None:
                        continue
                    del running[run.name]
                    if process.was_refused():
                        todo.append(run)  # a training of an earlier study was just starting
                        continue
                    finished += 1
                    failed = _keep(run, code, process.began, settings)
                    say(f"{run.name}: {f'failed: {failed}' if failed else 'done'} ({finished} of {len(waiting)})")
                time.sleep(_POLL_SECONDS)
        finally:
            # whatever ends this, no training goes on unseen
            for _, process in running.values():
                process.ask_to_stop()
            for _, process in running.values():
                process.wait()


def _ask_for_checkpoints(running: Iterable[tuple[_Run, TrainingProcess]]) -> None:
    """Pass SIGUSR1 on to the trainings that have begun: it would end one that is still starting."""
    asked = [(run, process) for run, process in running if holder(inner_lock(run.run)) is not None]
    for _, process in asked:
        process.ask_for_checkpoint()
    say(f"Asked {len(asked)} training{'' if len(asked) == 1 else 's'} for a checkpoint, as SIGUSR1 asked.")


def _next_free(todo: list[_Run], reported: set[str]) -> _Run | None:
    """Take the first run that no other process trains, if any.

    A training outlives a study that was killed. It is waited for, and then its run is resumed like any other.
    """
    for number, run in enumerate(todo):
        other = holder(inner_lock(run.run))
        if other is None:
            return todo.pop(number)
        if run.name not in reported:
            reported.add(run.name)
            say(f"{run.name}: {other} is training it; waiting for its end")
    return None


def _started(run: _Run, processes: int) -> TrainingProcess:
    environment = dict(os.environ)
    if processes > 1 and not run.config.training.threads:
        # cores are shared out; not as a key of the configuration, which would be another one with other processes
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    say(f"{run.name}: training, see {run.log}")
    arguments = [str(run.folder / "configs" / f"{run.arm}.toml"), "--seed", str(run.seed)]
    return TrainingProcess([*arguments, "--out", str(run.run), "--resume"], run.log, environment)


def _keep(run: _Run, code: int, began: float, settings: StudyConfig) -> str | None:
    """Evaluate the run's best model and write its result; returns why there is no model, where there is none."""
    failed = _divergence(run, began) if code == 2 else None
    if code and failed is None:
        raise UserError(
            run.log,
            f"{run.name} could not be trained (exit code {code}): {_last_line(run.log)}",
            "Expected every arm to be trained to its end",
            "Mend what the log names, and give the same command again: finished runs are kept",
        )
    events = read_journal(run.run / "journal.jsonl")
    updates = max((event["update"] for event in events), default=0)
    version = begun_with(run.run) or VERSION
    about = Result(run.arm, run.seed, run.config_hash, failed, "", {}, {}, [], updates, _seconds(events), {}, version)
    if failed is not None:
        # a result like any other: that a strategy fails under some seeds is what a study is to find out
        write_result(run.result, about)
        return failed
    pairs = pairs_of_study(settings.pairs, run.config.data) if settings.pairs else dev_pairs_of(run.run)
    search = run.config.evaluation
    options = search.beam_size, search.length_penalty, search.early_stop
    evaluation = evaluate_predictor(load(run.run), pairs, *options, model=run.name)
    ratios = {
        name: (np.asarray(above, np.float64).tolist(), np.asarray(below, np.float64).tolist())
        for name, (above, below) in evaluation.ratios.items()
    }
    # the last event of a run is of its best model on all development pairs, and no point of its curve
    points = [event for event in events if event["event"] == "evaluation" and not event.get("final")]
    curve = [(event["update"], _figures(event)) for event in points if "averaged" not in event]
    scores = {name: score.value for name, score in evaluation.free.scores.items()}
    sources = hashlib.sha256("\n".join(evaluation.items.sources).encode()).hexdigest()
    noted = _noted(events, updates)
    kept = replace(about, sources_hash=sources, ratios=ratios, scores=scores, curve=curve, journal=noted)
    write_result(run.result, kept)
    return None


def _divergence(run: _Run, began: float) -> str | None:
    """What was not finite in this process's training, None where that is not why it ended."""
    for path in run.run.glob("not-finite-update-*.json"):
        if path.stat().st_mtime >= began:
            found = json.loads(path.read_text(encoding="utf-8"))
            return f"update {found['update']:,}: loss {found['loss']}, norm of the gradients {found['gradient_norm']}"
    return None


def _seconds(events: Sequence[Mapping[str, Any]]) -> float:
    """Time spent on what the journal tells of, over all the times that the run was gone on with."""
    total = last = 0.0
    for event in events:
        if event["event"] == "resume":
            total, last = total + last, 0.0
        last = event.get("seconds", last)
    return total + last


def _figures(event: Mapping[str, Any]) -> dict[str, float]:
    """An evaluation's figures without their intervals."""
    return {
        key: value
        for key, value in event.items()
        if key.endswith((".free", ".teacher")) and isinstance(value, int | float)
    }


def _noted(events: Sequence[Mapping[str, Any]], updates: int) -> dict[str, float]:
    """Means over the last quarter of what an update's event has (losses, rates, accuracies of a discriminator)."""
    late = [event for event in events if event["event"] == "update" and event["update"] > 0.75 * updates]
    names = set().union(*(event.keys() for event in late)) - {"event", "update", "epoch"}
    found: dict[str, float] = {}
    for name in sorted(names):
        values = [event[name] for event in late if isinstance(event.get(name), int | float)]
        if values and not name.endswith(("seconds", "_per_second")):
            found[name] = float(np.mean(values))
    return found


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it wrote nothing"


# -- what came out -----------------------------------------------------------------------------------------------------


def _as_json(analysis: Analysis, overlap: Overlap) -> dict[str, Any]:
    return {**as_values(analysis), "reported_on": overlap.as_json()}


def _write_report(
    folder: Path, analysis: Analysis, results: Sequence[Result], settings: StudyConfig, overlap: Overlap
) -> None:
    write_atomic(folder / "analysis.json", json.dumps(_as_json(analysis, overlap), indent=1) + "\n")
    try:
        from freerun.report.study_page import study_page
    except UserError as error:  # a study is no worse for having no pictures
        say(f"No report.html: {error}")
        return
    write_atomic(folder / "report.html", study_page(folder.name, analysis, results, str(overlap), settings.reach))
    say(f"Wrote {folder / 'report.html'}: open it in a browser.")


def as_text(analysis: Analysis, settings: StudyConfig, overlap: Overlap) -> str:
    """Statements, arms and comparisons as tables."""
    parts = ["\n".join(analysis.statements), f"Figures on {analysis.sources:,} sources of {overlap}."]
    rows = [["", "seeds", "symbol error rate", "95 %, seeds and sources", "sequence accuracy", "NLL", "minutes"]]
    rows += [_arm_row(arm) for arm in analysis.arms if arm.figures]
    if len(rows) > 1:
        if settings.reach is not None:
            rows[0].append(f"updates to {settings.reach:g}")
            for row, arm in zip(rows[1:], (arm for arm in analysis.arms if arm.figures), strict=True):
                updates, came = arm.to_reach
                row.append("never" if updates is None else f"{updates:,.0f} ({came} of {len(arm.seeds)} seeds)")
        parts.append("\n".join(aligned(rows)))
    if analysis.comparisons:
        head = [f"{analysis.metric}, minus {analysis.control}", "95 %, seeds and sources", "p (Holm)"]
        rows = [[*head, "95 %, t over seeds", "p (Holm)", "cost", "verdict"]]
        rows += [_comparison_row(each) for each in analysis.comparisons]
        parts.append("\n".join(aligned(rows)))
    return "\n\n".join(parts)


def _arm_row(arm: ArmFigures) -> list[str]:
    error = arm.figures["symbol_error_rate.free"]
    others = [_number(arm.figures[name].value) for name in ("sequence_accuracy.free", "nll.teacher")]
    interval = "" if error.low is None else f"{error.low:.4f} to {error.high:.4f}"
    minutes = f"{arm.seconds / 60:.1f}"
    return [arm.name, str(len(arm.seeds)), _number(error.value), interval, *others, minutes]


def _comparison_row(each: Comparison) -> list[str]:
    def ends(interval: Any) -> str:
        return "" if np.isnan(interval.low) else f"{interval.low:+.4f} to {interval.high:+.4f}"

    def p(value: float) -> str:
        return "" if np.isnan(value) else f"{value:.3f}"

    start = [f"{each.name} {each.difference.value:+.4f}", ends(each.difference), p(each.p_value)]
    return [*start, ends(each.over_seeds), p(each.p_over_seeds), f"{each.cost:.2f} x", each.verdict]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
