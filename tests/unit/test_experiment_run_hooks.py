"""The hooks of a run: what is evaluated, how, and when an evaluation may be stopped."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from freerun.config import Config
from freerun.data.codec import Codec
from freerun.data.features import FeatureCodec
from freerun.data.tokenizers import CharTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.evaluation.items import EvaluationSet, Item
from freerun.experiment import run_hooks
from freerun.experiment.run_hooks import RunHooks
from freerun.search.batches import Share
from freerun.search.methods import Beam
from freerun.symbols import EOS
from tests.networks import training_batch

CONFIG = Config.model_validate(
    {
        "data": {"train": "pairs.tsv"},
        "evaluation": {"beam_size": 3, "length_penalty": 0.5, "early_stop": True},
    }
)


def items(*sources, **features):
    return EvaluationSet([Item(source, [source.upper()], features=features.get(source)) for source in sources])


@pytest.fixture
def hooks():
    data = SimpleNamespace(
        dev=items(*"abcdef"),
        sample=items(*"abcd", c="V;PST"),
        source=None,
        target=None,
        report=SimpleNamespace(longest_target=5),
        corpus=SimpleNamespace(largest_ratio=2.0),
    )
    return RunHooks(None, CONFIG, data, None, "")


@pytest.mark.parametrize(
    ("everything", "count", "examples"),
    [(True, 6, ()), (False, 4, [("a", "A", "x"), ("b", "B", "x"), ("c\tV;PST", "C", "x")])],
)
def test_an_evaluation_is_of_the_sample_or_of_everything(hooks, monkeypatch, everything, count, examples):
    calls = []

    def outcome_of(searcher, encoded, *, bound, search, batch_size, progress, share):
        calls.append((len(encoded.items.items), (bound.longest_target, bound.largest_ratio), search, share))
        progress(1, count)
        return "own"

    def evaluation_of(outcomes, encoded, beam_size):
        assert (outcomes, len(encoded.items.items), beam_size) == (["own", "other"], count, 3)
        return SimpleNamespace(free=SimpleNamespace(texts=["x"] * count), metrics=lambda: {"nll.teacher": 1.0})

    monkeypatch.setattr(run_hooks.EncodedSet, "of", lambda items, source, target: SimpleNamespace(items=items))
    monkeypatch.setattr(run_hooks, "outcome_of", outcome_of)
    monkeypatch.setattr(run_hooks, "evaluation_of", evaluation_of)
    monkeypatch.setattr(run_hooks.Outcome, "from_json", lambda value: value["of"])
    checks = []
    result = hooks.evaluate(None, everything, lambda: checks.append(1), Share(0, 2), lambda: [{"of": "other"}])
    assert calls == [(count, (5, 2.0), Beam(3, length_penalty=0.5, early_stop=True), Share(0, 2))]
    assert (result.metrics, result.examples, checks) == ({"nll.teacher": 1.0}, examples, [1])


@pytest.mark.parametrize("features", [None, FeatureCodec(";", Vocabulary(["PST", "V"]))])
def test_a_batch_is_described_as_texts(hooks, features):
    letters = Codec(CharTokenizer(), Vocabulary("ab"), reverse=True)
    hooks._data.source, hooks._data.target = replace(letters, features=features), replace(letters, reverse=False)
    batch = training_batch([[4, 5, EOS], [4, EOS]], [[4, EOS], [5, 4, EOS]], [[3, 5], []] if features else None)
    described = [{"source": "ba", "target": "a"}, {"source": "a", "target": "ba"}]
    if features:
        described = [pair | {"features": text} for pair, text in zip(described, ["<unk>;V", ""], strict=True)]
    assert hooks.describe(batch.origin) == described
