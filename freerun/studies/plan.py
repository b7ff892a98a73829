"""The plan of a study: its configuration, the arms under each seed, and its directory."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import tomli_w

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
    with_former_names,
    with_new_names,
)
from freerun.data.readers import content_hash
from freerun.errors import ConfigError, RunError, UserError
from freerun.experiment.origin import Origin, check_study_random_numbers, is_finished, starting_version
from freerun.experiment.pairs_spec import location_of
from freerun.files import real_path, remove_leftovers, write_atomic
from freerun.forcing.registry import EVERYTHING
from freerun.lock import LOCK
from freerun.runtime.bundle import read_bundle
from freerun.studies.results import read_result

__all__ = ["Arm", "StudyPlan", "StudyRun", "load_study", "prepare_directory"]

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")


@dataclass(frozen=True)
class Arm:
    """An arm's configuration: ``raw``, as it was set, and ``config``, complete."""

    raw: Mapping[str, Any]
    config: Config


@dataclass(frozen=True)
class StudyRun:
    """One arm under one seed, and the paths of its files in the study's directory."""

    arm: str
    seed: int
    config: Config
    study: Path

    @property
    def name(self) -> str:
        """The arm and the seed."""
        return f"{self.arm}-{self.seed}"

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.study / "runs" / self.name

    @property
    def log(self) -> Path:
        """The file that the training's output is written to."""
        return self.study / "logs" / f"{self.name}.log"

    @property
    def result(self) -> Path:
        """The file of the result, written when the run has finished."""
        return self.study / "results" / f"{self.name}.json"

    @property
    def config_hash(self) -> str:
        """The hash of everything that determines the metrics, which excludes the data's location, the threads and the
        device.
        """
        values = with_former_names(_portable(self.config))  # results of earlier versions remain this run's
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def origin(self) -> Origin:
        """The version that started the run, according to its result or else its journal."""
        result = read_result(self.result, self.config_hash)
        if result is None:
            return Origin(starting_version(self.directory), is_finished(self.directory))
        return Origin(result.freerun, True)


@dataclass(frozen=True)
class StudyPlan:
    """A study's settings, its arms by name, and its directory."""

    settings: StudyConfig
    arms: Mapping[str, Arm]
    directory: Path

    @cached_property
    def runs(self) -> list[StudyRun]:
        """Every arm under every seed."""
        return [
            StudyRun(name, seed, _with_seed(arm.config, seed), self.directory)
            for name, arm in self.arms.items()
            for seed in self.settings.seeds
        ]


# -- configuration ----------------------------------------------------------------------------------------------------


def load_study(config: Path | Mapping[str, Any], directory: Path) -> StudyPlan:
    """Read and check a study and the configurations of its arms.

    Args:
        config: a TOML file, or its content; then paths are relative to the working directory.
        directory: of the study.

    Raises:
        ConfigError: every error of the study, or of all its arms, at once.
    """
    location = config if isinstance(config, Path) else "study"
    raw = read_toml(config) if isinstance(config, Path) else config
    origin = real_path(config.parent if isinstance(config, Path) else Path())
    settings = check_values(StudyConfig, raw, location)
    settings = settings.model_copy(
        update={
            "base": str(origin / settings.base),
            "pairs": None if settings.pairs is None else str(origin / settings.pairs),
        }
    )
    _check_study(location, settings)
    base_path = Path(settings.base)
    base = absolute_paths(read_toml(base_path), real_path(base_path.parent))
    arms: dict[str, Arm] = {}
    problems: list[UserError] = []
    for name, raw_arm in _raw_arms(base, settings, origin).items():
        try:
            arms[name] = Arm(raw_arm, parse_config(raw_arm, f"{location}, arm {name}", EVERYTHING.settings_of))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return StudyPlan(settings, arms, directory)


def _raw_arms(base: Mapping[str, Any], settings: StudyConfig, origin: Path) -> dict[str, dict[str, Any]]:
    shared = {key: value for key, value in base.items() if key != "forcing"}
    strategies = {name: {**shared, "forcing": section} for name, section in settings.strategies.items()}
    variants = {name: merge(base, absolute_paths(raw, origin)) for name, raw in settings.variants.items()}
    return {**strategies, **variants}


def _check_study(location: object, settings: StudyConfig) -> None:
    names = [*settings.strategies, *settings.variants]
    problems = [
        UserError(
            f"{location}: {name!r}", "this cannot be the name of a file", "Expected letters, digits, _ . -", "Rename it"
        )
        for name in names
        if not _NAME.fullmatch(name)
    ]
    problems += [
        UserError(f"{location}: {name}", "a strategy and a variant have this name", "Expected two names", "Rename one")
        for name in sorted(settings.strategies.keys() & settings.variants.keys())
    ]
    if len(names) < 2:
        what = f"{'one arm' if names else 'no arm'} in [strategies] and [variants]"
        problems.append(UserError(location, what, "Expected at least two, one of them the control", "Add another"))
    if settings.control not in names:
        problems.append(
            UserError(
                f"{location}: control",
                f"the value is {shown(settings.control)}",
                f"Expected the name of an arm: {', '.join(names)}",
                "Choose one of them",
            )
        )
    if len(set(settings.seeds)) < len(settings.seeds):
        what = f"{settings.seeds} contains a seed twice"
        problems.append(UserError(f"{location}: seeds", what, "Expected different seeds", "Remove one"))
    if problems:
        raise ConfigError(problems)


