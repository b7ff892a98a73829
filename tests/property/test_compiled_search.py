"""Every search in the compiled library finds what torch finds; a beam search in one call is that of its steps."""

from __future__ import annotations

import gc
from itertools import zip_longest

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freerun.architecture import CELLS
from freerun.models.torch_stepper import TorchStepper
from freerun.runtime import compiled_model
from freerun.runtime.compiled_beam import CompiledBeam
from freerun.runtime.compiled_greedy import CompiledGreedy
from freerun.runtime.compiled_model import CompiledModel
from freerun.runtime.compiled_stepper import CompiledStepper
from freerun.search.batches import pad_sources
from freerun.search.beam import beam_search
from freerun.search.forced_scoring import score_targets
from freerun.search.methods import Beam, Sampling
from freerun.search.sampling import sample
from tests.compiled import KINDS, build, needs_compiler
from tests.exported import ArraysOf, feature_options, model_options
from tests.networks import network

pytestmark = needs_compiler

compiled_cells = model_options().filter(lambda each: CELLS[each["cell"]].compiled_greedy)
options = compiled_cells | feature_options().filter(lambda each: CELLS[each["cell"]].compiled_greedy)
models = st.tuples(options, st.integers(0, 999))
ids = st.lists(st.integers(3, 10), max_size=9).map(lambda ids: [*ids, 2])
rows = st.lists(ids, min_size=1, max_size=12)
features = st.lists(st.sets(st.integers(3, 6)).map(sorted), min_size=12, max_size=12)
bounds = st.lists(st.integers(0, 9), min_size=12, max_size=12)
few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def beams(draw):
    beam_size = draw(st.integers(2, 8))
    penalty = draw(st.sampled_from([0.0, 0.6, 1.0, -1.0, 4.0]))
    return Beam(beam_size, draw(st.integers(1, beam_size + 2)), penalty, draw(st.booleans()))


@pytest.fixture(params=KINDS)
def compiled(request, build, monkeypatch):
    """A function from a model to itself in the library, for each kind of library."""
    monkeypatch.setattr(compiled_model, "library", lambda: build(request.param))
    return lambda model, *how: CompiledModel(ArraysOf(model, *how), *how[:1])


def made(model):
    return network(model[1], torch.float32, scale=1.2, **model[0])


def with_features(model, source, features):
    given = features[: len(source)] if "feature_vocabulary" in model[0] else []
    return [one + other for one, other in zip_longest(source, given, fillvalue=[])]


def equal(found, expected):
    """Fail unless everything is equal but the last bit of a rank: NumPy's powers are not those of C."""
    for one, other in zip(found, expected, strict=True):
        assert [(h.ids, h.score, h.token_scores, h.truncated) for h in one] == [
            (h.ids, h.score, h.token_scores, h.truncated) for h in other
        ]
        assert [h.rank_score for h in one] == pytest.approx([h.rank_score for h in other], rel=1e-14)


@few
@given(model=models, source=rows, bounds=bounds, features=features, beam=beams())
def test_a_beam_search_in_one_call_is_that_of_its_steps(compiled, model, source, bounds, features, beam):
    found, source = compiled(made(model)), with_features(model, source, features)
    bounds = bounds[: len(source)]
    expected = beam_search(CompiledStepper(found), *pad_sources(source), beam, max_lengths=np.array(bounds))
    equal(CompiledBeam(found)(source, bounds, beam), expected)
    equal(CompiledBeam(found, threads=2)(source * 3, bounds * 3, beam), expected * 3)


@few
@given(model=models, source=rows, features=features)
def test_its_steps_are_those_of_torch(compiled, model, source, features):
    network, source = made(model), with_features(model, source, features)
    generator = np.random.default_rng(0)
    stepper, torch_stepper = CompiledStepper(compiled(network)), TorchStepper(network)
    for each in (stepper, torch_stepper):
        each.start(*pad_sources(source))
    before = len(source)
    for _ in range(4):
        now = int(generator.integers(1, 20))
        tokens, origins = generator.integers(0, 9, now), generator.integers(0, before, now)
        found, expected = (each.step(tokens, origins, None, [5])[1] for each in (stepper, torch_stepper))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        wanted = generator.integers(0, 9, now)
        np.testing.assert_allclose(stepper.log_prob_of(wanted), torch_stepper.log_prob_of(wanted), rtol=0, atol=1e-4)
        before = now


