"""Training passes in bf16, and the guard before them."""

from __future__ import annotations

import itertools

import pytest
import torch

from freerun.architecture import ATTENTIONS, FEATURE_ENCODERS
from freerun.errors import ConfigError
from freerun.forcing.registry import STRATEGIES
from freerun.forcing.strategy import Objective, StrategySettings
from freerun.forcing.teacher import Teacher
from freerun.forcing.training_batch import Update
from freerun.training import precision
from tests.networks import (
    BACKENDS,
    CELLS,
    network,
    random_features,
    random_rows,
    training_batch,
    with_features,
)

needs_bf16 = pytest.mark.skipif(not precision.bf16_is_fast(), reason="this CPU cannot multiply bf16")
ROWS = random_rows([4, 9, 6, 1]), random_rows([3, 5, 1, 7], size=9, seed=1)
BATCH = training_batch(*ROWS)
FEATURED = training_batch(*ROWS, random_features([2, 0, 4, 1]))


# argmaxes, so that rounding seldom changes what is fed
SETTINGS = {
    "scheduled_sampling": {"schedule": {"kind": "constant", "teacher_prob": 0.5}, "draw": "argmax"},
    "free_running": {"draw": "argmax"},
    "optimal_completion": {"teacher_prob": 1.0},
    "input_corruption": {"kind": "raml"},
    "professor": {"draw": "argmax", "model_gate": 0.0, "warmup": 0, "hidden_size": 8},
}


def loss_and_gradients(model, kind, batch=BATCH):
    with precision.autocast(kind):
        losses = Teacher(StrategySettings(), Objective(label_smoothing=0.1)).losses(model, batch, Update(1, 1))
    term = losses.terms["nll"]
    model.zero_grad()
    term.sum.backward()
    return term.sum.detach(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@needs_bf16
@pytest.mark.parametrize(
    ("cell", "backend", "attention"),
    [*itertools.product(CELLS, BACKENDS, ATTENTIONS)],
)
def test_bf16_stays_near_fp32(cell, backend, attention):
    context, bidirectional = ("every_step", False) if attention == "dot" else ("init", True)
    sizes = {"cell": cell, "attention": attention, "context": context, "bidirectional": bidirectional}
    # a seed at which no pair of a maxout is so close that rounding takes the other one, which is another gradient
    model = network(1, dtype=torch.float32, backend=backend, dropout=0.3, embedding_dropout=0.2, **sizes)
    (loss, gradient), (exact, wanted) = (loss_and_gradients(model, kind) for kind in ("bf16", "fp32"))
    assert loss.dtype == gradient.dtype == torch.float32
    assert loss.item() != exact.item()  # it is bf16
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)
    assert (gradient - wanted).norm() < 0.03 * wanted.norm()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("encoder", "attention", "context"),
    [
        ("summary", "none", "init"),
        ("summary", "bahdanau", "init"),
        ("summary", "general", "every_step"),
        ("sequence", "general", "init"),
        ("both", "bahdanau", "init"),
    ],
)
def test_bf16_stays_near_fp32_with_features(cell, encoder, attention, context):
    sizes = {"cell": cell, "attention": attention, "context": context, "bidirectional": context == "init"}
    # minGRU has a kink at 0 (slope 1 or 1/4): of this seed, no value is rounded to its other side
    model = network(
        6,
        dtype=torch.float32,
        dropout=0.3,
        embedding_dropout=0.2,
        backend="reference",
        **sizes,
        **with_features(encoder),
    )
    (loss, gradient), (exact, wanted) = (loss_and_gradients(model, kind, FEATURED) for kind in ("bf16", "fp32"))
    assert loss.dtype == gradient.dtype == torch.float32
    assert loss.item() != exact.item()
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)
    assert (gradient - wanted).norm() < 0.03 * wanted.norm()


@needs_bf16
@pytest.mark.parametrize("features", ["", *FEATURE_ENCODERS])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_works_in_bf16(name, cell, features):
    kind, batch = STRATEGIES[name], FEATURED if features else BATCH
    attention = "general" if features in ("sequence", "both") else "none"
    model = network(
        dtype=torch.float32,
        cell=cell,
        attention=attention,
        dropout=0.3,
        embedding_dropout=0.2,
        **with_features(features),
    )
    found = {}
    for precise in ("bf16", "fp32"):
        strategy = kind(kind.Settings(**SETTINGS.get(name, {})), Objective())
        strategy.prepare(model, 1)
        with precision.autocast(precise):
            losses = strategy.losses(model, batch, Update(9, 1))
        assert all(term.sum.dtype == torch.float32 for term in losses.terms.values())
        strategy.step(Update(9, 1))
        found[precise] = {term: value.sum.item() for term, value in losses.terms.items()}
    if "nll" in found["fp32"]:  # that of samples may be of another sample
        assert found["bf16"]["nll"] == pytest.approx(found["fp32"]["nll"], rel=0.05)
    assert len(found["bf16"]) == (2 if name in ("professor", "minimum_risk", "self_critical") else 1)


@pytest.mark.parametrize(
    ("asked", "able", "chosen"), [("auto", True, "bf16"), ("auto", False, "fp32"), ("fp32", True, "fp32")]
)
def test_bf16_is_chosen_only_where_it_is_there(asked, able, chosen, monkeypatch):
    monkeypatch.setattr(precision, "bf16_is_fast", lambda device: able)
    assert precision.choose_precision(asked, 512) == chosen


def test_bf16_is_refused_where_it_is_not_there(monkeypatch):
    monkeypatch.setattr(precision, "bf16_is_fast", lambda device: False)
    with pytest.raises(ConfigError, match=r"^training\.precision: bf16 .*CPU.*\. Expected \"fp32\".*auto"):
        precision.choose_precision("bf16", 512)
