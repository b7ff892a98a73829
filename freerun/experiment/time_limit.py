"""How long a training takes on this machine, and how many updates fit into a time limit.

Updates and the evaluation of a few sources are timed with a model that is thrown away. The plan that follows is fixed
before the first update: a training never looks at the clock again, so it can be repeated and resumed.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import Final

from freerun.build import build_learner, model_sizes, new_model, search_of
from freerun.config import Config
from freerun.data.batching import Batch
from freerun.evaluation.searcher_evaluation import evaluate
from freerun.experiment.dataset import TrainingData
from freerun.models.device import choose_device, deterministic
from freerun.models.seq2seq import Seq2Seq
from freerun.models.torch_stepper import TorchStepper
from freerun.search.bound import LengthBound
from freerun.search.methods import Beam
from freerun.search.searcher import StepperSearcher
from freerun.training.learner import Learner, MemoryFull, NotFinite
from freerun.training.order import BatchOrder
from freerun.training.progress import Progress

__all__ = ["DEFAULT_MINUTES", "EVALUATIONS", "Cost", "TimeLimit", "measure_cost"]

DEFAULT_MINUTES: Final = 30
"""The longest time that a training without a configuration may announce, if nobody sets another."""
EVALUATIONS: Final = 8
"""Evaluations during a training; one of all development pairs follows."""
_MARGIN: Final = 1.25
"""Announced time / expected time: machines are shared, and their speed varies."""
_ENDING: Final = 3.0
_SMALLER: Final = "Free memory, or lower training.batch_size or model.hidden_size with --set"
"""Seconds for the last checkpoint and the bundle."""
_WARM: Final = 3
"""Updates before the clock starts."""
_FEWEST: Final = 10
_MOST: Final = 60
"""Timed updates: the fewest, then more until ``_SECONDS`` are over."""
_SECONDS: Final = 3.0
_PLANNED: Final = 200
"""Updates whose sizes say how much work an average one is."""
_SHARING: Final = 1.15
"""Time of an update that several processes share / time of a share: gradients travel, and all wait for the slowest."""
_SOURCES: Final = 64
"""Sources of the timed evaluation."""
_LONGER: Final = 1.5
"""Length of its outputs / mean length of targets: models that have just begun to learn write too much."""


@dataclass(frozen=True)
class TimeLimit:
    """The minutes that a command may take, None for the default, and when it began (``time.monotonic``)."""

    minutes: float | None
    started: float

    @property
    def most(self) -> float:
        """The minutes, in all."""
        return DEFAULT_MINUTES if self.minutes is None else self.minutes

    def left(self) -> float:
        """Return the seconds that are left now."""
        return 60 * self.most - (time.monotonic() - self.started)


@dataclass(frozen=True)
class Cost:
    """Seconds on this machine.

    Attributes:
        update: of an update.
        evaluations: of evaluations whose number does not depend on that of updates.
        evaluating: of evaluations at a fixed interval of updates, for each update.
    """

    update: float
    evaluations: float
    evaluating: float = 0.0

    def expected(self, updates: int) -> float:
        """Return the seconds that a training of so many updates takes."""
        return updates * (self.update + self.evaluating) + self.evaluations + _ENDING

    def announced(self, updates: int) -> float:
        """Return the seconds that it takes at most."""
        return self.expected(updates) * _MARGIN

    def affordable(self, seconds: float) -> int:
        """Return the largest number of updates whose announced time is within ``seconds``, at least 1."""
        left = seconds / _MARGIN - self.evaluations - _ENDING
        return max(1, math.floor(left / (self.update + self.evaluating)))


def measure_cost(
    config: Config, data: TrainingData, order: BatchOrder, every: int | None = None, processes: int = 1
) -> Cost:
    """Time some updates and an evaluation on a temporary model.

    ``every``: the updates between evaluations, 0 for none before the last one; None: there are ``EVALUATIONS``.
    ``processes``: how many share the work; one share of it is timed, and ``_SHARING`` allowed for adding up.
    """
    model = new_model(config, model_sizes(config.model, data.source, data.target))
    model.to(choose_device(config.training.device))
    learner = build_learner(config, model, order)
    with deterministic(model.device, learner.precision):
        update = _seconds_per_update(config, learner, order, processes)
        source = _seconds_per_source(model, data, search_of(config.evaluation)) / processes
    if processes > 1:
        update *= _SHARING
    one, last = len(data.sample) * source, len(data.dev) * source
    if every is None:
        return Cost(update, last + EVALUATIONS * one)
    return Cost(update, last, one / every if every else 0.0)


def _seconds_per_update(config: Config, learner: Learner, order: BatchOrder, processes: int = 1) -> float:
    """Return the time of an average update: that of the timed ones, by the positions of their batches."""
    progress = Progress()

    def take() -> list[Batch]:
        planned = [order.next(progress) for _ in range(config.training.accumulate)]
        return [order.batch(pairs) for pairs in planned[::processes]]

    start, seconds, planned = 0.0, 0.0, []
    for number in range(_WARM + _MOST):
        if number == _WARM:
            start = time.perf_counter()
        batches = take()
        planned.append(_positions(batches))
        try:
            with contextlib.suppress(NotFinite):  # the training itself will report it, and save the batch
                learner.update(number + 1, batches)
        except MemoryFull as error:
            raise error.as_error("training", "updates were being timed, and nothing was written", _SMALLER) from None
        seconds = time.perf_counter() - start
        if number >= _WARM + _FEWEST and seconds > _SECONDS:
            break
    timed = sum(planned[_WARM:])
    planned += [_positions(take()) for _ in range(_PLANNED - len(planned))]
    return seconds / timed * sum(planned) / len(planned)


def _positions(batches: list[Batch]) -> int:
    """Return the number of positions, with padding, of an update's batches."""
    return sum(batch.source.size + batch.target_in.size for batch in batches)


def _seconds_per_source(model: Seq2Seq, data: TrainingData, search: Beam) -> float:
    items = data.sample.take(range(min(_SOURCES, len(data.sample))))
    if not len(items):
        return 0.0
    length = math.ceil(_LONGER * data.corpus.mean_lengths[1])
    searcher = StepperSearcher(lambda: TorchStepper(model))
    start = time.perf_counter()
    evaluate(searcher, items, data.source, data.target, bound=LengthBound(0, 0.0, length), search=search)
    return (time.perf_counter() - start) / len(items)