def _with_seed(config: Config, seed: int) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})


# -- directory --------------------------------------------------------------------------------------------------------


def prepare_directory(plan: StudyPlan) -> None:
    """Record the study in its directory, with the arms' configurations; seeds, arms and processes may be added later.

    Raises:
        RunError: the directory contains something else, a study of another configuration, or one started by a version
            with other random numbers.
    """
    directory, path = plan.directory, plan.directory / "study.json"
    _clean_up(directory)
    recorded = _record(plan)
    if path.exists():
        _check_unchanged(directory, _read_record(path), recorded)
    elif {each.name for each in directory.iterdir()} - {"results", LOCK}:
        raise RunError(
            directory,
            "this directory is not empty and contains no study",
            "Expected a new or empty directory, or one with the results of a study",
            "Choose another with --out",
        )
    # before anything is written: the version that started the study may have to finish it
    check_study_random_numbers(directory, {run.name: run.origin for run in plan.runs})
    # first of all files: without it, a directory is not a study's
    write_atomic(path, json.dumps(recorded, indent=1) + "\n")
    (directory / "configs").mkdir(exist_ok=True)
    for name, arm in plan.arms.items():
        write_atomic(directory / "configs" / f"{name}.toml", tomli_w.dumps(arm.raw))


def _clean_up(directory: Path) -> None:
    """Remove the partial files of a killed process; each run cleans up its own directory."""
    for name in ("study.json", "analysis.json", "report.html"):
        remove_leftovers(directory, name)
    remove_leftovers(directory / "configs", "*.toml")
    remove_leftovers(directory / "results", "*.json")


def _record(plan: StudyPlan) -> dict[str, Any]:
    """Return what study.json holds: settings, and arms with hashes of their data."""
    settings = plan.settings.model_dump(mode="json", exclude={"base", "pairs", "strategies", "variants"})
    arms = {name: _portable_with_hashes(arm.config) for name, arm in plan.arms.items()}
    record: dict[str, Any] = {"settings": settings, "arms": arms}
    if plan.settings.pairs:
        record["pairs_sha256"] = content_hash(Path(plan.settings.pairs))
    return record


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record["arms"], dict) and isinstance(record["settings"], dict):
            return {**record, "arms": {name: with_new_names(arm) for name, arm in record["arms"].items()}}
        raise ValueError("no arms")
    except (ValueError, KeyError, TypeError, OSError) as error:
        expected, fix = "Expected the file that a study wrote", "Remove it to begin the study again"
        raise RunError(path, f"this file cannot be read ({error!r})", expected, fix) from None


def _check_unchanged(directory: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    shared = before["arms"].keys() & now["arms"].keys()
    changes = changed_keys(*({name: record["arms"][name] for name in shared} for record in (before, now)))
    pairs = before.get("pairs_sha256"), now.get("pairs_sha256")
    if pairs[0] != pairs[1]:
        changes.append(("the content of pairs", *pairs))
    if changes:
        details = "; ".join(f"{key} was {shown(old)}, now {shown(new)}" for key, old, new in changes)
        raise RunError(
            directory,
            f"this directory contains a study of another configuration: {details}",
            "Expected the configuration that it was started with; seeds and arms may be added",
            "Revert the change to resume, or use another directory with --out",
        )


def _portable_with_hashes(config: Config) -> dict[str, Any]:
    """Return a configuration with hashes in place of paths, so that a study can be resumed on another machine."""
    raw = _portable(config)
    raw["data"]["train_sha256"] = content_hash(location_of(config.data.train))
    if config.data.dev is not None:
        raw["data"]["dev_sha256"] = content_hash(location_of(config.data.dev))
    if config.training.init:
        bundle = read_bundle(Path(config.training.init))
        bundle.check_weights()
        raw["training"]["init_sha256"] = bundle.weights_hash
    return raw


def _portable(config: Config) -> dict[str, Any]:
    """Return everything that determines the metrics: no paths of data and bundles, and no number of threads."""
    raw = config.model_dump(exclude_none=True, mode="json")
    for section, key in (("data", "train"), ("data", "dev"), *_NOT_HASHED):
        raw[section].pop(key, None)
    for section, key in _NEWER_KEYS:
        if not raw[section][key]:
            del raw[section][key]
    return raw


_NOT_HASHED: Final = (("training", "init"), ("training", "threads"), ("training", "device"))
_NEWER_KEYS: Final = (
    ("evaluation", "early_stop"),
    ("model", "embedding_unit_dropout"),
    ("model", "memory_dropout"),
)
"""Keys that are newer than some results: unless they are set, they change none of them."""
