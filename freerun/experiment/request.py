"""The request for a training: the arguments of ``freerun train`` and ``freerun.train``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from freerun.config import absolute_paths, apply_overrides, override, read_toml, with_new_names
from freerun.data.arrow_files import COLUMNAR_SUFFIXES
from freerun.data.decompression import COMPRESSED
from freerun.data.memory_pairs import PairsInMemory
from freerun.data.readers import PairsLocation, files_of
from freerun.errors import ConfigError
from freerun.experiment.memory_files import digest_of
from freerun.experiment.pairs_spec import MEMORY_FILES, parse_columns, value_of
from freerun.files import real_path
from freerun.text import cut

__all__ = [
    "COMMAND",
    "DEVICE_KEY",
    "Configuration",
    "TrainRequest",
    "check_batch",
    "for_all_processes",
    "option_origins",
    "requested_keys",
    "run_directory",
    "source_config",
    "with_options",
]

DEVICE_KEY = "training.device"
COMMAND = "freerun train"
"""The name of the command line's part of a configuration, in messages."""
_DATA_SUFFIXES = (*COMPRESSED, *COLUMNAR_SUFFIXES, ".tsv", ".txt", ".jsonl", ".json", ".toml", ".csv")

Configuration = Path | Mapping[str, Any]
"""A TOML file, or its content."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """The arguments of a training.

    Attributes:
        source: a configuration (a path that ends in .toml, or a mapping), or pairs.
        config: a configuration for pairs that are the ``source``.
        dev: development pairs.
        out: the run directory.
        settings: "key.path=value" items.
        seed: ``training.seed``.
        init: the model to start from.
        device: ``training.device``; a run may be resumed on another one.
        resume: resume the run in the run directory, if there is one.
        columns: of the source and the target, as "A,B": numbers in a TSV file, names in a Parquet or Arrow file.
        trust_code: import the custom strategies that a run directory names.
        minutes: the longest time that the training may plan with, if its length is chosen automatically.
        started: when the request was made (``time.monotonic``), from which ``minutes`` count.
        processes: how many processes make each update together, of ``training.accumulate`` batches each.
    """

    source: PairsLocation | PairsInMemory | Mapping[str, Any] | None = None
    _: KW_ONLY
    config: Configuration | None = None
    dev: PairsLocation | PairsInMemory | None = None
    out: Path | None = None
    settings: tuple[str, ...] = ()
    seed: int | None = None
    init: Path | None = None
    device: str | None = None
    resume: bool = False
    columns: str | None = None
    trust_code: bool = False
    minutes: float | None = None
    started: float = field(default_factory=time.monotonic)
    processes: int = 1

    @property
    def configuration(self) -> Configuration | None:
        """The configuration, None if there are only pairs or neither."""
        if isinstance(self.source, Mapping) or (isinstance(self.source, Path) and self.source.suffix == ".toml"):
            return self.source
        return self.config

    @property
    def pairs(self) -> PairsLocation | PairsInMemory | None:
        """The training pairs, None if the configuration names them."""
        source = self.source
        if isinstance(source, Mapping) or (isinstance(source, Path) and source.suffix == ".toml"):
            return None
        return source

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the file that training pairs in memory are written to."""
        assert isinstance(self.pairs, PairsInMemory)
        return digest_of(self.pairs)

    @property
    def in_memory(self) -> dict[str, PairsInMemory]:
        """The pairs in memory, by their key in [data]."""
        parts = {"train": self.pairs, "dev": self.dev}
        return {part: pairs for part, pairs in parts.items() if isinstance(pairs, PairsInMemory)}


# -- the run directory -------------------------------------------------------------------------------------------------


def run_directory(request: TrainRequest) -> Path:
    """Return the run directory of a request.

    Raises:
        ConfigError: the request has neither a run directory nor anything to name one after.
    """
    if request.out is not None:
        return request.out
    if isinstance(request.source, PairsInMemory):
        return Path("runs") / f"memory-{request.digest[:8]}"
    if request.source is None or isinstance(request.source, Mapping):
        raise _no_name(request)
    return Path("runs") / _name_of(request.source)


def _no_name(request: TrainRequest) -> ConfigError:
    if request.source is not None:
        return ConfigError.single(
            "out",
            "no run directory is named",
            "Expected a path, because a configuration in memory has no name",
            'Name one, for example out="runs/first"',
        )
    return ConfigError.single(
        COMMAND,
        "neither a configuration, nor pairs, nor --out",
        "Expected freerun train CONFIG.toml, freerun train PAIRS.tsv, or --resume with the --out of a run",
        "Name one of them",
    )


