"""Model dimensions and training length, chosen from the data if they were not set.

The choices did well on development sets of this kind (letters to sounds, inflection, transliteration, commands, short
sentences). The time is measured: a few updates are timed on this machine before the number of updates is chosen.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from freerun.architecture import attention_kinds, attention_scores
from freerun.build import build_learner, model_sizes, new_model, order_of, updates_of, updates_per_epoch
from freerun.config import Config, flatten, shown
from freerun.experiment.dataset import TrainingData
from freerun.text import duration
from freerun.training.learner import NotFinite
from freerun.training.order import BatchOrder
from freerun.training.progress import Progress

__all__ = ["AutomaticChoice", "choose_before_data", "choose_length", "choose_sizes"]

LIMIT_MINUTES = 30
"""The longest time that a training without a configuration may announce."""
MARGIN = 1.5
"""Announced time / expected time: evaluations vary, and machines are shared."""
EVALUATIONS = 8


@dataclass(frozen=True)
class AutomaticChoice:
    """Values by key path, and sentences that explain them."""

    values: Mapping[str, Any]
    reasons: list[str]


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """Settings that suit data of up to ``pairs`` pairs."""

    pairs: float
    hidden_size: int
    num_layers: int
    batch_size: int
    dropout: float
    epochs: int
    attention: str


_RECIPES = (
    _Recipe(pairs=8_000, hidden_size=256, num_layers=1, batch_size=32, dropout=0.4, epochs=40, attention="bahdanau"),
    _Recipe(pairs=40_000, hidden_size=256, num_layers=1, batch_size=64, dropout=0.3, epochs=20, attention="bahdanau"),
    _Recipe(
        pairs=math.inf, hidden_size=256, num_layers=2, batch_size=128, dropout=0.2, epochs=12, attention="bahdanau"
    ),
)
_SENTENCES = _Recipe(
    pairs=math.inf, hidden_size=512, num_layers=1, batch_size=128, dropout=0.3, epochs=8, attention="luong"
)
"""For running text: long targets of thousands of different words or subwords."""


def choose_before_data(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the network that is chosen for all data, as sections to be put under ``chosen``.

    ``chosen`` is validated together with it, so keys that need an attention get one that allows them.
    """
    attention = "luong" if _only_with_luong(chosen) else _RECIPES[0].attention
    model = {"bidirectional": not _scores_by_dot(chosen), "reverse_source": False, "attention": attention}
    return {"data": {"normalisation": "auto"}, "model": model}


def choose_sizes(data: TrainingData, chosen: Mapping[str, Any]) -> AutomaticChoice:
    """Choose model and batch for this data; keys that ``chosen`` (a raw configuration) sets are left out."""
    recipe = _recipe(data)
    only_with_luong = _only_with_luong(chosen)
    values = {
        "model.hidden_size": recipe.hidden_size,
        "model.embedding_size": min(recipe.hidden_size, 256),
        "model.num_layers": recipe.num_layers,
        **flatten(choose_before_data(chosen)),
        "model.attention": "luong" if only_with_luong else recipe.attention,
        "model.dropout": recipe.dropout,
        "training.batch_size": recipe.batch_size,
        "training.learning_rate": 2e-3,
        "training.schedule": {"kind": "cosine", "warmup": 200},
        "training.label_smoothing": 0.1,
        "evaluation.patience": 0,
        "evaluation.max_sources": 1000,
    }
    reasons = [_description(data, {**values, **flatten(chosen)})]
    values = {key: value for key, value in values.items() if not _is_set(key, chosen)}
    if _is_set("training.batch_tokens", chosen):
        values.pop("training.batch_size", None)
    if _scores_by_dot(chosen) and "model.bidirectional" in values:
        reasons.append(
            'A unidirectional encoder, because model.attention_score = "dot" compares vectors of equal size.'
        )
    if only_with_luong and "model.attention" in values and recipe.attention != "luong":
        reasons.append(
            f"Luong attention, although {attention_kinds()[recipe.attention].title} is more accurate on such data, "
            f"because {only_with_luong}."
        )
    return AutomaticChoice(values, reasons)


def _scores_by_dot(chosen: Mapping[str, Any]) -> bool:
    """Return True if ``chosen`` sets the score that compares encoder and decoder states directly."""
    score = flatten(chosen).get("model.attention_score")
    return isinstance(score, str) and score in attention_scores() and attention_scores()[score].needs_equal_sizes


def _only_with_luong(chosen: Mapping[str, Any]) -> str:
    """Return which setting in ``chosen`` needs Luong attention, as the end of a sentence; "" if none."""
    keys = flatten(chosen)
    if keys.get("model.input_feeding"):
        return "model.input_feeding = true needs it"
    if "model.attention_score" in keys:
        return f"model.attention_score = {shown(keys['model.attention_score'])} is one of its scores"
    return ""


