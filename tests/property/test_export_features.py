"""Graphs of models with features: torch, the steps and the greedy graph agree, whatever the features of the batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from freerun.architecture import ATTENTIONS, CELLS, FEATURE_ENCODERS
from freerun.models.torch_stepper import TorchStepper
from freerun.onnx_export.products import Fp32
from freerun.onnx_export.quantise import Int8
from freerun.runtime.graphs import source_feeds
from freerun.runtime.onnx_greedy import OnnxGreedy
from freerun.runtime.onnx_stepper import OnnxStepper
from freerun.runtime.shapes import expected_shapes
from freerun.search.forced_scoring import score_targets
from freerun.symbols import EOS, UNK
from tests.exported import GraphsOf, feature_options, sources
from tests.networks import network
from tests.property.test_export import Scanning, close, ids_of
from tests.searching import beam_search

features = st.sets(st.integers(UNK, 6)).map(sorted)
rows = st.lists(
    st.tuples(st.lists(st.integers(3, 10), max_size=5), features).map(lambda row: [*row[0], EOS, *row[1]]),
    min_size=1,
    max_size=4,
)
models = st.tuples(feature_options(), st.integers(0, 999))
few = settings(max_examples=40)
BOUND = 6
ROWS = [[4, 5, 6, 7, EOS, 4, 5, 6], [EOS], [8, 9, EOS, UNK], [10, 4, 3, EOS], [EOS, 3, 4, 5, 6]]
"""Sources with none, one and all features, among them an unknown one."""


def made(options, seed):
    # weights that make tokens differ clearly, so that rounding never decides between two of them
    return network(seed, torch.float32, scale=1.2, **options)


def stepped(stepper, source):
    """The greedy outputs of the search over steps."""
    ids, lengths = sources(source)
    return [best for (best,) in beam_search(stepper, ids, lengths, max_lengths=np.full(len(source), BOUND))]


def decoded(graphs, source):
    """Those of the greedy graph."""
    return OnnxGreedy(graphs)(source, [BOUND] * len(source))


def same(found, expected, tolerance=1e-4):
    assert ids_of([found]) == ids_of([expected])
    close([found], [expected], tolerance)


def every_model():
    """Every cell with every attention and feature encoder, one or two directions, and other options at random."""
    choices = itertools.product(CELLS, ATTENTIONS, FEATURE_ENCODERS, (False, True))
    for number, (cell, attention, encoder, bidirectional) in enumerate(choices):
        spec = ATTENTIONS[attention]
        if (spec.needs_equal_sizes and bidirectional) or (encoder != "summary" and not spec.reads_memory):
            continue
        every_step, tied, feeds, is_large = np.random.default_rng(number).integers(2, size=4).tolist()
        options = {
            "cell": cell,
            "attention": attention,
            "feature_vocabulary": 7,
            "feature_encoder": encoder,
            "bidirectional": bidirectional,
            "context": ("init", "every_step")[every_step],
            "tied_output": bool(tied),
            "input_feeding": spec.feeds_input and bool(feeds),
            "embedding_size": (3, 13)[is_large],  # below and above the vocabularies of sources and features
        }
        yield pytest.param(options, id=f"{cell}-{attention}-{encoder}-{number}")


@pytest.mark.parametrize("options", [*every_model()])
def test_every_model_writes_the_same_in_torch_in_steps_and_in_one_graph(options):
    model = made(options, 5)
    graphs = GraphsOf(model)
    expected = stepped(TorchStepper(model), ROWS)
    for found in (
        stepped(OnnxStepper(graphs), ROWS),
        decoded(graphs, ROWS),
        decoded(GraphsOf(model, Scanning()), ROWS),
    ):
        same(found, expected)


@few
@given(models, rows)
def test_torch_the_steps_and_the_greedy_graph_write_the_same(model, source):
    model = made(*model)
    graphs = GraphsOf(model)
    expected = stepped(TorchStepper(model), source)
    same(stepped(OnnxStepper(graphs), source), expected)
    same(decoded(graphs, source), expected)


@few
@given(models, rows, st.integers(2, 5))
def test_scores_of_targets_and_of_a_beam_are_those_of_torch(model, source, beam_size):
    model, (ids, lengths) = made(*model), sources(source)
    steppers = TorchStepper(model), OnnxStepper(GraphsOf(model))
    targets = [[4 + row, 3, 8, EOS][row:] for row in range(len(source))]
    forced = [np.concatenate(score_targets(stepper, ids, lengths, targets).log_probs) for stepper in steppers]
    np.testing.assert_allclose(forced[1], forced[0], atol=1e-4)
    options = {"max_lengths": np.full(len(source), 4), "beam_size": beam_size}
    best = [[row[0].score for row in beam_search(stepper, ids, lengths, **options)] for stepper in steppers]
    np.testing.assert_allclose(best[1], best[0], atol=1e-3)


@few
@given(models.filter(lambda each: CELLS[each[0]["cell"]].is_bounded), rows)
def test_int8_steps_and_its_greedy_graph_write_the_same_and_no_row_depends_on_others(model, source):
    graphs = GraphsOf(made(*model), Int8(), 1.5)
    found = decoded(graphs, source)
    same(found, stepped(OnnxStepper(graphs), source))
    same(found, [decoded(graphs, [each])[0] for each in source])


@few
@given(models, rows)
def test_no_row_depends_on_the_features_of_others(model, source):
    graphs = GraphsOf(made(*model))
    same(decoded(graphs, source), [decoded(graphs, [each])[0] for each in source])
    others = [[*each[: each.index(EOS) + 1], 3, 4, 5, 6] for each in source]
    same(decoded(graphs, [*source, *others])[: len(source)], decoded(graphs, source))


@few
@given(models, rows, st.integers(1, 5))
def test_padding_of_features_changes_nothing(model, source, padding):
    graphs = GraphsOf(made(*model))
    feeds = {**source_feeds(*sources(source), True), "max_lengths": np.full(len(source), BOUND)}
    padded = {**feeds, "features": np.pad(feeds["features"], ((0, 0), (0, padding)))}
    expected, found = (graphs.session("greedy").run(None, each) for each in (feeds, padded))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


@pytest.mark.parametrize("arithmetic", [Fp32(), Int8()], ids=["fp32", "int8"])
@pytest.mark.parametrize(
    "options",
    [{}, *({"attention": "concat", "feature_encoder": kind} for kind in ("sequence", "both"))],
    ids=["summary", "sequence", "both"],
)
def test_every_feature_counts(options, arithmetic):
    options = {"cell": "gru", "feature_vocabulary": 7, "feature_encoder": "summary", **options}
    graphs = GraphsOf(made(options, 2), arithmetic, 1.5)
    source = [[4, 5, EOS, *each] for each in ([], [3], [4], [3, 4], [3, 4, 5])]
    ids, lengths = sources(source)
    totals = [each.sum() for each in score_targets(OnnxStepper(graphs), ids, lengths, [[4, 5, EOS]] * 5).log_probs]
    differences = np.abs(np.subtract.outer(totals, totals))[np.triu_indices(5, 1)]
    assert differences.min() > 1e-3


@pytest.mark.parametrize("attention", ["general", "bahdanau"])
@pytest.mark.parametrize("kind", ["sequence", "both"])
def test_int8_averages_entries_of_features_with_large_embeddings(attention, kind):
    options = {"cell": "gru", "attention": attention, "feature_vocabulary": 7, "feature_encoder": kind}
    model, (ids, lengths) = network(3, torch.float32, scale=0.8, **options), sources([[4, 5, EOS, 3, 5], [6, EOS, 4]])
    with torch.no_grad():
        model.feature_encoder.entry_embedding.weight.mul_(4)
    steppers = TorchStepper(model), OnnxStepper(GraphsOf(model, Int8()))
    expected, found = (score_targets(stepper, ids, lengths, [[5, 6, EOS]] * 2).log_probs for stepper in steppers)
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=0.15)


@few
@given(feature_options())
def test_the_expected_weights_are_those_of_the_model(options):
    graphs = GraphsOf(model := network(0, torch.float32, **options))
    assert expected_shapes(graphs.weights.sizes) == {name: tuple(w.shape) for name, w in model.state_dict().items()}
