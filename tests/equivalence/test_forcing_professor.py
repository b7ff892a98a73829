"""Professor forcing against the oracle: the paper's formulas, a row and a step at a time."""

from __future__ import annotations

import pytest
import torch

from freerun.forcing.discriminator import Behaviour, Discriminator
from freerun.forcing.moments import mmd
from freerun.forcing.professor import Professor
from freerun.forcing.strategy import Objective, StrategySettings
from freerun.forcing.teacher import Teacher
from freerun.forcing.training_batch import Update
from freerun.symbols import EOS
from tests import oracle_losses as by_the_book
from tests import oracle_professor
from tests.networks import (
    CELLS,
    SOME_OF_ALL,
    book,
    close,
    draw,
    gradients_of,
    network,
    random_rows,
    randomise,
    recorded,
    same_losses,
    training_batch,
)

BATCH = training_batch(random_rows([4, 1, 6, 4, 3]), random_rows([4, 6, 1, 2, 6], size=9, seed=1))
UPDATE = Update(number=7, seed=3)


def professor(model, accuracy=0.8, seed=5, **settings):
    """A strategy past its warm-up, with every parameter of the discriminator drawn."""
    options = {"warmup": 0, "hidden_size": 5, **settings}
    made = Professor(Professor.Settings(**options), Objective(label_smoothing=0.1))
    made.prepare(model, 1)
    made.accuracy = accuracy
    if made.discriminator is not None:
        randomise(made.discriminator, seed)
    return made


def a_model(**sizes):
    # at 0 all runs but one of these end at once
    seed = 4 if sizes.get("cell") == "mingru" or sizes.get("attention") == "concat" else 0
    model = network(seed, scale=1.2, **SOME_OF_ALL, **sizes)
    with torch.no_grad():
        model.decoder.output_bias[EOS] += 0.3  # some runs end before their target does
    return model


def check(strategy, model, draw, accuracy=0.8, update=UPDATE, weight=0.1, **settings):
    """Fail unless the model's losses, the discriminator's, and all gradients are those of the oracle."""
    losses, record = recorded(strategy, model, BATCH, update)
    discriminator, numbers = strategy.discriminator, record.numbers["free run"]
    weights = None if discriminator is None else dict(discriminator.named_parameters())
    rules = oracle_professor.Professor(weight=weight, **settings)
    rows = record.rows(BATCH)
    expected, own_loss = oracle_professor.professor(
        book(model), weights, rows, by_the_book.Objective(0.1), numbers, draw, rules, accuracy
    )
    same_losses(losses, expected, model)
    if discriminator is not None:
        found = {name: parameter.grad for name, parameter in discriminator.named_parameters()}
        learns = accuracy <= rules.discriminator_gate
        close(found, gradients_of(own_loss, discriminator) if learns else dict.fromkeys(found))
    return losses


@pytest.mark.parametrize("outputs", [True, False])
@pytest.mark.parametrize("adversary", ["logistic", "hinge"])
@pytest.mark.parametrize(
    ("cell", "attention", "input_feeding"),
    [
        *((cell, "none", False) for cell in CELLS),
        ("lstm", "general", False),
        *((cell, "bahdanau", False) for cell in CELLS),
        *((cell, attention, True) for cell in ("lstm", "gru") for attention in ("general", "concat")),
    ],
)
def test_losses_and_gradients_are_those_of_a_loop(cell, attention, input_feeding, adversary, outputs):
    model = a_model(cell=cell, attention=attention, input_feeding=input_feeding)
    given = {"include_teacher_term": True, "adversary": adversary}
    strategy = professor(model, draw="argmax", outputs=outputs, **given)
    losses = check(strategy, model, by_the_book.Draw("argmax"), **given)
    assert set(losses.terms) == {"nll", "free", "teacher"}
    assert 1 < losses.terms["free"].count < 5  # some rows have nothing to compare


@pytest.mark.parametrize("adversary", ["logistic", "hinge"])
@pytest.mark.parametrize("outputs", [True, False])
@pytest.mark.parametrize("sizes", [{"bidirectional": True, "context": "every_step"}, {"num_layers": 1}])
def test_the_penalty_is_that_of_the_formula(adversary, outputs, sizes):
    model = a_model(**sizes)
    strategy = professor(model, draw="argmax", adversary=adversary, outputs=outputs, r1=3.0)
    check(strategy, model, by_the_book.Draw("argmax"), adversary=adversary, r1=3.0)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("adversary", ["logistic", "mmd"])
def test_the_free_run_is_sampled_at_its_temperature(adversary, temperature):
    model = a_model()
    strategy = professor(model, adversary=adversary, temperature=temperature)
    check(strategy, model, by_the_book.Draw("sample", temperature), adversary=adversary)


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.995])
def test_gates_leave_the_model_or_the_discriminator_alone(accuracy):
    model = a_model()
    losses = check(professor(model, accuracy), model, by_the_book.Draw(), accuracy)
    assert ("free" in losses.terms) == (accuracy > 0.75)


@pytest.mark.parametrize(("number", "share"), [(1, 0.0), (4, 0.3), (11, 1.0), (90, 1.0)])
def test_the_weight_rises_during_the_warm_up(number, share):
    model = a_model()
    strategy = professor(model, weight=2.0, warmup=10)
    check(strategy, model, by_the_book.Draw(), update=Update(number, 3), weight=2.0 * share)


def test_the_token_loss_is_that_of_teacher_forcing():
    model = a_model()
    teacher = Teacher(StrategySettings(), Objective(label_smoothing=0.1)).losses(model, BATCH, UPDATE)
    found = professor(model).losses(model, BATCH, UPDATE)
    close(found.terms["nll"].sum, teacher.terms["nll"].sum, 0.0)
    assert found.metrics["nll.teacher"] == teacher.metrics["nll.teacher"]


def test_moment_matching_is_the_double_sum():
    first, second = draw(5, 3, seed=1), draw(5, 3, seed=2)
    expected = oracle_professor.mmd(list(first), list(second))
    close(mmd(first, second), expected)
    found = torch.autograd.grad(mmd(first, second), [first, second])
    close(list(found), list(torch.autograd.grad(expected, [first, second])))


@pytest.mark.parametrize("include_teacher_term", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_moment_matching_of_a_model_is_that_of_its_mean_states(cell, include_teacher_term):
    model = a_model(cell=cell)
    given = {"adversary": "mmd", "include_teacher_term": include_teacher_term}
    losses = check(professor(model, draw="argmax", **given), model, by_the_book.Draw("argmax"), **given)
    assert losses.terms["free"].count > 1


def test_a_discriminator_scores_a_row_whatever_its_batch_mates():
    discriminator = randomise(Discriminator(2, 4, 4, None, 5))
    layers = [draw(6, 3, 4, seed=seed).detach() for seed in (1, 2)]
    context, lengths = draw(3, 4, seed=3).detach(), torch.tensor([2, 6, 4])
    together = discriminator(Behaviour(layers, None, context, lengths))
    for row, length in enumerate(lengths.tolist()):
        alone = [layer[:length, [row]] for layer in layers]
        close(discriminator(Behaviour(alone, None, context[[row]], lengths[[row]])), together[[row]])
