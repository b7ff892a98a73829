"""The attention weights of given targets, in torch and in the C library, are those that the diagnosis reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freerun.architecture import ATTENTIONS, CELLS
from freerun.models.state_reader import StateReader
from freerun.models.torch_stepper import TorchStepper
from freerun.runtime import compiled_model
from freerun.runtime.compiled_model import CompiledModel
from freerun.runtime.compiled_stepper import CompiledStepper
from freerun.search.attended import attention_weights
from freerun.search.batches import pad_sources
from freerun.symbols import BOS, source_length
from tests.compiled import KINDS, build, needs_compiler
from tests.exported import ArraysOf, feature_options, model_options
from tests.networks import network, with_features

pytestmark = needs_compiler


def attends(options):
    return options["attention"] != "none" and CELLS[options["cell"]].compiled_greedy


options = model_options().filter(attends) | feature_options().filter(attends)
models = st.tuples(options, st.integers(0, 999))
pairs = st.lists(
    st.tuples(
        st.lists(st.integers(3, 10), max_size=9).map(lambda ids: [*ids, 2]),
        st.sets(st.integers(3, 6)).map(sorted),
        st.lists(st.integers(3, 8), max_size=6),
        st.booleans(),
    ),
    min_size=1,
    max_size=9,
)
few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
KINDS_OF_MODELS = [
    {"attention": name, "bidirectional": bidirectional, "input_feeding": feeding, **with_features(features)}
    for name, spec in ATTENTIONS.items()
    for bidirectional in (False, True)
    for feeding in (False, True)
    for features in ("", "summary", "sequence", "both")
    if spec.reads_memory and not (bidirectional and spec.needs_equal_sizes) and not (feeding and not spec.feeds_input)
]
SOURCES = [[4, 5, 6, 7, 2], [7, 2], [2], [8, 9, 4, 2]]
FEATURES = [[4], [3, 5, 6], [], [6]]
TARGETS = [[4, 5, 2], [6, 6, 7, 8, 2], [2], [5, 4]]  # the last one is truncated


@pytest.fixture(params=KINDS)
def compiled(request, build, monkeypatch):
    """A function from a model to its stepper in the library, for each kind of library."""
    monkeypatch.setattr(compiled_model, "library", lambda: build(request.param))
    return lambda model, *how: CompiledStepper(CompiledModel(ArraysOf(model, *how), *how[:1]))


def made(pairs, has_features):
    """The sources with their features, and the targets, EOS last or not."""
    sources = [ids + features if has_features else ids for ids, features, _, _ in pairs]
    return sources, [[*ids, 2] if ends else ids for _, _, ids, ends in pairs]


def expected_of(model, source, target):
    """The weights of one pair alone, as the diagnosis reads them; a source alone has no padding between its entries."""
    ids, lengths = pad_sources([source])
    fed = np.array([[BOS, *target[:-1]]])
    return StateReader(model).attention(ids, lengths, fed)[0] if target else None


def check(found, model, sources, targets, tolerance):
    entries = len if model.sizes.has_feature_entries else source_length
    for weights, source, target in zip(found, sources, targets, strict=True):
        assert weights.shape == (len(target), entries(source))
        assert weights.dtype == np.float32
        assert weights.sum(1) == pytest.approx(np.ones(len(target)), abs=1e-5)
        if target:
            expected = expected_of(model, source, target)
            np.testing.assert_allclose(weights, expected[:, : weights.shape[1]], rtol=0, atol=tolerance)
            assert not expected[:, weights.shape[1] :].any()


@few
@given(model=models, pairs=pairs)
def test_weights_are_those_of_the_diagnosis(compiled, model, pairs):
    sources, targets = made(pairs, "feature_vocabulary" in model[0])
    model = network(model[1], torch.float32, **model[0])
    for stepper in (compiled(model), TorchStepper(model)):
        check(attention_weights(stepper, sources, targets), model, sources, targets, 1e-5)


@pytest.mark.parametrize("kind", KINDS_OF_MODELS, ids=str)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("int8", 0.1)])
def test_every_attention_is_that_of_the_diagnosis(compiled, kind, precision, tolerance):
    model = network(5, torch.float32, **kind)
    sources = [ids + own for ids, own in zip(SOURCES, FEATURES, strict=True)] if model.sizes.has_features else SOURCES
    check(attention_weights(compiled(model, precision), sources, TARGETS), model, sources, TARGETS, tolerance)


@few
@given(model=models, pairs=pairs, size=st.integers(1, 4))
def test_weights_are_the_same_to_the_last_bit_whatever_is_beside_them(compiled, model, pairs, size):
    sources, targets = made(pairs, "feature_vocabulary" in model[0])
    stepper = compiled(network(model[1], torch.float32, **model[0]))
    whole = attention_weights(stepper, sources, targets)
    parts = attention_weights(stepper, sources[::-1], targets[::-1], size)[::-1]
    for weights, other, source, target in zip(whole, parts, sources, targets, strict=True):
        assert np.array_equal(weights, other)
        assert np.array_equal(weights, attention_weights(stepper, [source], [target])[0])


@few
@given(model=models, pairs=pairs)
def test_rows_of_any_order_have_the_weights_of_torch_and_nothing_behind(compiled, model, pairs):
    sources, _ = made(pairs, "feature_vocabulary" in model[0])
    network_, generator = network(model[1], torch.float32, **model[0]), np.random.default_rng(0)
    steppers = compiled(network_), TorchStepper(network_)
    for each in steppers:
        each.start(*pad_sources(sources))
    entries = np.array([len(each) if network_.sizes.has_feature_entries else source_length(each) for each in sources])
    rows = np.arange(len(sources))
    for _ in range(4):
        now = int(generator.integers(1, 20))
        tokens, origins = generator.integers(0, 9, now), generator.integers(0, len(rows), now)
        rows = rows[origins]
        for each in steppers:
            each.step(tokens, origins, 1)
        found, expected = (each.attention() for each in steppers)
        assert found.shape == (now, entries.max())
        width = min(found.shape[1], expected.shape[1])
        np.testing.assert_allclose(found[:, :width], expected[:, :width], rtol=0, atol=1e-5)
        for weights in (found, expected):
            beyond = np.arange(weights.shape[1]) >= entries[rows][:, None]
            assert not weights[beyond].any()


def test_a_model_without_attention_has_no_weights(compiled):
    model = network(1, torch.float32)
    for stepper in (compiled(model), TorchStepper(model)):
        assert attention_weights(stepper, SOURCES, TARGETS) is None


def test_weights_need_a_step(compiled):
    model = network(1, torch.float32, attention="general")
    for stepper in (compiled(model), TorchStepper(model)):
        for _ in range(2):
            stepper.start(*pad_sources([[4, 2]]))
            with pytest.raises(AssertionError, match="step"):
                stepper.attention()
            stepper.step(np.array([BOS]), np.array([0]))
            assert stepper.attention().shape == (1, 2)


__all__ = ["build"]
