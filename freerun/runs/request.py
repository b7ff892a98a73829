"""From what was typed to a checked configuration and a run folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freerun.config import (
    Config,
    absolute_paths,
    apply_overrides,
    changed_keys,
    flatten,
    merge,
    parse_config,
    read_toml,
)
from freerun.errors import ConfigError, RunError
from freerun.files import restore_folder
from freerun.forcing.registry import settings_of

__all__ = ["RunPlan", "TrainRequest", "plan_run"]

_DATA_SUFFIXES = (".gz", ".xz", ".tsv", ".txt", ".jsonl", ".json", ".toml", ".csv")


@dataclass(frozen=True)
class TrainRequest:
    """The arguments of ``freerun train``."""

    subject: Path | None = None
    dev: Path | None = None
    out: Path | None = None
    settings: tuple[str, ...] = ()
    seed: int | None = None
    init: Path | None = None
    resume: bool = False
    columns: str | None = None


@dataclass(frozen=True)
class RunPlan:
    """What to do: ``raw`` holds the keys that were set, ``config`` all of them (sizes still to be chosen if ``automatic``)."""

    folder: Path
    config: Config
    raw: Mapping[str, Any]
    automatic: bool
    resumes: bool
    """Whether the folder already holds this run."""
    where: str


def plan_run(request: TrainRequest) -> RunPlan:
    """Settle configuration and folder.

    Raises:
        ConfigError: a fault in the configuration, or none at all.
        RunError: the folder holds another run, or resuming would change the configuration.
    """
    folder = _folder(request)
    is_run = (folder / "config.toml").exists()
    if request.resume and is_run:
        return _resumed(request, folder)
    if request.subject is None:
        raise ConfigError.single(
            "freerun train",
            f"no configuration and no pairs, and {folder} holds no run to go on with",
            "Expected freerun train CONFIG.toml or freerun train PAIRS.tsv",
            "Name one of them",
        )
    _refuse_occupied(folder, is_run)
    raw, where, automatic = _raw(request)
    return RunPlan(folder, parse_config(raw, where, settings_of), raw, automatic, False, where)


def _folder(request: TrainRequest) -> Path:
    if request.out is not None:
        return request.out
    if request.subject is None:
        raise ConfigError.single(
            "freerun train", "neither a configuration, nor pairs, nor --out", "Expected one of them to find the run by"
        )
    name = request.subject.name
    while Path(name).suffix in _DATA_SUFFIXES:
        name = Path(name).stem
    return Path("runs") / name


def _refuse_occupied(folder: Path, is_run: bool) -> None:
    if is_run:
        raise RunError(
            folder,
            "this folder holds another run",
            "Expected a new or empty folder",
            "Add --resume to go on with that run, or choose another folder with --out",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(
            folder,
            "this is not an empty folder" if folder.is_dir() else "this is a file",
            "Expected a new or empty folder",
            "Choose another with --out",
        )


def _raw(request: TrainRequest) -> tuple[dict[str, Any], str, bool]:
    """The keys that were set, by file, options and --set in rising order; and whether the rest may be chosen from the data."""
    subject = request.subject
    assert subject is not None
    automatic = subject.suffix != ".toml"
    if automatic:
        raw: dict[str, Any] = {"data": {"train": str(subject)}}
        raw = absolute_paths(raw, Path.cwd())
    else:
        raw = absolute_paths(read_toml(subject), subject.parent.resolve())
    typed = absolute_paths(apply_overrides(_options(request), request.settings), Path.cwd())
    _refuse_values_for_sections(raw, typed, str(subject))
    return merge(raw, typed), "freerun train" if automatic else str(subject), automatic


def _refuse_values_for_sections(raw: Mapping[str, Any], typed: Mapping[str, Any], where: str) -> None:
    for key, value in {**raw, **typed}.items():
        if key in Config.model_fields and not isinstance(value, dict):
            raise ConfigError.single(f"{where}: {key}", f"the value is {value!r}", f"Expected a section, [{key}]")


def _options(request: TrainRequest) -> dict[str, Any]:
    data: dict[str, Any] = {}
    training: dict[str, Any] = {}
    if request.dev is not None:
        data["dev"] = str(request.dev)
    if request.columns is not None:
        data["columns"] = _columns(request.columns)
    if request.seed is not None:
        training["seed"] = request.seed
    if request.init is not None:
        training["init"] = str(request.init)
    return {key: section for key, section in (("data", data), ("training", training)) if section}


def _columns(text: str) -> list[int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ConfigError.single(
            "--columns", f"{text!r} does not name two columns", "Expected two numbers from 1, for example --columns 1,3"
        )
    return [int(part) for part in parts]


def _resumed(request: TrainRequest, folder: Path) -> RunPlan:
    """The run in ``folder``; what is typed again must agree with it."""
    path = folder / "config.toml"
    saved = read_toml(path)
    config = parse_config(saved, path, settings_of)
    for name in ("best", "last"):
        restore_folder(folder / name)
    for leftover in (*folder.glob(".*.*"), *folder.glob("checkpoints/.*")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
    changes = _changes(request, saved)
    if changes:
        shown = "; ".join(f"{key} was {_value(old)}, now {_value(new)}" for key, old, new in changes)
        raise RunError(
            folder,
            f"the configuration has changed: {shown}",
            "Expected the configuration that this run was started with",
            "Undo the change to go on, or train into another folder with --out",
        )
    return RunPlan(folder, config, saved, False, True, str(path))


def _value(value: Any) -> str:
    return "not set" if value is None else repr(value)


def _changes(request: TrainRequest, saved: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    if request.subject is None:
        typed = absolute_paths(apply_overrides(_options(request), request.settings), Path.cwd())
        asked: Mapping[str, Any] = merge(saved, typed)
        return changed_keys(saved, asked)
    raw, where, automatic = _raw(request)
    if automatic:
        return [change for change in changed_keys(saved, merge(saved, raw)) if change[0] in flatten(raw)]
    asked = parse_config(raw, where, settings_of).model_dump(exclude_none=True, mode="json")
    # what "auto" was turned into at the start of the run is no change
    return [change for change in changed_keys(saved, asked) if change[2] != "auto"]
