"""Model dimensions and training length, chosen from the data if they were not set.

The dimensions are those of a recipe (``recipes``). The length is the recipe's, or what fits into a time limit on this
machine (``time_limit``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from freerun.architecture import attention_kinds, attention_scores
from freerun.build import order_of, updates_of, updates_per_epoch
from freerun.config import Config, flatten, shown
from freerun.errors import ConfigError
from freerun.experiment.dataset import TrainingData
from freerun.experiment.lengthening import LENGTHS
from freerun.experiment.recipes import RECIPES, Recipe, recipes_for
from freerun.experiment.request import check_batch
from freerun.experiment.time_limit import EVALUATIONS, Cost, TimeLimit, measure_cost
from freerun.text import duration, in_minutes
from freerun.training.order import BatchOrder

__all__ = ["AutomaticChoice", "choose_before_data", "choose_length", "choose_recipe", "choose_sizes", "measure_length"]

_CELLS = {"mingru": "minGRU"}
"""Names that are not written in capitals."""
FEWEST_UPDATES = 200
"""Very small data gets more epochs than its recipe has."""


@dataclass(frozen=True)
class AutomaticChoice:
    """Values by key path, and sentences that explain them."""

    values: Mapping[str, Any]
    reasons: list[str]


def choose_before_data(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is chosen for all data, as sections to be put under ``chosen``.

    ``chosen`` is validated together with it, so keys that need an attention get one that allows them.
    """
    attention = "luong" if _only_with_luong(chosen) else RECIPES[0].attention
    model = {"bidirectional": not _scores_by_dot(chosen), "reverse_source": False, "attention": attention}
    # the number of sources decides which are evaluated during training, so it is chosen before they are
    return {"data": {"normalisation": "auto"}, "model": model, "evaluation": {"max_sources": 1000}}


def choose_recipe(
    data: TrainingData,
    chosen: Mapping[str, Any],
    limit: TimeLimit,
    complete: Callable[[Mapping[str, Any]], Config],
    processes: int = 1,
) -> AutomaticChoice:
    """Choose model, batch and length by the best recipe for this data of which enough epochs fit into the time.

    ``chosen`` is a raw configuration; ``complete`` puts values, by key path, under those that it sets. Several
    ``processes`` divide the batches among them, so that an update is the one that the recipe was tested with.
    """
    passed_over = []
    recipes = recipes_for(data)
    if _is_set("model.hidden_size", chosen):
        recipes = recipes[:1]  # others would not be quicker
    for recipe in recipes:
        sizes = choose_sizes(data, chosen, recipe, processes)
        config = complete(sizes.values)
        order = order_of(config.training, data.corpus)  # plans an epoch, so there is one for all that follows
        cost = measure_length(config, data, order, chosen, processes)
        if cost is None or recipe is recipes[-1]:
            break
        epochs = cost.affordable(limit.left()) / updates_per_epoch(config.training, order)
        if epochs >= recipe.fewest_epochs:
            break
        passed_over.append(
            f"{config.model.num_layers} x {config.model.hidden_size} units would suit the data, but only {epochs:.1f} "
            f"epochs would fit into {in_minutes(limit.most)} on this machine. A smaller model makes fewer errors then."
        )
    length = choose_length(config, order, chosen, limit, recipe, cost)
    return AutomaticChoice({**sizes.values, **length.values}, [*passed_over, *sizes.reasons, *length.reasons])


