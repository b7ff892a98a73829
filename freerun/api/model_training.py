"""``freerun.train``: ``freerun train`` as a function, which also takes pairs and configurations in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freerun.api.checks import AnyPath, Pairs, as_location, as_sections, as_settings, optional_path
from freerun.api.training_callbacks import as_callbacks
from freerun.arguments import as_path, check_flag, check_int, check_number, wrong_type
from freerun.config import Config
from freerun.data.memory_pairs import PairsInMemory
from freerun.data.readers import PairsPart
from freerun.device_name import check_device_name
from freerun.errors import ConfigError
from freerun.experiment.request import TrainRequest
from freerun.experiment.result import TrainResult
from freerun.experiment.run import train as run_training
from freerun.training.callbacks import Callback

__all__ = ["train"]

Configuration = AnyPath | Config | Mapping[str, Any]


def train(
    source: Pairs | Configuration | None = None,
    *,
    dev: Pairs | None = None,
    out: AnyPath | None = None,
    config: Configuration | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
    init: AnyPath | None = None,
    device: str | None = None,
    minutes: float | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    trust_code: bool = False,
) -> TrainResult:
    """Train a model on pairs, or as a configuration says. Nothing is printed.

    Args:
        source: a path as ``freerun train`` takes it (a name that ends in .toml is a configuration, any other is pairs);
            or a configuration (a ``Config``, or a dict of its sections); or an iterable of pairs: (source, target), or
            mappings or objects with a ``source`` and a ``target``. Pairs in memory are written to ``train.jsonl`` in
            the run directory.
        dev: development pairs: a path, or an iterable of pairs, which is written to ``dev.jsonl``. Default: 5 % of the
            sources are held out.
        out: the run directory. Default: ``runs/<name of the file>``; of pairs in memory, ``runs/memory-<first 8 digits
            of their hash>``.
        config: a configuration for pairs that are the ``source``: a path, a ``Config`` or a dict. Without it, model,
            batches and length are chosen from the data.
        settings: "key.path=value" items, as with ``--set``; they win over everything else.
        seed: the seed of all random numbers.
        init: start from the weights of this run or bundle.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N". A run may be resumed on another one. Default:
            as the configuration says, else "auto".
        minutes: without a configuration, use up to so many minutes on this machine. Default: what suits the data, at
            most 30.
        resume: resume the run in the run directory, if there is one. Everything else must be as it was, except that
            ``training.updates`` or ``training.epochs`` may be larger.
        callbacks: objects that learn of the progress, see ``freerun.Callback``. Default: in a notebook, one line that
            is rewritten; elsewhere none.
        trust_code: with ``resume``, import the custom strategies "module:Class" that the run directory names.

    Returns:
        The run directory, the metrics of the best model, the history of all evaluations, and the model.

    Raises:
        TypeError: an argument of the wrong type.
        UserError: anything that you can fix; the message says how.
        Interrupted: a signal stopped the training; it can be resumed.
    """
    if source is None and config is not None:
        source, config = config, None
    if source is None and (out is None or resume is False):
        raise ConfigError.single(
            "source",
            "there are neither pairs nor a configuration",
            "Expected pairs, a configuration, or out together with resume=True",
            "Pass one of them",
        )
    request = TrainRequest(
        source=_source(source),
        config=None if config is None else _configuration("config", config),
        dev=None if dev is None else as_location("dev", dev),
        out=optional_path("out", out),
        settings=as_settings(settings),
        seed=seed,
        init=optional_path("init", init),
        device=None if device is None else check_device_name(device),
        minutes=minutes,
        resume=resume,
        trust_code=trust_code,
    )
    if seed is not None:
        check_int("seed", seed)
    if minutes is not None:
        check_number("minutes", minutes)
    for name, value in (("resume", resume), ("trust_code", trust_code)):
        check_flag(name, value)
    if config is not None and request.pairs is None:
        raise ConfigError.single(
            "config",
            "two configurations are given, source and config",
            "Expected config together with pairs",
            "Pass the pairs as source, or leave one configuration out",
        )
    return run_training(request, as_callbacks(callbacks))


def _source(source: Any) -> PairsPart | PairsInMemory | Mapping[str, Any] | None:
    if source is None:
        return None
    if isinstance(source, Config | Mapping):
        return as_sections("source", source)
    return as_location("source", source, "pairs", ", or a configuration")


def _configuration(name: str, configuration: Any) -> Path | Mapping[str, Any]:
    if isinstance(configuration, Config | Mapping):
        return as_sections(name, configuration)
    if isinstance(configuration, str | os.PathLike):
        return as_path(name, configuration)
    raise wrong_type(name, configuration, "a path, a freerun.Config or a dict")
