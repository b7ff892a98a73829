"""Sizes and length of training, chosen from the data where nobody chose them.

The choices are those that did well on development sets of this kind (letters to sounds, inflection, transliteration,
commands, short sentences), and the time is measured: a few updates are timed on this machine before the number of updates
is settled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from freerun.build import model_sizes, new_model, strategy_of
from freerun.config import Config, flatten
from freerun.data.batching import make_batch, plan_epoch
from freerun.forcing.batch import TrainingBatch, Update
from freerun.runs.dataset import TrainingData
from freerun.text import duration
from freerun.training.optimisers import make_optimiser
from freerun.training.precision import autocast, choose_precision

__all__ = ["Choice", "choose_length", "choose_sizes"]

LIMIT_MINUTES = 30
"""The longest time that a training nobody configured may announce."""
MARGIN = 1.5
"""Announced time / time expected: evaluations vary, and machines are shared."""
EVALUATIONS = 8


@dataclass(frozen=True)
class Choice:
    """Values by key path, and the sentences that explain them."""

    values: Mapping[str, Any]
    reasons: list[str]


@dataclass(frozen=True)
class _Recipe:
    """What suits data of some size: up to ``pairs`` pairs."""

    pairs: float
    hidden_size: int
    num_layers: int
    batch_size: int
    dropout: float
    passes: int


_RECIPES = (
    _Recipe(8_000, 256, 1, 32, 0.4, 60),
    _Recipe(40_000, 256, 1, 64, 0.3, 30),
    _Recipe(math.inf, 256, 2, 128, 0.2, 20),
)
_SENTENCES = _Recipe(math.inf, 512, 1, 128, 0.3, 15)
"""For running text: long targets over thousands of words or pieces."""


def choose_sizes(data: TrainingData, chosen: Mapping[str, Any]) -> Choice:
    """Model and batch for this data; what ``chosen`` (a raw configuration) already sets is left out."""
    recipe = _recipe(data)
    values = {
        "model.hidden_size": recipe.hidden_size,
        "model.embedding_size": min(recipe.hidden_size, 256),
        "model.num_layers": recipe.num_layers,
        "model.bidirectional": True,
        "model.reverse_source": False,
        "model.attention": "luong",
        "model.dropout": recipe.dropout,
        "training.batch_size": recipe.batch_size,
        "training.learning_rate": 2e-3,
        "training.schedule": {"kind": "cosine", "warmup": 200},
        "training.label_smoothing": 0.1,
        "evaluation.patience": 0,
        "evaluation.max_sources": 1000,
    }
    values = {key: value for key, value in values.items() if not _is_set(key, chosen)}
    reason = (
        f"{len(data.corpus):,} pairs of {data.corpus.sources.lengths.mean() - 1:.1f} source and "
        f"{data.corpus.targets.lengths.mean() - 1:.1f} target tokens: a two-directional LSTM encoder and a decoder with "
        f"attention, {recipe.num_layers} x {recipe.hidden_size} units, batches of {recipe.batch_size}, dropout {recipe.dropout}."
    )
    return Choice(values, [reason])


def choose_length(config: Config, data: TrainingData, chosen: Mapping[str, Any]) -> Choice:
    """Number of updates: as many passes as suit the data, or what fits in the time limit on this machine."""
    if {"training.updates", "training.epochs"} & flatten(chosen).keys():
        return Choice(_intervals(config.training.updates or 0, chosen), [])
    batches = len(data.corpus) / (config.training.batch_size or 128)
    wanted = max(200, round(_recipe(data).passes * batches / config.training.accumulate))
    seconds = _seconds_an_update(config, data)
    # evaluations decode up to 1,000 sources each; measured, they cost up to a quarter of the training beside them
    affordable = int(LIMIT_MINUTES * 60 / MARGIN / (1.25 * seconds))
    updates = min(wanted, affordable)
    expected = updates * seconds * 1.25
    minutes = min(LIMIT_MINUTES, max(2, math.ceil(expected * MARGIN / 60)))
    why = "" if updates == wanted else f" ({wanted:,} would suit the data, but not the limit of {LIMIT_MINUTES} minutes)"
    reason = (
        f"{updates:,} updates{why}, {updates * config.training.accumulate / batches:.1f} passes over the data: about "
        f"{duration(expected)} at {seconds * 1000:.0f} ms an update on this machine, at most {minutes} minutes."
    )
    return Choice({"training.updates": updates, **_intervals(updates, chosen)}, [reason])


def _intervals(updates: int, chosen: Mapping[str, Any]) -> dict[str, int]:
    every = max(1, math.ceil(updates / EVALUATIONS))
    return {} if _is_set("evaluation.every", chosen) else {"evaluation.every": every}


def _is_set(key: str, chosen: Mapping[str, Any]) -> bool:
    return any(path == key or path.startswith(f"{key}.") for path in flatten(chosen))


def _recipe(data: TrainingData) -> _Recipe:
    if data.corpus.targets.lengths.mean() > 7 and len(data.target.vocabulary) > 2000:
        return _SENTENCES
    return next(recipe for recipe in _RECIPES if len(data.corpus) <= recipe.pairs)


def _seconds_an_update(config: Config, data: TrainingData, warm: int = 3, timed: int = 10) -> float:
    """Train a throw-away model for a few updates and time them."""
    model = new_model(config, model_sizes(config.model, len(data.source.vocabulary), len(data.target.vocabulary)))
    optimizer = make_optimiser(config.training.optimizer, model.parameters(), 1e-4)
    update = _one_update(config, data, model, optimizer)
    for number in range(warm):
        update(number)
    start = time.perf_counter()
    for number in range(warm, warm + timed):
        update(number)
    return (time.perf_counter() - start) / timed


def _one_update(
    config: Config, data: TrainingData, model: Any, optimizer: torch.optim.Optimizer
) -> Callable[[int], None]:
    strategy = strategy_of(config)
    lengths = data.corpus.sources.lengths, data.corpus.targets.lengths
    size, tokens = config.training.batch_size, config.training.batch_tokens
    plan = plan_epoch(*lengths, batch_size=size, batch_tokens=tokens, seed=config.training.seed, epoch=0)
    precision = choose_precision(config.training.precision)

    def update(number: int) -> None:
        for part in range(config.training.accumulate):
            batch = make_batch(data.corpus, plan[(number * config.training.accumulate + part) % len(plan)])
            with autocast(precision):
                losses = strategy.losses(model, TrainingBatch.of(batch), Update(number + 1, config.training.seed, part))
            for term in losses.terms.values():
                (term.sum / term.count).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update
