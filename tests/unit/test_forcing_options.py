"""Every key of every strategy has an effect unless another key switches it off; no two purposes share a stream."""

from __future__ import annotations

import sys
from typing import get_args

import pytest
import torch

from freerun.config import parse_config
from freerun.errors import ConfigError
from freerun.forcing.registry import STRATEGIES, settings_of
from freerun.forcing.strategy import Objective
from freerun.forcing.training_batch import Update
from freerun.symbols import EOS
from tests.networks import gradients_of, losses_of, network, random_rows, training_batch

BATCH = training_batch(random_rows([4, 1, 6, 4, 3]), random_rows([4, 6, 1, 2, 6], size=9, seed=1))
HALF = {"schedule": {"kind": "constant", "teacher_prob": 0.5}}
# gates that are always open, and the full weight from the first update on
ACTING = {"warmup": 0, "model_gate": 0.0, "discriminator_gate": 1.0, "hidden_size": 5}
BASES = {"scheduled_sampling": HALF, "professor": ACTING, "optimal_completion": {"teacher_prob": 0.5}}
DRAWS = {"draw": "argmax", "temperature": 0.2}
OUTPUTS = {"cost": "bleu", "temperature": 0.2, "weight": 0.3, "nll_weight": 0.3}
CHANGES = {
    "teacher": {},
    "scheduled_sampling": {
        **DRAWS,
        "draw_eos": True,
        "schedule": {"kind": "constant", "teacher_prob": 0.2},
        "position": {"kind": "linear", "c": 0.3},
        "coin": "sequence",
        "passes": 1,
    },
    "free_running": {**DRAWS, "draw_eos": True},
    "professor": {
        **DRAWS,
        "weight": 0.2,
        "warmup": 10,
        "include_teacher_term": True,
        "adversary": "hinge",
        "outputs": False,
        "hidden_size": 4,
        "learning_rate": 0.1,
        "model_gate": 1.0,
        "discriminator_gate": 0.0,
        "average": 0.5,
        "spectral_norm": True,
        "r1": 1.0,
    },
    "optimal_completion": {**DRAWS, "teacher_prob": 0.1, "longest_ratio": 1.0},
    "minimum_risk": {**OUTPUTS, "samples": 3, "alpha": 0.3},
    "self_critical": OUTPUTS,
    "input_corruption": {"kind": "replacement", "rate": 0.6},
}
EACH_CHANGE = [
    *((name, {key: value}, BASES.get(name, {})) for name, keys in CHANGES.items() for key, value in keys.items()),
    ("scheduled_sampling", {"coin": "batch"}, HALF),
    ("professor", {"adversary": "mmd"}, ACTING),
    ("input_corruption", {"kind": "raml"}, {}),
    ("input_corruption", {"temperature": 3.0}, {"kind": "raml"}),
]
SWITCHED_OFF = [(name, key) for name, kind in STRATEGIES.items() for key in kind.Settings.used_with]


def trace_of(name, settings, updates=3):
    """Everything that a strategy does to a model: terms, figures, gradients, its own learning."""
    model, found = network(scale=1.2, dropout=0.3), []
    with torch.no_grad():
        model.decoder.output_bias[EOS] += 0.5
    strategy = STRATEGIES[name](STRATEGIES[name].Settings(**settings), Objective(0.1))
    strategy.prepare(model, 1)
    strategy.accuracy = 0.8  # of the discriminator, if there is one: an untrained one keeps it at chance
    for number in range(2, updates + 2):
        losses = losses_of(strategy, model, BATCH, Update(number, 1))
        terms = {key: (term.sum.item(), term.count, term.weight) for key, term in losses.terms.items()}
        total = sum(term.sum * term.weight for term in losses.terms.values())
        slopes = {key: slope.tolist() for key, slope in gradients_of(total, model).items()}
        found += [terms, slopes, losses.metrics, strategy.step(Update(number, 1))]
    return [*found, {key: value.tolist() for key, value in strategy.state().items()}]


def test_every_key_is_tried():
    tried = {(name, key) for name, changes, _ in EACH_CHANGE for key in changes}
    assert tried == {(name, key) for name, kind in STRATEGIES.items() for key in kind.Settings.model_fields}


@pytest.mark.parametrize(("name", "change", "base"), EACH_CHANGE, ids=str)
def test_every_key_has_an_effect(name, change, base):
    assert trace_of(name, {**base, **change}) != trace_of(name, base)


@pytest.mark.parametrize(("name", "key"), SWITCHED_OFF)
def test_a_key_that_another_one_switches_off_has_no_effect_and_is_rejected(name, key):
    kind = STRATEGIES[name].Settings
    switch, values = kind.used_with[key]
    off = {switch: next(v for v in get_args(kind.model_fields[switch].annotation) if v not in values)}
    changed = {**off, key: {"temperature": 0.2, **CHANGES[name]}[key]}
    assert trace_of(name, changed, 2) == trace_of(name, off, 2)
    given = {"data": {"train": "x"}, "forcing": {"strategy": name, **changed}}
    with pytest.raises(ConfigError) as error:
        parse_config(given, "c.toml", settings_of)
    (problem,) = error.value.problems
    assert str(problem).startswith(f"c.toml: forcing.{key}: the value is ")
    assert f'but {switch} = "{off[switch]}" does not use it. Expected {switch} = "{values[0]}"' in str(problem)
    # as it is in the configuration of a run, where every default is written out
    default = {**given["forcing"], key: kind.model_fields[key].default}
    assert parse_config({**given, "forcing": default}, "c.toml", settings_of).forcing.model_dump()[switch]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, BASES.get(name, {})) for name in STRATEGIES),
        ("scheduled_sampling", {**HALF, "passes": 2}),
        *(("input_corruption", {"kind": kind}) for kind in ("replacement", "raml")),
    ],
)
def test_no_two_purposes_share_their_numbers(name, settings, monkeypatch):
    purposes = []
    for module in [each for key, each in sys.modules.items() if key.startswith("freerun.forcing.")]:
        if hasattr(module, "uniforms"):
            own = module.uniforms
            monkeypatch.setattr(
                module,
                "uniforms",
                lambda update, *more, own=own, **named: (purposes.append(more[0]), own(update, *more, **named))[1],
            )
    trace_of(name, settings, 1)
    assert len(purposes) == len(set(purposes))
    assert not {"dropout", "candidates"} & set(purposes)  # the masks' own
