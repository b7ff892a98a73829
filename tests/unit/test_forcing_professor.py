"""Professor forcing: whose gradients are whose, gates, warm-up, lengths, options, state."""

from __future__ import annotations

import pytest
import torch

from freerun.config import parse_config
from freerun.errors import ConfigError
from freerun.forcing.discriminator import Behaviour, Discriminator
from freerun.forcing.professor import Professor
from freerun.forcing.registry import settings_of
from freerun.forcing.strategy import Objective
from freerun.forcing.training_batch import Update
from freerun.symbols import EOS
from tests.networks import close, draw, losses_of, network, random_rows, randomise, training_batch

SOURCES, TARGETS = random_rows([4, 1, 6, 4, 3]), random_rows([4, 6, 1, 2, 6], size=9, seed=1)
BATCH = training_batch(SOURCES, TARGETS)


def professor(model, accuracy=0.8, **settings):
    made = Professor(Professor.Settings(**{"warmup": 0, "hidden_size": 5, **settings}), Objective())
    made.prepare(model, 1)
    made.accuracy = accuracy
    return made


def run(accuracy=0.8, number=3, batch=BATCH, model=None, **settings):
    model = model or network(scale=1.2)
    strategy = professor(model, accuracy, **settings)
    return strategy, losses_of(strategy, model, batch, Update(number, 1)), model


def grads(module):
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in module.parameters()]


def passes_of(model, monkeypatch):
    """What the decoder's whole-sequence passes give from now on, one after the other."""
    passes, sequence = [], model.decoder.sequence

    def spy(*given):
        passes.append(sequence(*given))
        return passes[-1]

    monkeypatch.setattr(model.decoder, "sequence", spy)
    return passes


def test_the_discriminators_loss_gives_the_model_no_gradient():
    strategy, _, model = run()
    assert all(gradient is None for gradient in grads(model))
    assert any(gradient.abs().sum() > 0 for gradient in grads(strategy.discriminator))


def test_the_models_losses_give_the_discriminator_no_gradient():
    model = network(scale=1.2)
    strategy = professor(model, include_teacher_term=True)
    before = {name: value.clone() for name, value in strategy.state().items()}
    losses = strategy.losses(model, BATCH, Update(3, 1))
    sum(term.sum for term in losses.terms.values()).backward()
    assert all(gradient is None for gradient in grads(strategy.discriminator))
    close(strategy.state(), before, 0.0)
    assert all(parameter.requires_grad for parameter in strategy.discriminator.parameters())
    assert all(gradient is not None for gradient in grads(model.decoder))


def test_the_free_loss_leaves_the_teacher_forced_pass_alone(monkeypatch):
    model = network(scale=1.2)
    passes = passes_of(model, monkeypatch)
    losses = professor(model, include_teacher_term=True).losses(model, BATCH, Update(3, 1))
    (taught, free) = [each.layers_TBH for each in passes]
    for name, own, other in (("free", free, taught), ("teacher", taught, free)):
        found = [
            torch.autograd.grad(losses.terms[name].sum, each, retain_graph=True, allow_unused=True)
            for each in (own, other)
        ]
        assert all(gradient is not None for gradient in found[0])
        assert all(gradient is None for gradient in found[1])


def test_no_gradient_reaches_the_encoder_through_what_the_discriminator_sees_of_the_source():
    discriminator, layers = randomise(Discriminator(2, 4, 4, None, 5)), [draw(3, 2, 4), draw(3, 2, 4, seed=1)]
    model = network(scale=1.2)
    strategy = professor(model)
    encoded = model.encode(BATCH.source_BS, BATCH.source_lengths_B)
    decoded = model.decoder.sequence(BATCH.target_in_BT, encoded)
    behaviour = strategy._behaviour(model, decoded, encoded, BATCH.target_lengths_B)
    assert not behaviour.context_BC.requires_grad
    assert torch.equal(behaviour.context_BC, encoded.state.h_LBH[-1])
    first, second = (
        discriminator(Behaviour(layers, None, draw(2, 4, seed=seed), torch.tensor([3, 2]))) for seed in (2, 3)
    )
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(("accuracy", "acts"), [(0.74999, False), (0.75, True), (0.99, True), (1.0, True)])
def test_the_model_is_spared_while_the_discriminator_knows_too_little(accuracy, acts):
    _, losses, _ = run(accuracy)
    assert ("free" in losses.terms) == acts
    assert losses.metrics["model_gate_closed"] == (float(not acts), 1)


