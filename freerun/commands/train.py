"""``freerun train``: trains with the progress on standard error, then prints the metrics and the next steps."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from freerun.bounds import DEFAULT_RESTARTS, DEFAULT_TIMEOUT, PROCESSES
from freerun.commands.console import say, shown_notices
from freerun.commands.tables import metrics_table
from freerun.commands.train_progress import ConsoleProgress
from freerun.config import read_toml, strategies_of
from freerun.data.opening import is_read_once
from freerun.data.readers import files_of
from freerun.distributed.ranks import ALONE, Ranks
from freerun.distributed.rendezvous import is_one_of_several, joined, was_restarted
from freerun.distributed.status import is_launched
from freerun.errors import ConfigError, Interrupted
from freerun.experiment.following import follow
from freerun.experiment.pairs_spec import location_of
from freerun.experiment.plan import check_output_dir
from freerun.experiment.request import TrainRequest, check_batch, requested_keys, run_directory
from freerun.experiment.run import train as run_training
from freerun.lock import inner_lock
from freerun.text import cut, printable
from freerun.threads import cores
from freerun.training.journal import read_journal
from freerun.training.signals import checkpoints_on_signals

__all__ = ["ProcessOptions", "example_argument", "train"]

_EXAMPLE = "some text"
_MAX_EXAMPLE = 40


@dataclass(frozen=True)
class ProcessOptions:
    """How a training is shared.

    Attributes:
        processes: how many processes this command starts; "auto" for one per GPU, or else one for every two cores.
        max_restarts: how many times they are started again after one was killed.
        timeout: seconds that they wait for each other.
        arguments: of the command line, for the processes to be started.
    """

    processes: str | None = None
    max_restarts: int = DEFAULT_RESTARTS
    timeout: float = DEFAULT_TIMEOUT
    arguments: Sequence[str] = ()


def train(request: TrainRequest, options: ProcessOptions = ProcessOptions()) -> int:
    """Train and print, in one process or several; return the exit code.

    Raises as ``freerun.experiment.run.train`` does.
    """
    if is_one_of_several(os.environ):
        return _train_together(request, options)
    if options.processes is None:
        _train_and_print(request, ALONE)
        return 0
    keys = requested_keys(request)
    training = _section(keys, "training")
    processes = _number_of(options.processes, training)
    if processes == 1:
        _train_and_print(request, ALONE)
        return 0
    _check_files(_section(keys, "data"))
    directory = run_directory(request)
    if not request.resume:
        check_output_dir(directory)  # here, because processes that are started again resume
    check_batch(training.get("batch_size"), processes)
    from freerun.distributed.launcher import launch  # loads torch's launcher

    say(f"Starting {processes} processes.")
    with checkpoints_on_signals() as requested:
        return launch(
            options.arguments,
            processes=processes,
            max_restarts=options.max_restarts,
            lock=inner_lock(directory),
            requested=requested,
            say=say,
        )


def _train_together(request: TrainRequest, options: ProcessOptions) -> int:
    """Train as one of several processes, which freerun, torchrun or a person has started."""
    if options.processes not in (None, "auto", os.environ["WORLD_SIZE"]) and not is_launched():
        raise ConfigError.single(
            "--processes",
            f"the value is {options.processes}, and WORLD_SIZE says that {os.environ['WORLD_SIZE']} were started",
            "Expected one of the two to decide",
            "Leave --processes out under torchrun",
        )
    was_killed = is_launched() and was_restarted(os.environ)
    # a request for a checkpoint that comes before there is anything to save must not end this process
    with checkpoints_on_signals(), joined(options.timeout) as ranks:
        request = replace(request, processes=ranks.size, resume=request.resume or was_killed)
        if ranks.leads:
            _train_and_print(request, ranks)
        else:
            follow(request, ranks)
    return 0


def _number_of(processes: str, training: Mapping[str, Any]) -> int:
    """Return the number of processes to start; ``training``: the keys of that section.

    Raises:
        ConfigError: it is not a number, or out of range.
    """
    if processes == "auto":
        return min(_automatic_number(training), int(PROCESSES.high))
    if not processes.isascii() or not processes.isdigit() or int(processes[:9]) not in PROCESSES:
        raise ConfigError.single(
            "--processes",
            f"the value is {cut(processes)}",
            f'Expected "auto", or a number from {PROCESSES.low} to {PROCESSES.high:,}',
            "Choose another number",
        )
    return int(processes)


def _automatic_number(training: Mapping[str, Any]) -> int:
    gpus = torch.cuda.device_count() if training.get("device", "auto") in ("auto", "cuda") else 0
    return gpus or max(1, cores() // 2)


def _section(keys: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of the keys that a request sets; empty if it is no table."""
    section = keys.get(name)
    return section if isinstance(section, Mapping) else {}


def _check_files(data: Mapping[str, Any]) -> None:
    """Check that every process can read the pairs; ``data``: the keys of that section.

    Raises:
        ConfigError: they come through a pipe, which only one process can read.
    """
    # what is no path is a mistake, reported with all others
    values = [data[part] for part in ("train", "dev") if data.get(part)]
    locations = [value for value in values if isinstance(value, str) or _is_list_of_paths(value)]
    for file in [file for location in locations for file in files_of(location_of(location))]:
        if is_read_once(file):
            raise ConfigError.single(
                "--processes",
                f"{file} is a pipe, which only one process can read",
                "Expected files",
                "Write the pairs to a file first, or train with one process",
            )


def _is_list_of_paths(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _train_and_print(request: TrainRequest, ranks: Ranks) -> None:
    with shown_notices():
        try:
            result = run_training(request, [ConsoleProgress()], ranks)
        except Interrupted:
            _print_next_steps(run_directory(request), request.processes)
            raise
        if result.baselines:  # else it was complete before
            say(f"Done: {result.updates:,} updates; best model from update {result.best_update:,}.\n")
            print(metrics_table(result.metrics, result.baselines), flush=True)
        _print_next_steps(result.directory, request.processes)


def _print_next_steps(directory: Path, processes: int) -> None:
    """Print the exact commands that use or continue the run."""
    raw = read_toml(directory / "config.toml")
    dev = raw["data"].get("dev")
    pairs = directory / "dev.tsv" if dev is None else dev
    name = shlex.quote(str(directory))
    say("")
    if (directory / "best").exists():
        say(f"  freerun predict {name} {example_argument(directory)}")
        evaluation = f" {shlex.quote(str(pairs))}" if isinstance(pairs, str | Path) else ""
        say(f"  freerun evaluate {name}{evaluation}")
    has_custom_code = any(":" in strategy for strategy in strategies_of(raw))
    options = f"{f' --processes {processes}' if processes > 1 else ''}{' --trust-code' if has_custom_code else ''}"
    say(f"  freerun train --resume --out {name}{options}")


def example_argument(directory: Path) -> str:
    """Return a text for the model as an argument in bash; for one with features, a development source with its own."""
    events = read_journal(directory / "journal.jsonl")
    labels = (example["source"] for event in events for example in event.get("examples", ()))
    source, tab, features = next(labels, "").partition("\t")
    if not tab:
        return shlex.quote(_EXAMPLE)
    text = source if 0 < len(source) <= _MAX_EXAMPLE else _EXAMPLE
    escaped = f"{text}\t{features}".replace("\\", r"\\").replace("'", r"\'").replace("\t", r"\t")
    return f"$'{printable(escaped)}'"