@few
@given(model=models, source=rows, features=features, k=st.integers(1, 9))
def test_the_best_tokens_are_found_in_the_library(compiled, model, source, features, k):
    stepper, source = CompiledStepper(compiled(made(model))), with_features(model, source, features)
    tokens, origins = np.ones(len(source), np.int64), np.arange(len(source))
    found = []
    for banned in ([0, 1, 3], [3, 0, 1, 1, 0]):  # the second list is the same set
        stepper.start(*pad_sources(source))
        found.append(stepper.step(tokens, origins, k, banned))
    stepper.start(*pad_sources(source))
    _, every = stepper.step(tokens, origins, None, [0, 1, 3])
    order = np.argsort(-every, axis=1, kind="stable")[:, : min(k, 6)]
    for ids, values in found:
        assert np.array_equal(ids, order)
        assert np.array_equal(values, np.take_along_axis(every, order, 1))


@few
@given(model=models, source=rows, bounds=bounds)
def test_greedy_search_is_that_of_its_steps(compiled, model, source, bounds):
    found, source = compiled(made(model)), with_features(model, source, [[]] * 12)
    bounds = bounds[: len(source)]
    expected = beam_search(CompiledStepper(found), *pad_sources(source), max_lengths=np.array(bounds))
    for one, (other,) in zip(CompiledGreedy(found)(source, bounds), expected, strict=True):
        assert (one.ids, one.truncated) == (other.ids, other.truncated)
        assert one.token_scores == other.token_scores


@pytest.mark.parametrize("beam", [Beam(2, 2), Beam(5, 3, 0.6), Beam(7, 7, -1.0, early_stop=True)])
def test_equal_scores_go_to_the_lowest_token_and_then_to_the_better_parent(compiled, beam):
    model = network(1, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found, source = compiled(model), [[4, 5, 2], [6, 2]]
    expected = beam_search(CompiledStepper(found), *pad_sources(source), beam, max_lengths=np.array([4, 3]))
    equal(CompiledBeam(found)(source, [4, 3], beam), expected)


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("penalty", [4.0, 2.0, 0.6, -1.0])
def test_a_beam_search_ends_when_its_steps_do_where_long_outputs_are_better(compiled, penalty, number, early_stop):
    """Every step has the same probabilities, so a large penalty favours the longest output, unless it stops early."""
    model, source = network(1, torch.float32), [[4, 5, 2], [6, 2]]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.zero_()
            if name == "decoder.output_bias":
                parameter[2:] = torch.tensor([1.0, 0, 0.6, 0.59, 0.1, 0, -0.1])
    found, beam = compiled(model), Beam(3, number, penalty, early_stop)
    expected = beam_search(CompiledStepper(found), *pad_sources(source), beam, max_lengths=np.array([80, 60]))
    lengths = [len(each[0].ids) for each in expected]
    assert lengths == [80, 60] if penalty >= 2 and not early_stop else max(lengths) < 20
    equal(CompiledBeam(found)(source, [80, 60], beam), expected)


def test_samples_and_scores_are_those_of_torch(compiled):
    model = network(3, torch.float32, attention="bahdanau", bidirectional=True)
    source = [[4, 5, 2], [6, 2], [7, 8, 9, 2]]
    ids, lengths = pad_sources(source)
    steppers = CompiledStepper(compiled(model)), TorchStepper(model)
    found, expected = (
        sample(each, ids, lengths, Sampling(num_hypotheses=4, seed=1), max_lengths=np.array([6, 6, 6]))
        for each in steppers
    )
    assert [[h.ids for h in each] for each in found] == [[h.ids for h in each] for each in expected]
    targets = [[4, 5, 2], [2], [6, 6, 6, 2]]
    one, other = (score_targets(each, ids, lengths, targets).log_probs for each in steppers)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["dot", "general", "concat"])
