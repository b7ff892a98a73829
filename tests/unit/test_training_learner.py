"""One update: what the gradients are divided by, clipping, accumulation, and that a bad loss changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from freerun.data.batching import make_batch
from freerun.forcing.loss import Losses, OwnLoss, Term
from freerun.forcing.strategy import Objective, Strategy, StrategySettings
from freerun.forcing.teacher import Teacher
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.training.learner import Learner, MemoryFull, NotFinite
from tests.networks import close, corpus, gradients_of, network, random_rows

LENGTHS = [3, 5, 2, 4, 6, 1, 2, 5]
PAIRS = corpus(random_rows(LENGTHS), random_rows(LENGTHS[::-1], size=9, seed=1))


def batches(parts=1, pairs=PAIRS):
    return [make_batch(pairs, rows) for rows in np.array_split(np.arange(len(pairs)), parts)]


def learner(strategy=None, rate=1.0, clip_norm=0.0, schedule=lambda update: 1.0, normalise="tokens", **options):
    model = network(**options)
    strategy = strategy or Teacher(StrategySettings(), Objective(0.1, normalise))
    return Learner(
        model=model,
        strategy=strategy,
        optimizer=torch.optim.SGD(model.parameters(), lr=rate),
        schedule=schedule,
        seed=7,
        clip_norm=clip_norm,
    )


def step_of(a_learner, parts=1, number=1):
    """The change of each weight, with plain SGD at rate 1: minus the gradient."""
    before = {name: value.detach().clone() for name, value in a_learner.model.named_parameters()}
    step = a_learner.update(number, batches(parts))
    return {name: before[name] - value.detach() for name, value in a_learner.model.named_parameters()}, step


class TwoTerms(Strategy):
    """Token NLL, and squared logits of the last position counted by something else: each term has its own count."""

    def losses(self, model, batch, update):
        features = model(batch.source_BS, batch.source_lengths_B, batch.target_in_BT)
        logits = model.decoder.logits(batch.at_real_positions(features))
        nll = torch.nn.functional.cross_entropy(logits, batch.target_N, reduction="sum")
        terms = {"nll": Term(nll, batch.num_tokens), "size": Term(logits.square().sum(), 3 * batch.num_pairs, 0.25)}
        return Losses(terms, {"tokens": (batch.num_tokens, batch.num_pairs)})


class OneTerm(TwoTerms):
    """One term with a weight; notes whether there were gradients already when each part came."""

    def losses(self, model, batch, update):
        self.found = [*getattr(self, "found", []), model.decoder.output_bias.grad is not None]
        return Losses({"size": super().losses(model, batch, update).terms["size"]})


class Scaled(Strategy):
    """A loss that is ``number`` times a sum of weights, plus a constant."""

    def __init__(self, number, plus=0.0):
        super().__init__(StrategySettings(), Objective())
        self.number, self.plus = number, plus

    def losses(self, model, batch, update):
        return Losses({"sum": Term(self.number * model.decoder.output_bias.sum() + self.plus, 1)})


@pytest.mark.parametrize("kind", [None, OneTerm, TwoTerms])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulated_batches_make_the_update_of_one_big_batch(kind, parts):
    strategy = kind and kind(StrategySettings(), Objective())
    whole, one = step_of(learner(strategy))
    pieces, several = step_of(learner(strategy), parts)
    close(pieces, whole, 1e-12)
    assert several.loss == pytest.approx(one.loss, abs=1e-12)
    assert several.gradient_norm == pytest.approx(one.gradient_norm, abs=1e-12)
    assert len(several.metrics) == parts


def test_the_graphs_of_a_single_term_are_not_kept_until_the_end():
    strategy = OneTerm(StrategySettings(), Objective())
    step_of(learner(strategy), 3)
    assert strategy.found == [False, True, True]


@pytest.mark.parametrize(("normalise", "count"), [("tokens", sum(LENGTHS)), ("sequences", len(LENGTHS))])
@pytest.mark.parametrize("parts", [1, 4])
def test_the_loss_is_divided_once_by_tokens_or_by_sequences(normalise, count, parts):
    _, step = step_of(learner(normalise=normalise), parts)
    by_tokens, _ = step_of(learner(), 1)
    nll = sum(figures["nll.teacher"][0] for figures in step.metrics)
    assert sum(figures["nll.teacher"][1] for figures in step.metrics) == sum(LENGTHS)
    change, _ = step_of(learner(normalise=normalise), parts)
    close(change, {name: value * sum(LENGTHS) / count for name, value in by_tokens.items()}, 1e-12)
    assert step.loss * count == pytest.approx(nll, rel=0.2)  # apart from label smoothing


def test_terms_are_weighted():
    weights, _ = step_of(learner(TwoTerms(StrategySettings(), Objective())))
    model = network()
    batch = batches()[0]
    features = model(torch.tensor(batch.source), torch.tensor(batch.source_lengths), torch.tensor(batch.target_in))
    real = torch.arange(features.shape[0])[:, None] < torch.tensor(batch.target_lengths)
    logits = model.decoder.logits(features)[real]
    right = torch.tensor(batch.target_out).t()[real]
    loss = torch.nn.functional.cross_entropy(logits, right) + 0.25 * logits.square().sum() / (3 * len(LENGTHS))
    close(weights["decoder.output_bias"], torch.autograd.grad(loss, model.decoder.output_bias)[0], 1e-12)


def test_a_norm_above_the_limit_is_brought_down_to_it():
    free, step = step_of(learner())
    clipped, told = step_of(learner(clip_norm=step.gradient_norm / 4))
    assert told.gradient_norm == step.gradient_norm  # as it was before clipping
    close(clipped, {name: value / 4 for name, value in free.items()}, 1e-6)


def test_a_norm_below_the_limit_is_left_alone():
    free, step = step_of(learner())
    unclipped, _ = step_of(learner(clip_norm=step.gradient_norm * 1.01))
    close(unclipped, free, 0.0)


def test_the_norm_is_that_of_all_gradients_together():
    free, step = step_of(learner())
    assert step.gradient_norm == pytest.approx(math.sqrt(sum(value.square().sum() for value in free.values())), 1e-12)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, 1.0])
def test_a_loss_that_is_not_finite_stops_before_the_update(scale):
    bad = learner(Scaled(scale, plus=math.inf), clip_norm=1.0)  # at scale 1 the gradients are finite
    before = {name: value.detach().clone() for name, value in bad.model.named_parameters()}
    with pytest.raises(NotFinite) as error:
        bad.update(1, batches())
    assert str(error.value.loss) in ("nan", "inf", "-inf")
    assert not math.isfinite(error.value.loss)
    close(dict(bad.model.named_parameters()), before, 0.0)


def test_a_gradient_that_is_not_finite_stops_too():
    class Root(Strategy):
        def losses(self, model, batch, update):
            bias = model.decoder.output_bias
            return Losses({"root": Term((bias - bias.detach()).abs().sqrt().sum(), 1)})

    bad = learner(Root(StrategySettings(), Objective()))
    before = bad.model.decoder.output_bias.detach().clone()
    with pytest.raises(NotFinite) as error:
        bad.update(1, batches())
    assert error.value.loss == 0.0
    assert math.isnan(error.value.gradient_norm)
    close(bad.model.decoder.output_bias.detach(), before, 0.0)


def test_the_schedule_scales_the_rate_of_its_own_update():
    halved = learner(Scaled(1.0), rate=0.5, schedule=lambda update: 1 / update)
    for number in (1, 2, 4):
        change, _ = step_of(halved, number=number)
        close(change["decoder.output_bias"], torch.full((9,), 0.5 / number, dtype=torch.float64), 1e-12)
        assert halved.learning_rate == 0.5 / number


def test_gradients_of_an_earlier_update_do_not_come_in():
    twice = learner(Scaled(1.0))
    step_of(twice)
    change, _ = step_of(twice, number=2)
    close(change["decoder.output_bias"], torch.ones(9, dtype=torch.float64), 1e-12)


def test_dropout_masks_belong_to_seed_update_and_part():
    def losses(number, parts=1):
        return learner(dropout=0.5).update(number, batches(parts))

    assert losses(1).loss == losses(1).loss
    assert losses(1).loss != losses(2).loss
    same = [batches()[0]] * 2
    first, second = learner(dropout=0.5).update(1, same).metrics
    assert first["nll.teacher"] != second["nll.teacher"]


def test_a_learner_goes_on_from_its_state_bit_by_bit():
    one, other = learner(dropout=0.3), learner(dropout=0.3, seed=5)
    for each in (one, other):
        each.optimizer = torch.optim.Adam(each.model.parameters(), lr=0.01)
    one.update(1, batches(2))
    other.load(*({name: value.clone() for name, value in each.items()} for each in one.state()), update=1)
    close(step_of(other, 2, 2)[0], step_of(one, 2, 2)[0], 0.0)


def test_the_learning_rate_is_that_of_the_update_gone_on_from():
    early = learner(rate=0.5, schedule=lambda update: 1 / update)
    early.load(early.state()[0], {}, {}, update=5)
    assert early.learning_rate == 0.1
    early.load(early.state()[0], {}, {}, update=0)
    assert early.learning_rate == 0.5


def test_a_state_of_another_model_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        learner().load(network(hidden_size=5).state_dict(), {}, {}, 1)


class Counting(Teacher):
    """Counts its own steps, and may tell a figure that is not finite."""

    told = 2.0

    def prepare(self, model, seed):
        self.steps = 0
        self.seed = seed

    def step(self, update):
        self.steps += 1
        return {"own": (self.told, 1)}

    def state(self):
        return {"steps": torch.tensor(self.steps)}

    def load(self, state):
        self.steps = state["steps"].item()


def test_a_strategy_learns_once_an_update_and_is_kept():
    one = learner(Counting(StrategySettings(), Objective()))
    assert one.strategy.seed == 7
    assert one.update(1, batches(3)).metrics[-1] == {"own": (2.0, 1)}
    one.update(2, batches(2))
    assert one.state()[2] == {"steps": 2}
    other = learner(Counting(StrategySettings(), Objective()))
    other.load(*one.state(), update=2)
    assert other.strategy.steps == 2


def test_a_strategy_is_told_how_much_of_the_data_was_seen():
    class Watching(Teacher):
        def losses(self, model, batch, update):
            seen.append((update.number, update.part, update.epoch))
            return super().losses(model, batch, update)

    seen, one = [], learner(Watching(StrategySettings(), Objective()))
    one.update(1, batches())
    one.updates_per_epoch = 2.5
    one.update(6, batches(2))
    assert seen == [(1, 0, 0.0), (6, 0, 2.0), (6, 1, 2.0)]


def test_a_strategy_without_a_state_refuses_one():
    with pytest.raises(KeyError, match=r"Teacher has no state, the checkpoint has steps"):
        learner().load(*learner().state()[:2], {"steps": torch.tensor(1)}, 1)


def test_what_a_strategy_learns_by_must_be_finite_too():
    one = learner(Counting(StrategySettings(), Objective()))
    one.strategy.told = math.inf
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    with pytest.raises(NotFinite) as error:
        one.update(1, batches())
    assert error.value.others == {"own": math.inf}
    close(one.model.state_dict(), before, 0.0)


def test_a_strategy_learns_nothing_from_an_update_that_is_not_made():
    class Infinite(Counting):
        def losses(self, model, batch, update):
            return Losses({"sum": Term(model.decoder.output_bias.sum() * math.inf, 1)})

    one = learner(Infinite(StrategySettings(), Objective()))
    with pytest.raises(NotFinite):
        one.update(1, batches())
    assert one.strategy.steps == 0


@pytest.mark.parametrize("parts", [1, 3])
def test_the_gradients_of_several_terms_are_compared_now_and_then(parts):
    strategy = TwoTerms(StrategySettings(), Objective())
    plain, _ = step_of(learner(strategy), parts, number=49)
    compared, step = step_of(learner(strategy), parts, number=50)
    close(compared, plain, 1e-12)
    model, batch = network(), TrainingBatch.of(make_batch(PAIRS, np.arange(len(PAIRS))))
    terms = strategy.losses(model, batch, Update(1, 1)).terms
    one, other = (
        torch.cat([value.flatten() for value in gradients_of(terms[name].sum, model).values()])
        for name in ("nll", "size")
    )
    expected = torch.cosine_similarity(one, other, dim=0).item()
    assert step.metrics[-1] == {"gradient_cosine": (pytest.approx(expected, abs=1e-12), 1)}
    assert "gradient_cosine" not in learner(strategy).update(49, batches(parts)).metrics[-1]


def test_parts_with_different_terms_are_a_mistake_of_the_strategy():
    class Moody(Strategy):
        def losses(self, model, batch, update):
            return Losses({f"term {update.part}": Term(model.decoder.output_bias.sum(), 1)})

    with pytest.raises(AssertionError, match="the same terms"):
        learner(Moody(StrategySettings(), Objective())).update(1, batches(2))


def test_a_term_without_anything_to_count_adds_nothing():
    class Empty(Strategy):
        def losses(self, model, batch, update):
            total = model.decoder.output_bias.sum()
            return Losses({"some": Term(total, 2), "none": Term(0.0 * total, 0)})

    change, step = step_of(learner(Empty(StrategySettings(), Objective())))
    close(change["decoder.output_bias"], torch.full((9,), 0.5, dtype=torch.float64), 1e-12)
    assert math.isfinite(step.loss)


class WithParameters(TwoTerms):
    """Has one parameter of its own; records what the learner does, in order."""

    def prepare(self, model, seed):
        self.parameter = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.calls = []

    def losses(self, model, batch, update):
        self.calls.append(("losses", update.part))
        losses = super().losses(model, batch, update)
        return Losses(losses.terms, losses.metrics, own_inputs=float(batch.num_pairs))

    def own_loss(self, inputs, update):
        self.calls.append(("own_loss", update.part, inputs, torch.is_autocast_enabled("cpu")))
        loss = inputs * self.parameter if self.learns else None
        return OwnLoss(loss, {"own": (inputs, 1)})

    def step(self, update):
        self.calls.append(("step", self.parameter.grad))
        return {}

    learns = True


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_own_losses_of_all_batches_are_backpropagated_before_the_step(precision):
    strategy = WithParameters(StrategySettings(), Objective())
    teacher = learner(strategy)
    teacher.model.float()  # autocast takes no double
    teacher.precision = precision
    step = teacher.update(1, batches(3))
    *calls, (name, gradient) = strategy.calls
    assert calls == [
        call
        for part, pairs in enumerate((3.0, 3.0, 2.0))
        for call in (("losses", part), ("own_loss", part, pairs, False))
    ]
    assert (name, gradient.item()) == ("step", 8.0)
    assert [figures["own"] for figures in step.metrics[:3]] == [(3.0, 1), (3.0, 1), (2.0, 1)]
    assert all("tokens" in figures for figures in step.metrics[:3])


def test_a_strategy_that_does_not_learn_in_an_update_gives_figures_only():
    strategy = WithParameters(StrategySettings(), Objective())
    strategy.learns = False
    step = learner(strategy).update(1, batches(1))
    assert strategy.calls[-1] == ("step", None)
    assert step.metrics[0]["own"] == (8.0, 1)


def test_an_update_without_memory_changes_nothing(monkeypatch):
    a_learner = learner()
    before = {name: value.clone() for name, value in a_learner.model.state_dict().items()}

    class Full(OneTerm):
        def losses(self, model, batch, update):
            losses = super().losses(model, batch, update)
            if update.part == 1:  # the first part has left gradients
                raise torch.OutOfMemoryError("no memory")
            return losses

    a_learner.strategy = Full(StrategySettings(), Objective())
    with pytest.raises(MemoryFull, match="no memory"):
        a_learner.update(1, batches(2))
    close(a_learner.model.state_dict(), before, 0)
    assert all(parameter.grad is None for parameter in a_learner.model.parameters())
