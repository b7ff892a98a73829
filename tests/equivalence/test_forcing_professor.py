"""Professor forcing against the paper's formulas, written as loops over rows, steps and gates."""

from __future__ import annotations

import pytest
import torch

from freerun.forcing.batch import Update
from freerun.forcing.discriminator import Behaviour, Discriminator
from freerun.forcing.moments import mmd
from freerun.forcing.professor import Professor
from freerun.forcing.rollout import uniforms
from freerun.forcing.strategy import Objective, StrategySettings
from freerun.forcing.teacher import Teacher
from freerun.symbols import BOS, EOS, NEVER_WRITTEN
from tests.equivalence.test_forcing_rollout import drawn_by_hand
from tests.networks import (
    CELLS,
    close,
    draw,
    gradients_of,
    naive_decode,
    naive_logits,
    naive_run,
    network,
    random_rows,
    randomise,
    training_batch,
)

BATCH = training_batch(random_rows([4, 1, 6, 4, 3]), random_rows([4, 6, 1, 2, 6], size=9, seed=1))
UPDATE = Update(number=7, seed=3)


def professor(model, accuracy=0.8, seed=5, **settings):
    """A strategy past its warm-up, with every parameter of the discriminator drawn."""
    made = Professor(Professor.Settings(warmup=0, hidden_size=5, **settings), Objective(label_smoothing=0.1))
    made.prepare(model, 1)
    made.accuracy = accuracy
    if made.discriminator is not None:
        randomise(made.discriminator, seed)
    return made


def a_model(**sizes):
    model = network(scale=1.2, dropout=0.3, embedding_dropout=0.2, **sizes)
    with torch.no_grad():
        model.decoder.output_bias[EOS] += 0.3  # some runs end before their target does
    return model


def normalised(norm, vector):
    centred = vector - vector.mean()
    return norm.weight * centred / ((centred**2).mean() + 1e-5).sqrt() + norm.bias


def score(judge, layers, probs, context):
    """The discriminator by the book: one row, ``layers`` a list over steps of the layers' outputs."""
    context = judge.context.weight @ normalised(judge.context_norm, context.detach()) + judge.context.bias
    inputs = []
    for t, outputs in enumerate(layers):
        seen = [normalised(norm, output) for norm, output in zip(judge.norms, outputs, strict=True)]
        if judge.outputs is not None:
            seen.append(judge.outputs.weight @ probs[t] + judge.outputs.bias)
        inputs.append(judge.behaviour.weight @ torch.cat(seen) + judge.behaviour.bias + context)
    zero = torch.zeros(5, dtype=torch.float64)
    _, forward, _ = naive_run("gru", judge.forward_gru, inputs, zero, None)
    _, backward, _ = naive_run("gru", judge.backward_gru, inputs[::-1], zero, None)
    value = torch.cat([forward, backward])
    for layer in list(judge.mlp)[::2]:
        value = layer.weight @ value + layer.bias
        if layer.out_features > 1:
            value = torch.where(value > 0, value, 0.2 * value)
    return value[0]


def source_of(row):
    return BATCH.source_BS[row, : BATCH.origin.source_lengths[row]]


def masks_of(model):
    return model.draw_masks(6, 6, 5, UPDATE.generator("dropout"))


def compared(model, draw="argmax", temperature=1.0):
    """Rows with something to compare, as (row, what the free run is fed, number of steps).

    The free run goes on until it writes EOS or the target is over; the step that writes EOS, and that at
    which the target has it, are left out.
    """
    masks, numbers = masks_of(model), uniforms(UPDATE, "free run", *BATCH.target_in_BT.shape)
    for row, length in enumerate(BATCH.origin.target_lengths.tolist()):
        fed, written = [BOS], []
        while len(written) < length and EOS not in written:
            logits = naive_logits(model, source_of(row), fed, masks, row)[-1]
            number = numbers[row, len(written)].item()
            written.append(drawn_by_hand(logits, number, draw, temperature, NEVER_WRITTEN))
            fed.append(written[-1])
        steps = min(length - 1, len(written) - (EOS in written))
        if steps:
            yield row, torch.tensor(fed), steps


def judged(model, judge, row, fed, steps):
    logits, layers, start = naive_decode(model, source_of(row), fed[:steps], masks_of(model), row)
    return score(judge, layers, torch.softmax(logits, 1), start[-1][0])


@pytest.mark.parametrize("outputs", [True, False])
@pytest.mark.parametrize("adversary", ["logistic", "hinge"])
@pytest.mark.parametrize(("cell", "attention"), [*((cell, "none") for cell in CELLS), ("lstm", "general")])
def test_the_models_adversarial_gradients_are_those_of_a_loop(cell, attention, adversary, outputs):
    model = a_model(cell=cell, attention=attention)
    strategy = professor(model, draw="argmax", teacher_too=True, outputs=outputs, adversary=adversary)
    losses = strategy.losses(model, BATCH, UPDATE)
    free = taught = count = 0
    for row, own, steps in compared(model):
        count += 1
        free_score = judged(model, strategy.discriminator, row, own, steps)
        taught_score = judged(model, strategy.discriminator, row, BATCH.target_in_BT[row], steps)
        if adversary == "hinge":
            free, taught = free - free_score, taught + taught_score
        else:
            free, taught = free - torch.sigmoid(free_score).log(), taught - (1 - torch.sigmoid(taught_score)).log()
    assert 1 < count < 5
    for name, expected in (("free", free), ("teacher", taught)):
        term = losses.terms[name]
        assert (term.count, term.weight) == (count, 0.1)
        close(term.sum, expected)
        close(gradients_of(term.sum, model), gradients_of(expected, model))


