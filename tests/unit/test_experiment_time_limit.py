"""How long a training takes here, and what fits into a limit."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freerun.build import order_of
from freerun.config import parse_config
from freerun.data.readers import Pair
from freerun.evaluation.items import group_pairs
from freerun.experiment import time_limit
from freerun.experiment.dataset import TrainingData
from freerun.experiment.time_limit import EVALUATIONS, Cost, TimeLimit, measure_cost
from freerun.forcing.registry import settings_of
from tests.unit.test_experiment_automatic import data as data_without_dev


def config(**training):
    raw = {
        "data": {"train": "t"},
        "model": {"hidden_size": 4, "embedding_size": 4},
        "training": {"threads": 1, "batch_size": 10, **training},
    }
    return parse_config(raw, "here", settings_of)


def data(pairs=100, sources=0):
    made = data_without_dev(pairs)
    given = [Pair(f"{n} 1", "2 3", n) for n in range(sources)]
    dev = group_pairs(given, made.source, made.target) if given else made.dev
    return TrainingData(made.source, made.target, made.corpus, made.report, dev, dev.take(range(sources // 2)))


costs = st.builds(
    Cost, update=st.floats(1e-3, 100), evaluations=st.floats(0, 1000), evaluating=st.just(0.0) | st.floats(1e-3, 10)
)


@given(cost=costs, seconds=st.floats(1, 1e6))
def test_what_is_affordable_fits_and_one_more_does_not(cost, seconds):
    updates = cost.affordable(seconds)
    assert updates >= 1
    assert updates == 1 or cost.announced(updates) <= seconds * (1 + 1e-9)
    assert cost.announced(updates + 1) > seconds * (1 - 1e-9)
    assert cost.announced(updates) == pytest.approx(
        1.25 * (updates * (cost.update + cost.evaluating) + cost.evaluations + 3)
    )


def test_time_counts_from_the_start_of_the_command():
    assert TimeLimit(2, time.monotonic() - 50).left() == pytest.approx(70, abs=1)
    assert TimeLimit(None, time.monotonic()).left() == pytest.approx(30 * 60, abs=1)


def test_updates_and_evaluations_are_timed_on_a_model_that_is_thrown_away():
    cost = measure_cost(config(accumulate=2), data(sources=8), order_of(config().training, data().corpus))
    assert 0 < cost.update < 10 and 0 < cost.evaluations < 100
    assert measure_cost(config(), data(), order_of(config().training, data().corpus)).evaluations == 0
    wild = config(learning_rate=1e38, optimizer="sgd", clip_norm=0)
    assert measure_cost(wild, data(), order_of(wild.training, data().corpus)).update > 0


def test_all_evaluations_of_a_training_are_counted(monkeypatch):
    monkeypatch.setattr(time_limit, "_seconds_per_update", lambda *_: 1.0)
    monkeypatch.setattr(time_limit, "_seconds_per_source", lambda *_: 0.5)
    cost = measure_cost(config(), data(sources=8), order_of(config().training, data().corpus))
    assert cost == Cost(1.0, 0.5 * (EVALUATIONS * 4 + 8))


def test_evaluations_at_an_interval_that_was_set_are_counted(monkeypatch):
    monkeypatch.setattr(time_limit, "_seconds_per_update", lambda *_: 1.0)
    monkeypatch.setattr(time_limit, "_seconds_per_source", lambda *_: 0.5)
    order = order_of(config().training, data().corpus)
    every_ten = measure_cost(config(), data(sources=8), order, 10)
    assert every_ten == Cost(1.0, 0.5 * 8, 0.5 * 4 / 10)
    # 100 updates, ten evaluations of 4 sources, and one of all 8
    assert every_ten.expected(100) == pytest.approx(100 + 10 * 2 + 4 + 3)
    assert measure_cost(config(), data(sources=8), order, 0) == Cost(1.0, 0.5 * 8)


def test_evaluations_are_timed_with_the_search_that_was_set(monkeypatch):
    searches = []
    monkeypatch.setattr(time_limit, "_seconds_per_update", lambda *_: 1.0)
    monkeypatch.setattr(time_limit, "evaluate", lambda *_, search, **__: searches.append(search))
    chosen = config().model_copy(update={"evaluation": config().evaluation.model_copy(update={"beam_size": 4})})
    measure_cost(chosen, data(sources=8), order_of(chosen.training, data().corpus))
    assert [search.width for search in searches] == [4]


class Clock:
    """A learner whose updates take 10 ms per position, and a clock that knows only of these."""

    def __init__(self, monkeypatch):
        self.now, self.updates = 0.0, []
        monkeypatch.setattr(time_limit.time, "perf_counter", lambda: self.now)

    def update(self, number, batches):
        self.updates.append(sum(batch.source.size + batch.target_in.size for batch in batches))
        self.now += 0.01 * self.updates[-1]


def order_that(gives):
    """An order of batches that are planned as they are."""
    return SimpleNamespace(next=gives, batch=lambda planned: planned)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_average_update_is_estimated_by_its_positions(monkeypatch, accumulate):
    """The timed batches may be shorter than most: what counts is time per position."""
    clock = Clock(monkeypatch)
    sizes = np.arange(1, 1 + 200 * accumulate)
    batches = [SimpleNamespace(source=np.zeros((2, size)), target_in=np.zeros((1, size))) for size in sizes]
    left = iter(batches)
    order = order_that(lambda _: next(left))
    found = time_limit._seconds_per_update(config(accumulate=accumulate), clock, order)
    assert found == pytest.approx(0.01 * 3 * sizes.sum() / 200)
    assert 3 + 10 <= len(clock.updates) <= 3 + 60


def test_few_updates_are_timed_if_they_are_slow(monkeypatch):
    clock = Clock(monkeypatch)
    batch = SimpleNamespace(source=np.zeros((100, 1)), target_in=np.zeros((100, 0)))
    time_limit._seconds_per_update(config(), clock, order_that(lambda _: batch))
    assert len(clock.updates) == 3 + 11
    clock.updates.clear()
    batch = SimpleNamespace(source=np.zeros((1, 1)), target_in=np.zeros((1, 0)))
    time_limit._seconds_per_update(config(), clock, order_that(lambda _: batch))
    assert len(clock.updates) == 3 + 60