def _name_of(source: PairsLocation) -> str:
    """Return the name of a configuration or of pairs without suffixes; of parallel files, the common stem."""
    names = [_bare_name(file) for file in files_of(source)]
    stems = {Path(name).stem for name in names}
    return names[0] if len(names) == 1 or len(stems) > 1 else stems.pop()


def _bare_name(file: Path) -> str:
    if file.parent.name == "fd":  # <(command): another number at every call
        return "pipe"
    name = file.name
    while Path(name).suffix in _DATA_SUFFIXES:
        name = Path(name).stem
    return name


# -- the configuration -------------------------------------------------------------------------------------------------


def source_config(request: TrainRequest) -> tuple[dict[str, Any], str]:
    """Return the keys that the configuration file and the pairs set, and what messages call the configuration."""
    raw, name = _configuration(request.configuration)
    if request.pairs is not None:
        raw = override(raw, ["data", "train"], _pairs_value(request, "train"), COMMAND, Path.cwd())
    return raw, name


def _configuration(configuration: Configuration | None) -> tuple[dict[str, Any], str]:
    if configuration is None:
        return {}, COMMAND
    if isinstance(configuration, Path):
        raw = read_toml(configuration)
        if configuration.name == "config.toml" and (configuration.parent / "journal.jsonl").exists():
            raw = with_new_names(raw)  # a run's own configuration
        return absolute_paths(raw, real_path(configuration.parent)), str(configuration)
    return absolute_paths(configuration, Path.cwd()), "config"


def _pairs_value(request: TrainRequest, part: str) -> str | dict[str, str] | list[str]:
    """Return training ("train") or development ("dev") pairs as a configuration names them."""
    location = request.pairs if part == "train" else request.dev
    assert location is not None
    if isinstance(location, PairsInMemory):
        return str(real_path(run_directory(request)) / MEMORY_FILES[part])
    return value_of(location)


def with_options(raw: Mapping[str, Any], request: TrainRequest) -> dict[str, Any]:
    """Return ``raw`` with the options over it, and the settings over both."""
    result = dict(raw)
    for option, path, value in _options(request):
        result = override(result, path.split("."), value, option, Path.cwd())
    return apply_overrides(result, request.settings, Path.cwd())


def for_all_processes(raw: Mapping[str, Any], request: TrainRequest) -> dict[str, Any]:
    """Return ``raw`` with the batches of an update that all processes make together, instead of those of each.

    A run does not depend on how many processes share its updates, so the number is not in its configuration.
    """
    training = raw.get("training", {})
    accumulate = training.get("accumulate", 1) if isinstance(training, Mapping) else None
    if request.processes == 1 or not isinstance(accumulate, int):
        return dict(raw)  # a mistake is reported with everything else
    return override(raw, ["training", "accumulate"], accumulate * request.processes, COMMAND)


def check_batch(batch_size: object, processes: int) -> None:
    """Check that a batch, of which each process has its own, is not smaller than the number of processes.

    Raises:
        ConfigError: it is; more would be lost with such small batches than processes gain.
    """
    if isinstance(batch_size, int) and processes > max(1, batch_size):
        raise ConfigError.single(
            "--processes",
            f"the value is {processes}, and a batch has {batch_size} pair{'' if batch_size == 1 else 's'}",
            "Expected at most as many processes as pairs in a batch",
            "Choose a smaller number, or raise training.batch_size",
        )


def requested_keys(request: TrainRequest) -> dict[str, Any]:
    """Return the keys that the request sets."""
    raw = {} if request.configuration is None and request.pairs is None else source_config(request)[0]
    return with_options(raw, request)


def option_origins(request: TrainRequest) -> dict[str, str]:
    """Return, by key path, the option that sets it."""
    settings = {setting.partition("=")[0].strip(): f"--set {cut(setting)}" for setting in request.settings}
    return {**{path: option for option, path, _ in _options(request)}, **settings}


def _options(request: TrainRequest) -> list[tuple[str, str, Any]]:
    """Return (option as typed, key path, value) of each option."""
    options: list[tuple[str, str, Any]] = []
    if isinstance(request.dev, PairsInMemory):
        options.append(("dev", "data.dev", _pairs_value(request, "dev")))
    elif request.dev is not None:
        option = " ".join(f"--dev {file}" for file in files_of(request.dev))
        options.append((option, "data.dev", value_of(request.dev)))
    if request.columns is not None:
        options.append((f"--columns {request.columns}", "data.columns", list(parse_columns(request.columns))))
    if request.seed is not None:
        options.append((f"--seed {request.seed}", "training.seed", request.seed))
    if request.init is not None:
        options.append((f"--init {request.init}", "training.init", str(request.init)))
    if request.device is not None:
        options.append((f"--device {request.device}", DEVICE_KEY, request.device))
    return options
