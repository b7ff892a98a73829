from __future__ import annotations

import numpy as np
import pytest
import torch

from freerun.models import torch_stepper as stepper_module
from freerun.models.torch_stepper import TorchStepper, best, log_softmax
from freerun.search.entries import _entries_of
from freerun.search.top import top
from freerun.symbols import NEVER_WRITTEN
from tests.networks import CELLS, close, network, padded, random_rows

SOURCES, LENGTHS = padded(random_rows([4, 2, 6]))
FED = torch.tensor([[1, 4, 8, 5], [1, 6, 7, 4], [1, 8, 8, 6]])
ALL = np.arange(3)
MODELS = [
    *({"cell": cell} for cell in CELLS),
    {"bidirectional": True, "context": "every_step", "attention": "general"},
    {"cell": "gru", "attention": "concat", "tied_output": True},
]


def started(model, rows=slice(None)):
    stepper = TorchStepper(model)
    stepper.start(SOURCES[rows].numpy(), LENGTHS[rows].numpy())
    return stepper


def forward(model):
    """log p(next token) [T, B, V] of the whole-sequence pass."""
    with torch.no_grad():
        return log_softmax(model.decoder.logits(model(SOURCES, LENGTHS, FED))).numpy()


def first_step(model=None, rows=slice(None), **options):
    stepper = started(model or network(), rows)
    count = len(SOURCES[rows])
    return stepper, *stepper.step(np.ones(count, np.int64), np.arange(count), **options)