@pytest.mark.parametrize(("accuracy", "learns"), [(0.5, True), (0.99, True), (0.99001, False)])
def test_the_discriminator_is_spared_while_it_knows_too_much(accuracy, learns):
    strategy, losses, _ = run(accuracy)
    before = [parameter.detach().clone() for parameter in strategy.discriminator.parameters()]
    figures = strategy.step(Update(3, 1))
    after = list(strategy.discriminator.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) == learns
    assert figures["discriminator_gate_closed"] == (float(not learns), 1)
    assert ("discriminator_gradient_norm" in figures) == learns
    assert losses.metrics["discriminator_accuracy.free"][1] > 0  # it is measured in any case


def test_gates_can_be_moved():
    assert "free" in run(0.3, model_gate=0.2)[1].terms
    assert "free" not in run(0.8, model_gate=0.9)[1].terms
    strategy, _, _ = run(0.8, discriminator_gate=0.7)
    assert all(gradient is None for gradient in grads(strategy.discriminator))


def test_the_accuracy_is_a_moving_average_of_both_streams():
    strategy, losses, _ = run(0.8, average=0.75)
    right = [losses.metrics[f"discriminator_accuracy.{stream}"] for stream in ("teacher", "free")]
    strategy.step(Update(3, 1))
    now = (right[0][0] / right[0][1] + right[1][0] / right[1][1]) / 2
    assert strategy.accuracy == pytest.approx(0.75 * 0.8 + 0.25 * now)
    strategy.step(Update(4, 1))  # nothing was judged since
    assert strategy.accuracy == pytest.approx(0.75 * 0.8 + 0.25 * now)


def test_a_score_above_0_says_teacher_forced(monkeypatch):
    strategy = professor(network(), discriminator_gate=0.0)
    taught, free = [0.5, 0.0, -0.5, 9.0], [0.5, 0.0, -0.5, -9.0]
    monkeypatch.setattr(strategy, "discriminator", lambda _: torch.tensor([*taught, *free]))
    behaviour = Behaviour([draw(3, 4, 4)], None, draw(4, 4), torch.tensor([3, 2, 1, 0]))  # the last row has no step
    figures = strategy.own_loss((behaviour, behaviour), Update(3, 1)).metrics
    assert figures["discriminator_accuracy.teacher"] == (1, 3)
    assert figures["discriminator_accuracy.free"] == (2, 3)


def test_a_new_discriminator_is_at_chance_and_the_model_is_spared():
    strategy = Professor(Professor.Settings(), Objective())
    strategy.prepare(network(), 1)
    assert strategy.accuracy == 0.5 and not strategy.has_adversarial_term(Update(10_000, 1))


@pytest.mark.parametrize(("number", "weight"), [(2, 0.001), (501, 0.5), (1001, 1.0), (5000, 1.0)])
def test_the_weight_rises_during_the_warm_up(number, weight):
    _, losses, _ = run(number=number, weight=1.0, warmup=1000)
    assert losses.terms["free"].weight == pytest.approx(weight)


def test_without_weight_the_discriminator_only_watches():
    strategy, losses, _ = run(weight=0.0)
    assert set(losses.terms) == {"nll"}
    assert any(gradient is not None for gradient in grads(strategy.discriminator))


def test_every_weight_from_0_on_is_allowed():
    assert run(weight=5.0)[1].terms["free"].weight == 5.0


@pytest.mark.parametrize("adversary", ["logistic", "hinge"])
def test_padding_and_the_order_of_a_batch_change_nothing(adversary):
    options = {"draw": "argmax", "include_teacher_term": True, "adversary": adversary}
    strategy, together, _ = run(**options)
    gradients = grads(strategy.discriminator)
    order = [3, 0, 4, 1, 2]
    mixed_strategy, mixed, _ = run(
        **options, batch=training_batch([SOURCES[n] for n in order], [TARGETS[n] for n in order])
    )
    alone = [
        run(**options, batch=training_batch([source], [target]))
        for source, target in zip(SOURCES, TARGETS, strict=True)
    ]
    for name in ("nll", "free", "teacher"):
        parts = [losses.terms[name] for _, losses, _ in alone]
        close(together.terms[name].sum, sum(part.sum for part in parts))
        close(together.terms[name].sum, mixed.terms[name].sum)
        assert together.terms[name].count == mixed.terms[name].count == sum(part.count for part in parts)
    added = [sum(each) for each in zip(*(grads(one.discriminator) for one, _, _ in alone), strict=True)]
    close(gradients, added)
    close(gradients, grads(mixed_strategy.discriminator))


def test_a_target_of_eos_alone_is_not_compared():
    _, losses, _ = run(batch=training_batch([[5, EOS]], [[EOS]]), include_teacher_term=True)
    assert losses.terms["free"].count == losses.terms["teacher"].count == 0
    assert losses.terms["free"].sum.item() == 0.0
    assert losses.metrics["discriminator_loss"] == (0.0, 0)


