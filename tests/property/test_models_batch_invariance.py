"""A prediction does not depend on batch-mates, order or padding."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from freerun.models.torch_stepper import TorchStepper
from freerun.search.batches import pad_sources
from freerun.search.forced_scoring import score_targets
from freerun.symbols import EOS
from tests.networks import network, random_features, with_features
from tests.searching import beam_search
from tests.steppers import bounds

SOURCES = st.lists(st.lists(st.integers(3, 10), max_size=7), min_size=1, max_size=6)
MODELS = {
    "lstm": {},
    "gru": {"cell": "gru", "context": "every_step", "bidirectional": True},
    "rnn": {"cell": "rnn", "num_layers": 1},
    "dot": {"attention": "dot"},
    "general": {"attention": "general", "bidirectional": True, "num_layers": 3},
    "concat": {"cell": "gru", "attention": "concat", "context": "every_step"},
    "bahdanau": {"cell": "gru", "attention": "bahdanau", "bidirectional": True},
    "input feeding": {"attention": "general", "input_feeding": True},
    "features": {"cell": "gru", "context": "every_step", "bidirectional": True, **with_features("summary")},
    "features and attention": {"attention": "dot", **with_features("summary")},
    "features in the memory": {"attention": "concat", "bidirectional": True, **with_features("sequence")},
    "features for bahdanau": {"cell": "gru", "attention": "bahdanau", **with_features("sequence")},
    "features everywhere": {"attention": "bahdanau", "bidirectional": True, **with_features("both")},
}
each_model = pytest.mark.parametrize("name", MODELS)


@functools.cache
def stepper(name, seed, backend="auto", dtype=torch.float64):
    # a maxout layer is not bounded as tanh is: logits of a hundred would have more rounding than any trained model's;
    # and at 1.5 the recurrence of three layers makes the last bit of float32 ten times larger in six steps
    scale = 0.7 if "bahdanau" in name else 1.5 if dtype == torch.float64 else 1.0
    return TorchStepper(network(seed, dtype, backend=backend, scale=scale, **MODELS[name]))


def encoded(model, source):
    """The ids of a source: EOS after its tokens, and from none to all of the features if the model reads any."""
    count = sum(source) % 5 if model.model.sizes.has_features else 0
    return [*source, EOS, *sorted(random_features([count], seed=len(source))[0])]


def padded_sources(model, sources, padding=0):
    ids, lengths = pad_sources([encoded(model, source) for source in sources])
    return np.pad(ids, ((0, 0), (0, padding))), lengths


def found(model, sources, beam_size, extra_padding=0):
    """Hypotheses of each source, what they are and what they score."""
    limits = bounds(*[len(source) + 4 for source in sources])
    ids, lengths = padded_sources(model, sources, extra_padding)
    results = beam_search(model, ids, lengths, max_lengths=limits, beam_size=beam_size, num_hypotheses=beam_size)
    return [
        ([(h.ids, h.truncated) for h in hypotheses], np.concatenate([h.token_scores for h in hypotheses]))
        for hypotheses in results
    ]


@each_model
@pytest.mark.parametrize("beam_size", [1, 3])
@settings(max_examples=25)
@given(seed=st.integers(0, 3), sources=SOURCES, order=st.randoms(use_true_random=False), padding=st.integers(0, 3))
def test_a_prediction_does_not_depend_on_batch_mates_order_or_padding(name, beam_size, seed, sources, order, padding):
    model = stepper(name, seed)
    alone = [found(model, [source], beam_size)[0] for source in sources]
    rows = list(range(len(sources)))
    order.shuffle(rows)
    together = found(model, [sources[row] for row in rows], beam_size, padding)
    for row, (ids, scores) in zip(rows, together, strict=True):
        assert ids == alone[row][0]
        np.testing.assert_allclose(scores, alone[row][1], rtol=0, atol=1e-10)


@each_model
@settings(max_examples=10)
@given(seed=st.integers(0, 3), sources=SOURCES)
def test_the_score_of_a_prediction_is_that_of_forcing_it(name, seed, sources):
    model = stepper(name, seed)
    source = padded_sources(model, sources)
    best = [hypotheses[0] for hypotheses in beam_search(model, *source, max_lengths=bounds(*[6] * len(sources)))]
    forced = score_targets(model, *source, [[*hypothesis.ids, EOS] for hypothesis in best])
    for hypothesis, scores, correct in zip(best, forced.log_probs, forced.correct, strict=True):
        steps = len(hypothesis.token_scores)
        np.testing.assert_allclose(scores[:steps], hypothesis.token_scores, rtol=0, atol=1e-10)
        assert correct[:steps].all()


@each_model
@settings(max_examples=10)
@given(seed=st.integers(0, 3), sources=SOURCES, padding=st.integers(0, 3))
def test_scores_in_float32_agree_to_1e_5(name, seed, sources, padding):
    model = stepper(name, seed, dtype=torch.float32)
    targets = [[4 + token % 5 for token in source] + [EOS] for source in sources]
    together = score_targets(model, *padded_sources(model, sources, padding), targets)
    for source, target, scores in zip(sources, targets, together.log_probs, strict=True):
        alone = score_targets(model, *padded_sources(model, [source]), [target]).log_probs[0]
        np.testing.assert_allclose(scores.sum(), alone.sum(), rtol=0, atol=1e-5)


@each_model
@settings(max_examples=10)
@given(seed=st.integers(0, 3), sources=SOURCES)
def test_all_backends_predict_the_same(name, seed, sources):
    plain = found(stepper(name, seed, "reference"), sources, 2)
    for backend in ("auto", "fused"):
        for one, other in zip(found(stepper(name, seed, backend), sources, 2), plain, strict=True):
            assert one[0] == other[0]
            np.testing.assert_allclose(one[1], other[1], rtol=0, atol=1e-10)


def test_the_models_are_torn_between_many_outputs():
    """Or else all the above would be cheap."""
    sources = [[4 + number % 7] * (1 + number % 5) for number in range(20)]
    for name in MODELS:
        outputs = {ids[0][0] for seed in range(4) for ids, _ in found(stepper(name, seed), sources, 1)}
        assert len(outputs) >= 8
        assert torch.is_inference(stepper(name, 0)._log_probs_NV)
