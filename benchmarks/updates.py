"""Parts of the programs that time training updates: options, data, learners, and rounds in which they take turns."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from freerun.build import build_learner, model_sizes, new_model
from freerun.config import Config, parse_config
from freerun.data.batching import Batch
from freerun.data.builtin import make_dataset
from freerun.experiment.data_source import DataSource
from freerun.experiment.dataset import TrainingData, load_data
from freerun.forcing.registry import settings_of
from freerun.training.learner import Learner
from freerun.training.order import BatchOrder
from freerun.training.progress import Progress

Kind = TypeVar("Kind")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that all of these programs have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    return parser


def config_of(
    pairs: Path, hidden: int, model: Mapping[str, Any], training: Mapping[str, Any], **sections: Mapping[str, Any]
) -> Config:
    """Return the configuration of one kind of update: ``hidden`` units on one thread, spelling to phonemes."""
    raw = {
        "data": {"train": str(pairs), "source_tokens": "char", "target_tokens": "whitespace"},
        "model": {"embedding_size": hidden, "hidden_size": hidden, **model},
        "training": {"threads": 1, **training},
        **sections,
    }
    return parse_config(raw, "benchmark", settings_of)


def prepared(
    pairs: Path | None, configs: Callable[[Path], dict[Kind, Config]]
) -> tuple[dict[Kind, Config], TrainingData]:
    """Return the configurations over the pairs (default: the built-in CMUdict), and the data of the first one."""
    with tempfile.TemporaryDirectory() as directory:
        made = configs(pairs or make_dataset("cmudict", Path(directory))["train"])
        return made, load(next(iter(made.values())))


def load(config: Config) -> TrainingData:
    """Read the data of a configuration without printing anything."""
    return load_data(config, DataSource.open(config.data, quiet=True))


def new_learner(config: Config, data: TrainingData, order: BatchOrder) -> Learner:
    """Return a new model and its optimizer."""
    sizes = model_sizes(config.model, data.source, data.target)
    return build_learner(config, new_model(config, sizes), order)


def first_batches(order: BatchOrder, number: int) -> Iterator[Batch]:
    """Yield the first batches of a training."""
    progress = Progress()
    return (order.take(progress) for _ in range(number))


def milliseconds_per_update(
    learners: Mapping[Kind, Learner], batches: Callable[[], Iterable[Batch]], rounds: int
) -> dict[Kind, list[float]]:
    """Train all learners on the same batches in every round, one after the other; one more round warms up."""
    times: dict[Kind, list[float]] = {kind: [] for kind in learners}
    update = 0
    for _ in range(rounds + 1):
        for kind, learner in learners.items():
            start, number = time.perf_counter(), 0
            for batch in batches():
                number += 1
                learner.update(update + number, [batch])
            times[kind].append((time.perf_counter() - start) / number * 1000)
        update += number
    return {kind: each[1:] for kind, each in times.items()}
