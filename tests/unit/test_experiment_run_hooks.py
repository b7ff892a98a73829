"""The hooks of a run: what is evaluated, how, and when an evaluation may be stopped."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from freerun.config import Config
from freerun.experiment import run_hooks
from freerun.experiment.run_hooks import RunHooks
from freerun.search.methods import Beam

CONFIG = Config.model_validate(
    {
        "data": {"train": "pairs.tsv"},
        "evaluation": {"beam_size": 3, "length_penalty": 0.5, "early_stop": True},
    }
)


def items(*sources):
    return SimpleNamespace(items=[SimpleNamespace(label=source, texts=[source.upper()]) for source in sources])


@pytest.fixture
def hooks():
    data = SimpleNamespace(
        dev=items(*"abcdef"),
        sample=items(*"abcd"),
        source=None,
        target=None,
        report=SimpleNamespace(longest_target=5),
        corpus=SimpleNamespace(largest_ratio=2.0),
    )
    return RunHooks(None, CONFIG, data, None, "")


@pytest.mark.parametrize(
    ("everything", "count", "examples"),
    [(True, 6, ()), (False, 4, [("a", "A", "x"), ("b", "B", "x"), ("c", "C", "x")])],
)
def test_an_evaluation_is_of_the_sample_or_of_everything(hooks, monkeypatch, everything, count, examples):
    calls = []

    def evaluate(searcher, items, source, target, *, bound, search, progress):
        calls.append((len(items.items), (bound.longest_target, bound.largest_ratio), search))
        progress(1, count)
        return SimpleNamespace(free=SimpleNamespace(texts=["x"] * count), metrics=lambda: {"nll.teacher": 1.0})

    monkeypatch.setattr(run_hooks, "evaluate", evaluate)
    checks = []
    result = hooks.evaluate(None, everything, lambda: checks.append(1))
    assert calls == [(count, (5, 2.0), Beam(3, length_penalty=0.5, early_stop=True))]
    assert (result.metrics, result.examples, checks) == ({"nll.teacher": 1.0}, examples, [1])