def test_scores_of_any_size_are_compared(compiled, attention):
    """Far beyond what an exponential can hold; the highest one still has all the weight."""
    model = network(2, torch.float32, scale=6.0, attention=attention, hidden_size=130)
    source = [[4, 5, 6, 2], [7, 2], [8, 9, 4, 4, 2]]
    steppers = CompiledStepper(compiled(model)), TorchStepper(model)
    for each in steppers:
        each.start(*pad_sources(source))
    found, expected = (each.step(np.array([1, 1, 1]), np.arange(3))[1] for each in steppers)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=0.05)


@pytest.mark.parametrize("banned", [[], [5], [0, 1], [0, 1, 2, 3], [0, 1, 3, 4, 5, 6, 7, 8]])
@pytest.mark.parametrize("k", [1, 3, 20])
def test_other_tokens_may_be_banned(compiled, banned, k):
    model = network(4, torch.float32, attention="general")
    steppers = CompiledStepper(compiled(model)), TorchStepper(model)
    for each in steppers:
        each.start(*pad_sources([[4, 5, 2], [6, 2]]))
    found, expected = (each.step(np.array([1, 1]), np.arange(2), k, banned) for each in steppers)
    assert np.array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-5)


def test_probabilities_are_of_the_search_at_hand(compiled):
    stepper = CompiledStepper(compiled(network(1, torch.float32)))
    stepper.start(np.array([[4, 2]]), np.array([2]))
    stepper.step(np.array([1]), np.array([0]))
    stepper.start(np.array([[5, 2]]), np.array([2]))
    with pytest.raises(AssertionError, match="step"):
        stepper.log_prob_of(np.array([4]))


class Counting:
    """A library that counts what it has made and what was freed."""

    def __init__(self, library):
        self._library, self.live = library, 0

    def __getattr__(self, name):
        return getattr(self._library, name)

    def freerun_start(self, *arguments):
        self.live += 1
        return self._library.freerun_start(*arguments)

    def freerun_end(self, steps):
        self.live -= steps.value is not None
        self._library.freerun_end(steps)

    def freerun_beam_search(self, *arguments):
        self.live += 1
        return self._library.freerun_beam_search(*arguments)

    def freerun_release(self, outputs):
        self.live -= 1
        self._library.freerun_release(outputs)


def test_what_the_library_has_made_is_freed(compiled):
    model = compiled(network(1, torch.float32))
    model.library = Counting(model.library)
    stepper = CompiledStepper(model)
    for _ in range(3):
        stepper.start(np.array([[4, 2]]), np.array([2]))
        assert model.library.live == 1
    del stepper
    gc.collect()
    assert model.library.live == 0
    CompiledBeam(model)([[4, 2]], [3], Beam(2))
    with pytest.raises(ValueError, match="a source is empty"):
        CompiledBeam(model)([[4, 2], []], [3, 3], Beam(2))
    assert model.library.live == 0


def test_what_does_not_exist_is_an_error(compiled):
    stepper = CompiledStepper(compiled(network(1, torch.float32)))
    with pytest.raises(ValueError, match="a source is empty, or has an id outside the source vocabulary"):
        stepper.start(np.array([[11, 2]]), np.array([2]))
    with pytest.raises(AssertionError, match="start"):  # nothing is left of the failed one
        stepper.step(np.array([1]), np.array([0]))
    stepper.start(np.array([[4, 2]]), np.array([2]))
    for tokens, origins in (([9], [0]), ([-1], [0]), ([1], [1]), ([1], [-1])):
        with pytest.raises(
            ValueError, match="a token outside the target vocabulary, or a row that the step before did"
        ):
            stepper.step(np.array(tokens), np.array(origins))
    assert len(stepper.step(np.array([1]), np.array([0]), 2, [0, 1, 3])[0][0]) == 2
    del stepper
    gc.collect()


__all__ = ["build"]