@pytest.mark.parametrize("sizes", MODELS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_steps_give_the_log_probabilities_of_the_forward_pass(sizes, dtype, tolerance):
    model = network(dtype=dtype, **sizes)
    stepper, expected = started(model), forward(model)
    for step, tokens in enumerate(FED.t().numpy()):
        ids, found = stepper.step(tokens, ALL)
        close(torch.tensor(found), torch.tensor(expected[step]), tolerance)
        assert ids.tolist() == [[*range(9)]] * 3
        assert found.dtype == expected.dtype
        assert np.exp(found).sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("sizes", MODELS, ids=str)
def test_rows_are_reordered_copied_and_leave_by_origins(sizes):
    model = network(**sizes)
    stepper, expected = started(model), forward(model)
    stepper.step(FED[[2, 0], 0].numpy(), np.array([2, 0]))  # the second source never takes part
    _, found = stepper.step(FED[[0, 2, 2], 1].numpy(), np.array([1, 0, 0]))
    close(torch.tensor(found), torch.tensor(expected[1][[0, 2, 2]]))
    _, found = stepper.step(FED[[2], 2].numpy(), np.array([2]))
    close(torch.tensor(found), torch.tensor(expected[2][[2]]))


def test_rows_of_one_parent_share_its_products(monkeypatch):
    rows, compute = [], stepper_module.recurrent_product
    monkeypatch.setattr(
        stepper_module, "recurrent_product", lambda weights, h: rows.append(len(h)) or compute(weights, h)
    )
    stepper, *_ = first_step(network(num_layers=2))
    stepper.step(np.full(6, 4), np.array([2, 2, 0, 2, 0, 0]))
    assert rows == [2, 2]
    stepper.step(np.full(2, 4), np.array([5, 1]))  # parents of one row each
    assert rows == [2, 2]


def test_rows_may_change_places_without_any_leaving():
    model, places = network(), [2, 0, 1]
    stepper, expected = started(model), forward(model)
    stepper.step(FED[:, 0].numpy(), ALL)
    _, found = stepper.step(FED[places, 1].numpy(), np.array(places))
    close(torch.tensor(found), torch.tensor(expected[1][places]))


def test_the_k_best_come_first():
    _, _, everything = first_step()
    for k in (1, 2, 5, 9):
        ids, found = first_step(k=k)[1:]
        assert ids.tolist() == np.argsort(-everything, axis=1, kind="stable")[:, :k].tolist()
        assert found.tolist() == (-np.sort(-everything, axis=1)[:, :k]).tolist()


def test_banned_tokens_keep_their_share_but_are_not_among_the_best():
    _, _, everything = first_step()
    _, _, with_gaps = first_step(banned=NEVER_WRITTEN)
    allowed = [token for token in range(9) if token not in NEVER_WRITTEN]
    assert with_gaps[:, allowed].tolist() == everything[:, allowed].tolist()
    assert np.isneginf(with_gaps[:, NEVER_WRITTEN]).all()
    for k in (1, 4, 6, 9):
        ids, found = first_step(k=k, banned=(*NEVER_WRITTEN, NEVER_WRITTEN[0]))[1:]
        assert ids.shape == found.shape == (3, min(k, 6))
        assert not np.isin(ids, NEVER_WRITTEN).any()
        assert found.tolist() == np.take_along_axis(everything, ids, 1).tolist()


def test_any_token_of_the_last_step_can_be_scored():
    stepper, _, everything = first_step()
    for banned, k in (((), None), (NEVER_WRITTEN, None), (NEVER_WRITTEN, 2)):
        stepper, *_ = first_step(k=k, banned=banned)
        tokens = np.array([0, 3, 8])
        assert stepper.log_prob_of(tokens).tolist() == everything[ALL, tokens].tolist()


@pytest.mark.parametrize("k", [1, 2, 4, 5, 6])
def test_ties_go_to_the_lowest_id(k):
    model = network()
    with torch.no_grad():
        model.decoder.output_weight.zero_()
        model.decoder.output_bias.copy_(torch.tensor([1, 9, 1, 1, 5, 1, 5, 1, 5]))
    ids, _ = first_step(model, k=k, banned=(1,))[1:]
    assert ids.tolist() == [[4, 6, 8, 0, 2, 3][:k]] * 3


@pytest.mark.parametrize("size", [6, 70, 3000])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_best_of_many_ties_are_those_of_search(size, k):
    generator = torch.Generator().manual_seed(size)
    values = torch.randint(4, (50, size), generator=generator).float()
    for found, expected in zip(best(values, k), top(values.numpy(), k), strict=True):
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("size", [6, 70, 3000])
def test_a_tie_for_the_last_place_goes_to_the_lowest_id(size):
    """Among the k best themselves nothing is equal, only the k-th and those that are left out."""
    generator = np.random.default_rng(size)
    values = generator.permuted(np.tile([5.0, 4.0, *[3.0] * (size - 2)], (50, 1)), axis=1)
    for found, expected in zip(best(torch.tensor(values), 3), top(values, 3), strict=True):
        assert found.tolist() == expected.tolist()


def test_a_new_start_forgets_and_sees_new_weights():
    model = network()
    stepper, *_ = first_step(model)
    with torch.no_grad():
        model.decoder.embedding.weight.mul_(-1)
        model.encoder.embedding.weight.mul_(-1)
    stepper.start(SOURCES.numpy(), LENGTHS.numpy())
    found = stepper.step(FED[:, 0].numpy(), ALL)[1]
    assert found.tolist() == first_step(model)[2].tolist()
    close(torch.tensor(found), torch.tensor(forward(model)[0]))


def test_steps_need_a_start_and_scores_a_step():
    stepper = TorchStepper(network())
    with pytest.raises(AssertionError, match="start"):
        stepper.step(np.ones(3, np.int64), ALL)
    stepper = started(network())
    with pytest.raises(AssertionError, match="step"):
        stepper.log_prob_of(ALL)


def test_nothing_is_dropped_and_no_graph_is_kept_in_training_mode():
    model = network(dropout=0.5, embedding_dropout=0.5).train()
    stepper, _, found = first_step(model)
    close(torch.tensor(found), torch.tensor(forward(network())[0]))
    assert not stepper._encoded.state.h_LBH.requires_grad


def test_half_precision_is_normalised_in_fp32():
    logits = (8 * torch.rand(2, 5000)).bfloat16()
    found = log_softmax(logits)
    assert found.dtype == torch.float32
    close(found.double().exp().sum(1), torch.ones(2, dtype=torch.float64), 1e-5)
    assert log_softmax(logits.double()).dtype == torch.float64


@pytest.mark.parametrize("attention", ["dot", "general", "concat", "bahdanau"])
def test_hypotheses_of_a_source_share_its_memory(attention, monkeypatch):
    """Two rows a source, then unequal numbers, then a source less: the same as rows that have it all to themselves."""
    model = network(attention=attention)
    moves = [[0, 0, 1, 1, 2, 2], [1, 0, 2, 3, 5, 4], [0, 1, 1, 2, 4], [0, 1, 2, 4], [3, 0]]
    tokens = np.random.default_rng(0).integers(4, 9, (len(moves), 6))

    def run():
        stepper = started(model)
        return [stepper.step(row[: len(move)], np.array(move))[1] for row, move in zip(tokens, moves, strict=True)]

    shared = run()
    monkeypatch.setattr("freerun.search.entries._entries_of", lambda sources: sources)
    for one, other in zip(shared, run(), strict=True):
        close(torch.tensor(one), torch.tensor(other))


@pytest.mark.parametrize(
    ("sources", "entries"),
    [
        ([0, 1, 2], [0, 1, 2]),
        ([0, 0, 1, 1], [0, 1]),
        ([3, 3, 1, 1], [3, 1]),
        ([0, 0, 1], [0, 0, 1]),
        ([0, 1, 0, 1], [0, 1, 0, 1]),
        ([5, 5], [5]),
        ([], []),
    ],
)
def test_an_entry_is_shared_by_rows_that_stand_together(sources, entries):
    assert _entries_of(np.array(sources, np.int64)).tolist() == entries