def test_a_run_that_writes_eos_at_once_is_not_compared():
    model = network()
    with torch.no_grad():
        model.decoder.output_bias[EOS] = 99.0
    strategy, losses, _ = run(model=model)
    assert losses.terms["free"].count == 0
    assert strategy.step(Update(3, 1)) == {"discriminator_gate_closed": (0.0, 1.0)}


def test_a_shrunken_or_stretched_state_is_scored_the_same():
    discriminator = randomise(Discriminator(2, 4, 4, None, 5), scale=2.0)
    layers, context, lengths = [draw(5, 2, 4, seed=seed) for seed in (1, 2)], draw(2, 4), torch.tensor([5, 3])
    scores = discriminator(Behaviour(layers, None, context, lengths))
    close(discriminator(Behaviour([0.2 * layer for layer in layers], None, context, lengths)), scores, 0.02)
    assert not torch.allclose(
        discriminator(Behaviour([-layer for layer in layers], None, context, lengths)), scores, atol=0.05
    )


@pytest.mark.parametrize(("outputs", "seen"), [("auto", True), (True, True), (False, False)])
def test_output_distributions_are_seen_where_the_vocabulary_is_small(outputs, seen):
    assert (run(outputs=outputs)[0].discriminator.outputs is not None) == seen


def test_output_distributions_of_a_large_vocabulary_are_left_out(monkeypatch):
    monkeypatch.setattr("freerun.forcing.professor.SMALL_VOCABULARY", 8)
    assert run()[0].discriminator.outputs is None
    assert run(outputs=True)[0].discriminator.outputs is not None


def test_spectral_norms_are_bounded_and_repeat_whatever_torch_drew_before():
    torch.manual_seed(1)
    one, _, _ = run(spectral_norm=True)
    torch.rand(7)
    two, _, _ = run(spectral_norm=True)
    close(one.discriminator.state_dict(), two.discriminator.state_dict(), 0.0)
    for number in range(30):
        losses_of(one, network(scale=1.2), BATCH, Update(number + 1, 1))
    norms = [torch.linalg.matrix_norm(layer.weight, 2).item() for layer in list(one.discriminator.mlp)[::2]]
    assert norms == pytest.approx([1.0] * 3, abs=0.05)


def test_singular_vectors_follow_the_weights_and_not_the_passes():
    strategy, _, _ = run(spectral_norm=True)
    discriminator = strategy.discriminator

    def norms():
        return [torch.linalg.matrix_norm(layer.weight, 2).item() for layer in list(discriminator.mlp)[::2]]

    before = {name: value.clone() for name, value in discriminator.named_buffers()}
    losses_of(strategy, network(scale=1.2), BATCH, Update(2, 1))
    close(dict(discriminator.named_buffers()), before, 0.0)
    with torch.no_grad():
        for name, parameter in discriminator.named_parameters():
            if "original" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    assert norms() != pytest.approx([1.0] * 3, abs=0.2)
    for number in range(200):
        losses_of(strategy, network(scale=1.2), BATCH, Update(number + 3, 1))
        strategy.step(Update(number + 3, 1))
    assert norms() == pytest.approx([1.0] * 3, abs=0.05)


def test_first_singular_vectors_come_from_the_seed_and_the_layer():
    def vectors(seed, spoiled=0):
        torch.manual_seed(spoiled)
        discriminator = Discriminator(2, 4, 4, 9, 16).double()
        with torch.no_grad():
            for parameter in discriminator.parameters():
                if parameter.dim() == 2:  # all directions are singular, so the first estimate stays
                    parameter.copy_(torch.eye(*parameter.shape))
        before = torch.get_rng_state()
        discriminator.bound_spectra(seed)
        assert torch.get_rng_state().equal(before)
        return {name: value for name, value in discriminator.named_buffers() if name.endswith("_v")}

    found, other = vectors(1), vectors(2)
    close(found, vectors(1, spoiled=5), 0.0)
    assert len(found) == 6
    assert not any(found[name].equal(other[name]) for name in found if len(found[name]) > 1)
    # the ratio of the first two entries does not depend on how many there are, nor on the norm
    assert len({round((values[1] / values[0]).item(), 4) for values in found.values()}) == 6
    assert all(values.norm().item() == pytest.approx(1.0) for values in found.values())