def choose_sizes(data: TrainingData, chosen: Mapping[str, Any], recipe: Recipe, processes: int = 1) -> AutomaticChoice:
    """Choose model and batch by a recipe; keys that ``chosen`` (a raw configuration) sets are left out."""
    # the sizes of an output layer that the user ties or not
    recipe = replace(recipe, tied_output=flatten(chosen).get("model.tied_output", recipe.tied_output))
    only_with_luong = _only_with_luong(chosen)
    values = {
        **flatten(choose_before_data(chosen)),
        **recipe.settings(),
        **({"model.attention": "luong"} if only_with_luong else {}),
        "training.schedule": {"kind": "cosine", "warmup": 200},
        "training.label_smoothing": 0.1,
        "evaluation.patience": 0,
    }
    if not (_is_set("training.batch_size", chosen) or _is_set("training.batch_tokens", chosen)):
        check_batch(values["training.batch_size"], processes)
    values["training.batch_size"] = max(1, values["training.batch_size"] // processes)
    reasons = [_description(data, {**values, **flatten(chosen)}, processes)]
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


def _description(data: TrainingData, values: Mapping[str, Any], processes: int) -> str:
    """Describe the data and what was chosen for them in a sentence; ``values`` by key path."""
    sources, targets = (length - 1 for length in data.corpus.mean_lengths)  # without EOS
    directions = "bidirectional" if values["model.bidirectional"] else "unidirectional"
    kind = attention_kinds().get(values["model.attention"])
    attention = "attention" if kind is None else kind.title
    cell, tokens = values.get("model.cell", "lstm"), values.get("training.batch_tokens")
    batches = f"{values['training.batch_size']}" if tokens is None else f"{tokens:,} tokens"
    batches += f" in each of {processes} processes" if processes > 1 else ""
    return (
        f"{len(data.corpus):,} pairs of {sources:.1f} source and {targets:.1f} target tokens: a {directions} "
        f"{_CELLS.get(cell, cell.upper())} encoder and a decoder with {attention}, "
        f"{values['model.num_layers']} x {values['model.hidden_size']} units, batches of {batches}, "
        f"dropout {values['model.dropout']}{_further_dropout(values)}."
    )


def _further_dropout(values: Mapping[str, Any]) -> str:
    """Return the rates of dropout within embeddings and the memory, in parentheses, if there are any."""
    rates = {"embedding units": values.get("model.embedding_unit_dropout")}
    if values["model.attention"] != "none":
        rates["the attention memory"] = values.get("model.memory_dropout")
    listed = [f"{rate:g} of {what}" for what, rate in rates.items() if rate]
    return f" ({', '.join(listed)})" if listed else ""


def measure_length(
    config: Config, data: TrainingData, order: BatchOrder, chosen: Mapping[str, Any], processes: int = 1
) -> Cost | None:
    """Time updates on this machine; None if ``chosen`` sets how many there are."""
    if not flatten(chosen).keys().isdisjoint(LENGTHS):
        return None
    every = config.evaluation.every if _is_set("evaluation.every", chosen) else None
    return measure_cost(_long_enough(config), data, order, every, processes)


def choose_length(
    config: Config, order: BatchOrder, chosen: Mapping[str, Any], limit: TimeLimit, recipe: Recipe, cost: Cost | None
) -> AutomaticChoice:
    """Choose the number of updates: what suits the data or, if minutes were set, as many as fit into them.

    ``cost`` is that of ``measure_length``.
    """
    if cost is None:
        return AutomaticChoice(_intervals(updates_of(config.training, order), chosen), [])
    _check_enough(cost, limit)
    epoch = updates_per_epoch(config.training, order)
    epochs = recipe.epochs if limit.minutes is None else recipe.most_epochs
    suitable, affordable = max(FEWEST_UPDATES, round(epochs * epoch)), cost.affordable(limit.left())
    updates, last_phase = min(suitable, affordable), _last_phase(config)
    why = ""
    if updates < suitable and limit.minutes is None:
        why = f" ({suitable:,} would suit the data, but not the limit of {in_minutes(limit.most)})"
    if updates == suitable and limit.minutes is not None:
        why = f" ({epochs} epochs, the most for data of this kind)"
    if updates <= last_phase:
        _check_phases_fit(2 * last_phase, cost, limit)
        updates = 2 * last_phase
        why = f" (twice the {last_phase:,} before the last phase of forcing)"
    minutes: float = max(2, math.ceil(cost.announced(updates) / 60))
    if updates <= affordable:
        minutes = min(limit.most, minutes)
    reason = (
        f"{updates:,} updates{why}, {updates / epoch:.1f} epochs: about {duration(cost.expected(updates))} at "
        f"{cost.update * 1000:.0f} ms per update on this machine, at most {in_minutes(minutes)}."
    )
    return AutomaticChoice({"training.updates": updates, **_intervals(updates, chosen)}, [reason])


def _enough_minutes(updates: int, cost: Cost, limit: TimeLimit) -> int:
    """Return the whole minutes of a limit into which so many updates fit."""
    return math.ceil(limit.most + (cost.announced(updates) - limit.left()) / 60)


def _check_enough(cost: Cost, limit: TimeLimit) -> None:
    """Check that at least one update fits into the minutes that were set.

    Raises:
        ConfigError: not even one does.
    """
    if limit.minutes is not None and cost.announced(1) > limit.left():
        raise ConfigError.single(
            "minutes",
            f"a limit of {in_minutes(limit.minutes)} is not enough for a single update and its evaluation",
            f"Expected {_enough_minutes(FEWEST_UPDATES, cost, limit):,} or more for this data on this machine",
            "Raise the time limit",
        )


def _check_phases_fit(updates: int, cost: Cost, limit: TimeLimit) -> None:
    """Check that so many updates, which the phases of forcing need, fit into the minutes that were set.

    Raises:
        ConfigError: they do not.
    """
    if limit.minutes is not None and cost.announced(updates) > limit.left():
        raise ConfigError.single(
            "minutes",
            f"training for {in_minutes(limit.minutes)} ends before the last phase of forcing, which begins after "
            f"update {updates // 2:,}",
            f"Expected {_enough_minutes(updates, cost, limit):,} or more, for {updates:,} updates on this machine",
            "Raise the time limit, or let the phases begin earlier",
        )


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
