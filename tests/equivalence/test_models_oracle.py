"""The whole model against the oracle: every combination of options, with padding, dropout and several rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from freerun.architecture import FEATURE_ENCODERS, attention_scores
from freerun.forcing.training_batch import Update
from freerun.models.state_reader import StateReader
from freerun.models.torch_stepper import TorchStepper
from freerun.search.batches import pad_sources
from freerun.symbols import EOS
from tests import oracle
from tests.networks import (
    CELLS,
    RATES,
    book,
    close,
    dropout_generators,
    feature_encoders,
    gradients_of,
    masks_of_row,
    network,
    padded,
    random_features,
    random_rows,
    some_of,
    with_features,
)
from tests.searching import beam_search

LUONG = tuple(attention_scores())
FEEDING = [*((score, True) for score in LUONG), *((name, False) for name in ["none", "bahdanau", *LUONG])]
each_architecture = pytest.mark.parametrize(
    ("cell", "bidirectional", "context", "attention", "input_feeding", "tied_output"),
    [
        (cell, bidirectional, context, attention, feeding, tied)
        for cell, bidirectional, context, (attention, feeding), tied in itertools.product(
            CELLS, [False, True], ["init", "every_step"], FEEDING, [False, True]
        )
        if not (bidirectional and attention == "dot")  # whose memory has to have the decoder's size
    ],
)
each_architecture_with_features = pytest.mark.parametrize(
    ("cell", "bidirectional", "context", "attention", "input_feeding", "kind"),
    [
        (cell, attention not in ("none", "dot"), context, attention, feeding, kind)
        for cell, context, (attention, feeding) in itertools.product(CELLS, ["init", "every_step"], FEEDING)
        for kind in feature_encoders(attention)
    ],
)


def check(model, sources, targets, features=None):
    """Fail unless logits, states, attention and all gradients are those of the oracle, under the same dropout."""
    (source_ids, source_lengths), (fed, fed_lengths) = padded(sources), padded([[1, *target] for target in targets])
    feature_ids = None if features is None else padded(features)[0].long()
    size = 0 if features is None else feature_ids.shape[1]
    masks = model.draw_masks(source_ids.shape[1], fed.shape[1], len(sources), *dropout_generators(Update(7, 3)), size)
    encoded = model.encode(source_ids, source_lengths, masks, feature_ids)
    decoded = model.decoder.sequence(fed, encoded, masks)
    logits = model.decoder.logits(decoded.features_TBF)
    found, expected = [], []
    for row, (source, target, length) in enumerate(zip(sources, targets, fed_lengths, strict=True)):
        own = masks_of_row(masks, row)
        start = oracle.encode(book(model), [*source, *(features[row] if features else [])], own)
        steps = oracle.forced(book(model), start, target, own)
        found += [logits[:length, row], *(outputs[:length, row] for outputs in decoded.layers_TBH)]
        expected.append(torch.stack([step.logits_V for step in steps]))
        expected += [torch.stack(outputs) for outputs in zip(*(step.outputs for step in steps), strict=True)]
        for number, (h, c) in enumerate(start.start):
            found += [value[row] for value in encoded.state.layer(number) if value is not None]
            expected += [h, *([] if c is None else [c])]
    close(found, expected)
    close(gradients_of(some_of(*found), model), gradients_of(some_of(*expected), model))


DROPOUT = dict.fromkeys(RATES, 0.5)


@each_architecture
def test_the_model_is_the_equations(cell, bidirectional, context, attention, input_feeding, tied_output):
    options = {"context": context, "attention": attention, "input_feeding": input_feeding, "tied_output": tied_output}
    model = network(cell=cell, bidirectional=bidirectional, **DROPOUT, **options)
    check(model, random_rows([7, 1]), random_rows([1, 4], size=9, seed=1))


@each_architecture_with_features
def test_a_model_with_features_is_the_equations(cell, bidirectional, context, attention, input_feeding, kind):
    options = {"cell": cell, "bidirectional": bidirectional, "context": context, "input_feeding": input_feeding}
    model = network(attention=attention, **DROPOUT, **options, **with_features(kind))
    check(model, random_rows([7, 1]), random_rows([1, 4], size=9, seed=1), random_features([0, 3]))


@settings(max_examples=60)
@given(data=st.data())
def test_a_model_of_any_size_is_the_equations(data):
    attention, input_feeding = data.draw(st.sampled_from(FEEDING))
    bidirectional = data.draw(st.booleans()) and attention != "dot"
    rates = st.sampled_from([0.0, 0.2])  # more would scale values up to sizes that round at 1e-10
    kind = data.draw(st.sampled_from(["", *feature_encoders(attention)]))
    model = network(
        **with_features(kind),
        cell=data.draw(st.sampled_from(CELLS)),
        bidirectional=bidirectional,
        context=data.draw(st.sampled_from(["init", "every_step"])),
        attention=attention,
        input_feeding=input_feeding,
        tied_output=data.draw(st.booleans()),
        num_layers=data.draw(st.integers(1, 3)),
        embedding_size=data.draw(st.integers(1, 4)),
        hidden_size=data.draw(st.integers(1, 4)),
        **{name: data.draw(rates) for name in RATES},
        backend=data.draw(st.sampled_from(["auto", "reference", "fused"])),
        scale=data.draw(st.sampled_from([0.6, 1.5])),
    )
    lengths = st.lists(st.integers(1, 4), min_size=1, max_size=3)
    source_lengths = data.draw(lengths)
    target_lengths = data.draw(st.lists(st.integers(1, 4), min_size=len(source_lengths), max_size=len(source_lengths)))
    counts = st.lists(st.integers(0, 4), min_size=len(source_lengths), max_size=len(source_lengths))
    features = random_features(data.draw(counts)) if kind else None
    check(model, random_rows(source_lengths), random_rows(target_lengths, size=9, seed=1), features)


@pytest.mark.parametrize(("attention", "input_feeding"), FEEDING)
@pytest.mark.parametrize("cell", CELLS)
def test_greedy_search_writes_what_the_oracle_writes(cell, attention, input_feeding):
    sizes = {"cell": cell, "attention": attention, "input_feeding": input_feeding, "dropout": 0.5, "scale": 1.2}
    plain, features = random_rows([4, 1, 6, 3]), random_features([0, 2, 1, 4])
    check_greedy(network(**sizes), plain)
    for kind in feature_encoders(attention):
        check_greedy(
            network(**with_features(kind), **sizes),
            [[*source, *own] for source, own in zip(plain, features, strict=True)],
        )


def check_greedy(model, sources):
    """Fail unless greedy search writes what the oracle writes, with its scores."""
    bounds = np.array([9, 9, 2, 0])
    found = beam_search(TorchStepper(model), *pad_sources(sources), max_lengths=bounds)
    for source, bound, (hypothesis,) in zip(sources, bounds, found, strict=True):
        with torch.no_grad():  # a search may write EOS after as many tokens as its bound
            steps, written = oracle.greedy(book(model), source, int(bound) + 1)
        if written[-1] != EOS:
            steps, written = steps[:-1], written[:-1]
        assert list(hypothesis.ids) == [token for token in written if token != EOS]
        assert hypothesis.truncated == (EOS not in written)
        scores = [step.log_probs_V[token].item() for step, token in zip(steps, written, strict=True)]
        assert hypothesis.token_scores == pytest.approx(scores, abs=1e-10)
        assert hypothesis.score == pytest.approx(sum(scores), abs=1e-10)


@pytest.mark.parametrize("kind", ["", *FEATURE_ENCODERS])
@pytest.mark.parametrize("attention", ["bahdanau", *LUONG])
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_read_of_a_model_is_what_the_oracle_computes(cell, attention, kind):
    model = network(**with_features(kind), cell=cell, attention=attention)
    reader, fed = StateReader(model), np.array([[1, 5, 6, 7], [1, 4, 4, 8]])
    sources = [[*source, *own] for source, own in zip(random_rows([4, 2]), [[3, 6], []], strict=True)]
    sources = sources if kind else random_rows([4, 2])
    ids, lengths = pad_sources(sources)
    states, weights = reader.states(ids, lengths, fed), reader.attention(ids, lengths, fed)
    for row, source in enumerate(sources):
        with torch.no_grad():
            start = oracle.encode(book(model), source)
            steps = oracle.forced(book(model), start, fed[row, 1:].tolist())
        assert reader.contexts(ids, lengths)[row] == pytest.approx(start.context_H.numpy(), abs=1e-6)
        for t, step in enumerate(steps):
            assert states[row, t] == pytest.approx(step.outputs[-1].numpy(), abs=1e-6)
            read = memory_positions(weights.shape[2], lengths, row, len(step.attention))
            assert weights[row, t, read] == pytest.approx(torch.stack(step.attention).numpy(), abs=1e-6)
            assert not np.delete(weights[row, t], read).any()


def memory_positions(size, lengths, row, entries):
    """Return the real entries of a row's memory: its source's, and after the longest source those of its features."""
    source = np.arange(size)[: lengths[row]]
    return np.concatenate([source, lengths.max() + np.arange(entries - len(source))])