def test_the_discriminator_learns_to_tell_the_streams_apart():
    batch = training_batch(random_rows([4] * 50), random_rows([7] * 50, size=9, seed=1))
    model, found = network(scale=1.2), []
    with torch.no_grad():
        model.decoder.output_bias[[EOS, 5]] = torch.tensor([-9.0, 3.0]).double()  # it writes one token over and over
    strategy = professor(model, 0.5, hidden_size=16, learning_rate=0.01)
    for number in range(1, 41):
        figures = losses_of(strategy, model, batch, Update(number, 1)).metrics
        found.append(figures["discriminator_loss"][0] / figures["discriminator_loss"][1])
        strategy.step(Update(number, 1))
    assert sum(found[-10:]) < 0.8 * sum(found[:10])
    assert strategy.accuracy > 0.75


@pytest.mark.parametrize("spectral", [False, True])
def test_a_strategy_goes_on_from_its_state_bit_by_bit(spectral):
    model = network(scale=1.2)
    one, other = (professor(model, spectral_norm=spectral) for _ in range(2))
    for number in (1, 2, 3):
        losses_of(one, model, BATCH, Update(number, 1))
        one.step(Update(number, 1))
    other.load({name: value.clone() for name, value in one.state().items()})
    for each in (one, other):
        losses_of(each, model, BATCH, Update(4, 1))
        each.step(Update(4, 1))
    assert one.state().keys() == other.state().keys()
    close(one.state(), other.state(), 0.0)
    assert one.accuracy == other.accuracy


def test_a_discriminator_whose_gradient_is_no_number_is_left_as_it_was():
    strategy, _, _ = run()
    before = {name: value.clone() for name, value in strategy.discriminator.state_dict().items()}
    next(strategy.discriminator.parameters()).grad.fill_(float("inf"))
    norm, _ = strategy.step(Update(3, 1))["discriminator_gradient_norm"]
    assert not norm < float("inf")
    close(strategy.discriminator.state_dict(), before, 0.0)


def test_the_discriminators_gradient_is_a_mean_over_sequences():
    strategy, losses, _ = run()
    norm = torch.cat([gradient.flatten() for gradient in grads(strategy.discriminator) if gradient is not None]).norm()
    rows = losses.metrics["discriminator_loss"][1]
    assert rows > 1
    assert strategy.step(Update(3, 1))["discriminator_gradient_norm"] == (pytest.approx(norm.item() / rows), 1)


@pytest.mark.parametrize(("scale", "norm"), [(1e-3, None), (1e3, 1.0)])
def test_the_discriminators_gradient_is_clipped_at_1(scale, norm):
    strategy, _, _ = run()
    for parameter in strategy.discriminator.parameters():
        parameter.grad = None if parameter.grad is None else scale * parameter.grad
    told, _ = strategy.step(Update(3, 1))["discriminator_gradient_norm"]  # before clipping
    means = [value.flatten() for name, value in strategy.state().items() if name.endswith("/exp_avg")]
    assert torch.cat(means).norm().item() == pytest.approx(0.1 * (norm or told), rel=1e-4)  # Adam's first step
    assert (told > 1) == (norm is not None)


@pytest.mark.parametrize("include_teacher_term", [False, True])
def test_moments_move_the_teacher_forced_pass_only_where_that_is_asked_for(monkeypatch, include_teacher_term):
    model = network(scale=1.2)
    passes = passes_of(model, monkeypatch)
    losses = professor(model, adversary="mmd", include_teacher_term=include_teacher_term).losses(
        model, BATCH, Update(3, 1)
    )
    taught, free = passes
    for each, moved in ((free, True), (taught, include_teacher_term)):
        found = torch.autograd.grad(losses.terms["free"].sum, each.layers_TBH, retain_graph=True, allow_unused=True)
        assert all((gradient is not None) == moved for gradient in found)


def test_a_batch_with_one_row_to_compare_has_no_moments():
    _, losses, _ = run(adversary="mmd", batch=training_batch(SOURCES[:1], TARGETS[:1]))
    assert losses.terms["free"].sum.item() == 0.0
    assert "model_gate_closed" not in losses.metrics


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -0.1}, "forcing.weight: the value is -0.1. Expected a number from 0 to 1e+38."),
        ({"model_gate": 1.5}, "forcing.model_gate: the value is 1.5"),
        ({"average": 1.0}, "forcing.average: the value is 1.0"),
        ({"adversary": "wasserstein"}, 'forcing.adversary: the value is "wasserstein"'),
        ({"r1": -1.0}, "forcing.r1: the value is -1.0"),
        ({"hidden_size": 0}, "forcing.hidden_size: the value is 0"),
        ({"outputs": "yes"}, 'forcing.outputs: the value is "yes"'),
    ],
)
def test_bad_settings_are_told_before_training(settings, message):
    raw = {"data": {"train": "x"}, "forcing": {"strategy": "professor", **settings}}
    with pytest.raises(ConfigError) as error:
        parse_config(raw, "c.toml", settings_of)
    assert message in "\n".join(map(str, error.value.problems))
