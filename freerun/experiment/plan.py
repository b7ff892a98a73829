"""The plan of a training: its validated configuration and its run directory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from freerun.bounds import MINUTES
from freerun.config import Config, flatten, merge, parse_config
from freerun.data.memory_pairs import PairsInMemory
from freerun.errors import ConfigError, RunError
from freerun.experiment.automatic import choose_before_data
from freerun.experiment.lengthening import LENGTHS, Lengthening
from freerun.experiment.pairs_spec import COPIES
from freerun.experiment.request import (
    COMMAND,
    TrainRequest,
    check_batch,
    for_all_processes,
    option_origins,
    run_directory,
    source_config,
    with_options,
)
from freerun.experiment.resume_plan import check_shares, resume_config
from freerun.experiment.time_limit import TimeLimit
from freerun.files import remove_leftovers
from freerun.forcing.registry import EVERYTHING, NO_CUSTOM_CODE, Trust
from freerun.lock import check_empty
from freerun.log import log

__all__ = ["RunPlan", "check_output_dir", "clean_up_run", "plan_run"]


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The plan of a training.

    Attributes:
        directory: the run directory.
        config: the complete configuration.
        raw: the keys that were set.
        name: of the configuration, for messages.
        automatic: model dimensions and length are still to be chosen from the data.
        resumes: the directory holds the run already.
        origins: key path -> the option that set it, for messages.
        trust: the custom code that may be imported.
        longer: how the length of a resumed run was raised.
        is_outdated: ``config.toml`` of a resumed run has another length.
        in_memory: pairs that no file holds yet, by their key in [data].
        limit: the time that an automatic choice may plan with.
        processes: how many processes share each update.
    """

    directory: Path
    config: Config
    raw: Mapping[str, Any]
    name: str
    _: KW_ONLY
    automatic: bool = False
    resumes: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    trust: Trust = NO_CUSTOM_CODE
    longer: Lengthening | None = None
    is_outdated: bool = False
    in_memory: Mapping[str, PairsInMemory] = field(default_factory=dict)
    limit: TimeLimit = field(default_factory=lambda: TimeLimit(None, time.monotonic()))
    processes: int = 1


def plan_run(request: TrainRequest) -> RunPlan:
    """Validate the configuration and the run directory of a request.

    Raises:
        ConfigError: the configuration has errors, or there is none.
        RunError: the directory holds another run, or resuming would change the configuration.
    """
    directory = run_directory(request)
    is_run = (directory / "config.toml").exists()
    if request.resume and is_run:
        if request.minutes is not None:
            log.info("--minutes has no effect: the length of this run was fixed when it was started.")
        return _resumed_plan(request, directory)
    if request.source is None and request.config is None:
        raise ConfigError.single(
            COMMAND,
            f"no configuration and no pairs, and {directory} holds no run to resume",
            "Expected freerun train CONFIG.toml or freerun train PAIRS.tsv",
            "Name one of them",
        )
    check_output_dir(directory)
    raw, name = source_config(request)
    raw = for_all_processes(with_options(raw, request), request)
    origins = option_origins(request)
    automatic = request.configuration is None
    trust = EVERYTHING  # all of it was written or named by the user
    complete = merge(choose_before_data(raw), raw) if automatic else raw
    config = parse_config(complete, name, trust.settings_of, origins)
    check_shares(config.training.accumulate, request.processes)
    if not automatic:
        check_batch(config.training.batch_size, request.processes)
    return RunPlan(
        directory=directory,
        config=config,
        raw=raw,
        name=name,
        automatic=automatic,
        origins=origins,
        trust=trust,
        in_memory=request.in_memory,
        limit=_time_limit(request, raw, automatic),
        processes=request.processes,
    )


def _time_limit(request: TrainRequest, raw: Mapping[str, Any], automatic: bool) -> TimeLimit:
    """Return the time limit of a request.

    Raises:
        ConfigError: it is out of range, or the length does not depend on it.
    """
    minutes = request.minutes
    if minutes is not None:
        MINUTES.check("minutes", minutes, "Choose another time limit")
        lengths = sorted(flatten(raw).keys() & LENGTHS)
        if lengths or not automatic:
            raise ConfigError.single(
                "minutes",
                f"a time limit is set, and {lengths[0] if lengths else 'a configuration'} sets the length, too",
                "Expected one of the two",
                "Leave one of them out",
            )
    return TimeLimit(minutes, request.started)


def _resumed_plan(request: TrainRequest, directory: Path) -> RunPlan:
    resumed = resume_config(request, directory)
    clean_up_run(directory)
    length = resumed.length
    return RunPlan(
        directory=directory,
        config=resumed.config,
        raw=resumed.raw,
        name=str(directory / "config.toml"),
        resumes=True,
        trust=resumed.trust,
        longer=length if length.after > length.before else None,
        is_outdated=resumed.is_outdated,
        in_memory=request.in_memory,
        processes=request.processes,
    )


def check_output_dir(directory: Path) -> None:
    """Check that a new run may be written to this directory.

    Raises:
        RunError: it holds something else.
    """
    if (directory / "config.toml").exists():
        raise RunError(
            directory,
            "this directory holds another run",
            "Expected a new or empty directory",
            "Add --resume to continue that run, or choose another directory with --out",
        )
    if directory.exists() and not directory.is_dir():
        raise RunError(directory, "this is a file", "Expected a new or empty directory", "Choose another with --out")
    # a run that was killed as it began may have left an unfinished config.toml, or pairs
    check_empty(directory, (".config.toml.", f".{COPIES}.", ".memory."))


def clean_up_run(directory: Path) -> None:
    """Remove partial files that a killed process left behind."""
    for name in ("best", "last", "config.toml", "dev.tsv"):
        remove_leftovers(directory, name)
    remove_leftovers(directory / "checkpoints", "update-*")