def _description(data: TrainingData, values: Mapping[str, Any]) -> str:
    """Describe the data and what was chosen for them in a sentence; ``values`` by key path."""
    sources, targets = (side.lengths.mean() - 1 for side in (data.corpus.sources, data.corpus.targets))  # without EOS
    directions = "bidirectional" if values["model.bidirectional"] else "unidirectional"
    kind = attention_kinds().get(values["model.attention"])
    attention = "attention" if kind is None else kind.title
    tokens = values.get("training.batch_tokens")
    batches = f"{values['training.batch_size']}" if tokens is None else f"{tokens:,} tokens"
    return (
        f"{len(data.corpus):,} pairs of {sources:.1f} source and {targets:.1f} target tokens: a {directions} "
        f"{values.get('model.cell', 'lstm').upper()} encoder and a decoder with {attention}, "
        f"{values['model.num_layers']} x {values['model.hidden_size']} units, batches of {batches}, "
        f"dropout {values['model.dropout']}."
    )


def choose_length(config: Config, data: TrainingData, chosen: Mapping[str, Any]) -> AutomaticChoice:
    """Choose the number of updates: as many epochs as suit the data, or as fit in the time limit on this machine."""
    order = order_of(config.training, data.corpus)
    if {"training.updates", "training.epochs"} & flatten(chosen).keys():
        return AutomaticChoice(_intervals(updates_of(config.training, order), chosen), [])
    epoch = updates_per_epoch(config.training, order)
    suitable = max(200, round(_recipe(data).epochs * epoch))
    seconds = _seconds_per_update(_long_enough(config), data, order)
    # evaluations decode up to 1,000 sources each; measured, they add up to a quarter of the training time
    affordable = max(1, int(LIMIT_MINUTES * 60 / MARGIN / (1.25 * seconds)))
    updates, last_phase = min(suitable, affordable), _last_phase(config)
    why = ""
    if updates < suitable:
        why = f" ({suitable:,} would suit the data, but not the limit of {LIMIT_MINUTES} minutes)"
    if updates <= last_phase:
        updates = 2 * last_phase
        why = f" (twice the {last_phase:,} before the last phase of forcing)"
    expected = updates * seconds * 1.25
    minutes = max(2, math.ceil(expected * MARGIN / 60))
    if updates <= affordable:
        minutes = min(LIMIT_MINUTES, minutes)
    reason = (
        f"{updates:,} updates{why}, {updates / epoch:.1f} epochs: about {duration(expected)} at "
        f"{seconds * 1000:.0f} ms per update on this machine, at most {minutes} minutes."
    )
    return AutomaticChoice({"training.updates": updates, **_intervals(updates, chosen)}, [reason])


def _last_phase(config: Config) -> int:
    """Return the update after which the last phase of forcing begins, 0 if there is only one phase."""
    return max((phase.get("until", 0) for phase in config.forcing.phases or []), default=0)


def _long_enough(config: Config) -> Config:
    """Return ``config`` with a length in which every phase of forcing begins."""
    training = config.training.model_copy(
        update={"updates": max(config.training.updates or 0, 2 * _last_phase(config))}
    )
    return config.model_copy(update={"training": training})


def _intervals(updates: int, chosen: Mapping[str, Any]) -> dict[str, int]:
    every = max(1, math.ceil(updates / EVALUATIONS))
    return {} if _is_set("evaluation.every", chosen) else {"evaluation.every": every}


def _is_set(key: str, chosen: Mapping[str, Any]) -> bool:
    return any(path == key or path.startswith(f"{key}.") for path in flatten(chosen))


def _recipe(data: TrainingData) -> _Recipe:
    if data.corpus.targets.lengths.mean() > 7 and len(data.target.vocabulary) > 2000:
        return _SENTENCES
    return next(recipe for recipe in _RECIPES if len(data.corpus) <= recipe.pairs)


def _seconds_per_update(config: Config, data: TrainingData, order: BatchOrder, warm: int = 3, timed: int = 10) -> float:
    """Train a temporary model for a few updates, and return the time per update."""
    model = new_model(config, model_sizes(config.model, data.source, data.target))
    learner, progress = build_learner(config, model, order), Progress()
    start = 0.0
    for number in range(warm + timed):
        if number == warm:
            start = time.perf_counter()
        batches = [order.take(progress) for _ in range(config.training.accumulate)]
        with contextlib.suppress(NotFinite):  # the training itself will report it, and save the batch
            learner.update(number + 1, batches)
    return (time.perf_counter() - start) / timed