@pytest.mark.parametrize("adversary", ["logistic", "hinge"])
@pytest.mark.parametrize("r1", [0.0, 3.0])
def test_the_discriminators_gradients_are_those_of_the_formulas(adversary, r1):
    model = a_model()
    strategy = professor(model, draw="argmax", adversary=adversary, r1=r1)
    judge = strategy.discriminator
    losses = strategy.losses(model, BATCH, UPDATE)
    found = {name: parameter.grad.clone() for name, parameter in judge.named_parameters()}
    expected = penalty = 0
    right_answers = [0, 0]
    for row, own, steps in compared(model):
        right, scores = BATCH.target_in_BT[row], []
        for fed in (right, own):
            logits, layers, start = naive_decode(model, source_of(row), fed[:steps], masks_of(model), row)
            layers = [[each.detach().requires_grad_() for each in outputs] for outputs in layers]
            probs = [each.detach().requires_grad_() for each in torch.softmax(logits, 1)]
            scores.append(score(judge, layers, probs, start[-1][0]))
            if fed is right and r1:
                inputs = [each for outputs in layers for each in outputs] + probs
                slopes = torch.autograd.grad(scores[0], inputs, create_graph=True)
                penalty = penalty + r1 / 2 * sum((slope**2).sum() for slope in slopes)
        taught, free = scores
        right_answers[0] += int(taught > 0)
        right_answers[1] += int(free <= 0)
        if adversary == "hinge":
            expected = expected + (1 - taught).clamp(min=0) + (1 + free).clamp(min=0)
        else:
            expected = expected - torch.sigmoid(taught).log() - (1 - torch.sigmoid(free)).log()
    assert losses.figures["discriminator_loss"][0] == pytest.approx(expected.item(), abs=1e-10)
    assert losses.figures["discriminator_accuracy.teacher"][0] == right_answers[0]
    assert losses.figures["discriminator_accuracy.free"][0] == right_answers[1]
    close(found, gradients_of(expected + penalty, judge))


def test_the_free_run_is_sampled_at_its_temperature():
    model = a_model()
    strategy = professor(model, temperature=0.2)
    losses, free = strategy.losses(model, BATCH, UPDATE), 0
    for row, own, steps in compared(model, "sample", 0.2):
        free = free - torch.sigmoid(judged(model, strategy.discriminator, row, own, steps)).log()
    close(losses.terms["free"].sum, free)


def test_the_token_loss_is_that_of_teacher_forcing():
    model = a_model()
    teacher = Teacher(StrategySettings(), Objective(label_smoothing=0.1)).losses(model, BATCH, UPDATE)
    found = professor(model).losses(model, BATCH, UPDATE)
    close(found.terms["nll"].sum, teacher.terms["nll"].sum, 0.0)
    assert found.figures["nll.teacher"] == teacher.figures["nll.teacher"]


def test_moment_matching_is_the_double_sum():
    first, second = draw(5, 3, seed=1), draw(5, 3, seed=2)
    both = [*first, *second]
    squares = sorted((a - b).square().sum().item() for i, a in enumerate(both) for j, b in enumerate(both) if i != j)
    median = squares[(len(squares) - 1) // 2]

    def kernel(a, b):
        return torch.exp(-(a - b).square().sum() / median)

    within = [sum(kernel(each[i], each[j]) for i in range(5) for j in range(5) if i != j) for each in (first, second)]
    across = sum(kernel(a, b) for a in first for b in second)
    expected = sum(within) / 20 - 2 * across / 25
    close(mmd(first, second), expected)
    found = torch.autograd.grad(mmd(first, second), [first, second])
    close(list(found), list(torch.autograd.grad(expected, [first, second])))


def test_moment_matching_of_a_model_is_that_of_its_mean_states(monkeypatch):
    model = a_model()
    strategy = professor(model, draw="argmax", adversary="mmd", teacher_too=True)
    losses = strategy.losses(model, BATCH, UPDATE)
    means = [[], []]
    for row, own, steps in compared(model):
        for kept, fed in zip(means, (BATCH.target_in_BT[row], own), strict=True):
            _, layers, _ = naive_decode(model, source_of(row), fed[:steps], masks_of(model), row)
            kept.append(sum(torch.cat(outputs) for outputs in layers) / steps)
    count = len(means[0])
    expected = count * mmd(torch.stack(means[0]), torch.stack(means[1]))
    assert (losses.terms["free"].count, losses.terms["free"].weight) == (count, 0.1)
    close(losses.terms["free"].sum, expected)
    close(gradients_of(losses.terms["free"].sum, model), gradients_of(expected, model))


def test_a_discriminator_scores_a_row_whatever_its_batch_mates():
    judge = randomise(Discriminator(2, 4, 4, None, 5))
    layers = [draw(6, 3, 4, seed=seed).detach() for seed in (1, 2)]
    context, lengths = draw(3, 4, seed=3).detach(), torch.tensor([2, 6, 4])
    together = judge(Behaviour(layers, None, context, lengths))
    for row, length in enumerate(lengths.tolist()):
        alone = [layer[:length, [row]] for layer in layers]
        close(judge(Behaviour(alone, None, context[[row]], lengths[[row]])), together[[row]])
