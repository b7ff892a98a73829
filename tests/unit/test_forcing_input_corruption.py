"""Input corruption: how often, by what, what is learnt, and that RAML's samples have RAML's distribution."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch

from freerun.config import parse_config
from freerun.errors import ConfigError
from freerun.forcing.input_corruption import InputCorruption
from freerun.forcing.registry import settings_of
from freerun.forcing.strategy import Objective
from freerun.forcing.teacher import Teacher
from freerun.forcing.training_batch import Update
from freerun.symbols import EOS, UNK
from tests.networks import network, random_rows, training_batch

LENGTHS = [3, 9, 1, 7, 8, 6] * 10
BATCH = training_batch(random_rows([4] * 60), random_rows(LENGTHS, size=9, seed=1))
REAL = sum(LENGTHS) - len(LENGTHS)


def corruption(**settings):
    return InputCorruption(InputCorruption.Settings(**settings), Objective())


def fed(number=1, batch=BATCH, size=9, **settings):
    return corruption(**settings)._corrupt(batch, Update(number, 1), size)


@pytest.mark.parametrize("kind", ["dropout", "replacement"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.6, 1.0])
def test_as_many_tokens_as_asked_for_are_corrupted(kind, rate):
    changed, kept = 0, {"dropout": 0.0, "replacement": 1 / 5}[kind]
    for number in range(1, 101):
        found = fed(number, kind=kind, rate=rate)
        assert (found[~BATCH.replaceable_BT] == BATCH.target_in_BT[~BATCH.replaceable_BT]).all()
        changed += (found != BATCH.target_in_BT).sum().item()
    # a replacement is the right token again in one of five cases
    assert changed / (100 * REAL) == pytest.approx(rate * (1 - kept), abs=0.01)


def test_dropped_tokens_are_unknown_and_replaced_ones_are_any():
    found = fed(kind="dropout", rate=1.0)
    assert set(found[BATCH.replaceable_BT].tolist()) == {UNK}
    found = Counter(
        token for n in range(1, 60) for token in fed(n, kind="replacement", rate=1.0)[BATCH.replaceable_BT].tolist()
    )
    assert set(found) == {4, 5, 6, 7, 8}
    assert all(count / found.total() == pytest.approx(0.2, abs=0.01) for count in found.values())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
@pytest.mark.parametrize(("target", "tokens"), [([4, 5], 3), ([4, 4, 5], 2), ([5, UNK, 6], 3), ([], 3)])
def test_raml_samples_have_its_distribution(target, tokens, temperature):
    batch = training_batch([[5, EOS]] * 400, [[*target, EOS]] * 400)
    found = Counter()
    for number in range(1, 31):
        rows = fed(number, batch, size=4 + tokens, kind="raml", temperature=temperature)
        found.update(tuple(row[1:]) for row in rows.tolist())
    choices = [[token] if token == UNK else range(4, 4 + tokens) for token in target]
    weights = {
        each: math.exp(-sum(a != b for a, b in zip(each, target, strict=True)) / temperature)
        for each in itertools.product(*choices)
    }
    assert found.keys() <= weights.keys()
    for each, weight in weights.items():
        assert found[each] / found.total() == pytest.approx(weight / sum(weights.values()), abs=0.02)


def test_the_distance_of_a_raml_sample_has_nothing_to_do_with_the_places_in_another_one():
    """Two rows of two tokens: does the second row's distance depend on which token of the first row was replaced?"""
    batch = training_batch([[5, EOS]] * 2, [[4, 5, EOS]] * 2)
    samples = torch.stack([fed(number, batch, size=7, kind="raml", temperature=1.0) for number in range(1, 2001)])
    replaced = samples[:, :, 1:] != batch.target_in_BT[:, 1:]
    one = replaced[:, 0].sum(1) == 1
    distances = [replaced[one & replaced[:, 0, place], 1].sum(1).double().mean().item() for place in (0, 1)]
    assert one.sum() > 500
    assert distances[0] == pytest.approx(distances[1], abs=0.15)


@pytest.mark.parametrize("kind", ["dropout", "replacement"])
def test_the_others_learn_the_right_tokens(kind):
    model = network(dropout=0.3)
    teacher = Teacher(Teacher.Settings(), Objective()).losses(model, BATCH, Update(3, 1)).terms["nll"].sum
    clean, noisy = (corruption(kind=kind, rate=rate).losses(model, BATCH, Update(3, 1)) for rate in (0.0, 0.5))
    assert clean.terms["nll"].sum.item() == teacher.item()
    assert clean.metrics["effective_rate"] == (0, REAL)
    assert noisy.terms["nll"].sum.item() != teacher.item()
    assert noisy.terms["nll"].count == sum(LENGTHS)


def test_a_vocabulary_of_one_token_has_no_other_to_offer():
    batch = training_batch([[5, EOS]], [[4, 4, EOS]])
    assert torch.equal(fed(1, batch, size=5, kind="raml", temperature=9.0), batch.target_in_BT)
    assert torch.equal(fed(1, batch, size=5, kind="replacement", rate=1.0), batch.target_in_BT)


@pytest.mark.parametrize(("key", "value"), [("rate", -0.1), ("rate", 1.1), ("temperature", 0.0), ("kind", "noise")])
def test_bad_settings_are_told(key, value):
    with pytest.raises(ConfigError, match=f"forcing.{key}: the value is"):
        parse_config(
            {"data": {"train": "x"}, "forcing": {"strategy": "input_corruption", key: value}}, "c", settings_of
        )
