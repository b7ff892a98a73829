from __future__ import annotations

import dataclasses

import pytest
import torch

from freerun.models.dropout import DropoutMasks, apply_mask, draw_mask
from freerun.randomness import CounterGenerator
from tests.networks import RATES, close, network, padded, random_rows

SOURCES, LENGTHS = padded(random_rows([3, 5]))
FED = torch.tensor([[1, 4, 5, 6], [1, 7, 8, 0]])
GENERATOR = CounterGenerator(0, "mask")

FEATURES = {"feature_vocabulary": 7, "feature_encoder": "both"}
MASKS = {
    "dropout": ["encoder_layers", "decoder_layers", "output_TBF", "feature_summary_BE"],
    "embedding_dropout": ["source_tokens_SB1", "target_tokens_TB1", "features_BQ1"],
    "embedding_unit_dropout": ["source_embedding_VE", "target_embedding_VE"],
    "memory_dropout": ["memory_SBM"],
}
"""What each rate drops."""


def masks_of(model, seed=1, rows=2):
    return model.draw_masks(5, 4, rows, CounterGenerator(seed, "masks"), CounterGenerator(seed, "shared"))


def logits(model, masks):
    return model.decoder.logits(model(SOURCES, LENGTHS, FED, masks))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_a_mask_keeps_its_share_scaled_up(rate):
    mask = draw_mask((50, 40, 30), rate, GENERATOR, torch.zeros(1, dtype=torch.float64))
    assert mask.shape == (50, 40, 30)
    assert mask.dtype == torch.float64
    assert set(mask.unique().tolist()) == {0.0, 1 / (1 - rate)}
    assert mask.eq(0).double().mean().item() == pytest.approx(rate, abs=0.01)
    assert mask.mean().item() == pytest.approx(1, abs=0.02)


def test_at_rate_0_nothing_is_drawn():
    assert draw_mask((5, 5), 0.0, GENERATOR, torch.zeros(1)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_has_the_type_of_the_values(dtype):
    mask, full = (draw_mask((9, 8), 0.3, GENERATOR, torch.zeros(1, dtype=each)) for each in (dtype, torch.float64))
    assert mask.dtype == dtype
    close(mask, full.to(dtype), 0)


@pytest.mark.parametrize("rate", [1e-12, 1 - 1e-12])
def test_extreme_rates_keep_all_or_nothing(rate):
    mask = draw_mask((50, 50), rate, GENERATOR, torch.zeros(1))
    assert mask.count_nonzero() == (2500 if rate < 0.5 else 0)


def test_a_mask_does_not_depend_on_how_many_steps_follow():
    model = network(dropout=0.5, embedding_dropout=0.5, num_layers=3)
    long, short = (model.draw_masks(5, steps, 3, GENERATOR, GENERATOR) for steps in (9, 4))
    for name, mask in dataclasses.asdict(long.first_steps(4)).items():
        close(mask, dataclasses.asdict(short)[name], 0)
    assert not long.output_TBF[:4].equal(long.output_TBF[4:8])


def test_other_options_leave_a_mask_as_it_is():
    """Each mask has its own stream: more layers, or additional embedding dropout, change no other mask."""
    plain, tokens_too, deeper = (
        masks_of(network(dropout=0.5, **options)) for options in ({}, {"embedding_dropout": 0.5}, {"num_layers": 4})
    )
    for other in (tokens_too, deeper):
        assert other.output_TBF.equal(plain.output_TBF)
        assert other.encoder_layers[0].equal(plain.encoder_layers[0])
        assert other.decoder_layers[0].equal(plain.decoder_layers[0])
    tokens_only = masks_of(network(embedding_dropout=0.5))
    assert tokens_only.target_tokens_TB1.equal(tokens_too.target_tokens_TB1)


def test_no_two_masks_of_a_pass_are_alike():
    masks = network(dropout=0.5, embedding_dropout=0.5, num_layers=3).draw_masks(40, 40, 40, GENERATOR, GENERATOR)
    layers = [*masks.encoder_layers, *masks.decoder_layers, masks.output_TBF]
    assert len({tuple(mask.flatten().tolist()) for mask in layers}) == 5
    assert not masks.source_tokens_SB1.equal(masks.target_tokens_TB1)


def test_several_outputs_of_a_source_share_its_masks():
    masks = masks_of(network(dropout=0.5, embedding_dropout=0.5), rows=3)
    shared = masks.target_rows(torch.tensor([2, 0, 2, 2]))
    for name in ("target_tokens_TB1", "output_TBF"):
        close(getattr(shared, name), getattr(masks, name)[:, [2, 0, 2, 2]], 0)
    close(list(shared.decoder_layers), [mask[:, [2, 0, 2, 2]] for mask in masks.decoder_layers], 0)
    assert shared.source_tokens_SB1 is None and shared.encoder_layers == ()


def test_a_missing_mask_changes_nothing():
    values = torch.rand(3)
    assert apply_mask(values, None) is values


def test_masks_are_a_pure_function_of_the_generator():
    model = network(dropout=0.5, embedding_dropout=0.5)
    first, second, other = (dataclasses.asdict(masks_of(model, seed)) for seed in (1, 1, 2))
    for name, mask in first.items():
        close(mask, second[name], 0)
    assert not first["output_TBF"].equal(other["output_TBF"])


def test_two_passes_under_the_same_masks_are_the_same():
    model = network(dropout=0.5, embedding_dropout=0.3, attention="general")
    masks = masks_of(model)
    assert logits(model, masks).equal(logits(model, masks))
    assert not logits(model, masks).equal(logits(model, masks_of(model, 2)))


def test_without_masks_nothing_is_dropped_whatever_the_mode():
    model, plain = network(dropout=0.5, embedding_dropout=0.5), network()
    assert logits(model.train(), None).equal(logits(plain.eval(), None))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_masks_stand_between_layers_and_before_the_output_layer(bidirectional):
    model = network(dropout=0.5, embedding_dropout=0.5, num_layers=3, bidirectional=bidirectional, context="every_step")
    masks = masks_of(model, rows=7)
    assert [mask.shape for mask in masks.encoder_layers] == [(5, 7, 8 if bidirectional else 4)] * 2
    assert [mask.shape for mask in masks.decoder_layers] == [(4, 7, 4)] * 2
    assert masks.source_tokens_SB1.shape == (5, 7, 1)
    assert masks.target_tokens_TB1.shape == (4, 7, 1)
    assert masks.output_TBF.shape == (4, 7, 8)  # the context beside the state


@pytest.mark.parametrize("attention", ["none", "bahdanau"])
def test_masks_of_embeddings_and_memory_have_their_shapes(attention):
    options = {"attention": attention, "bidirectional": True, "num_layers": 3}
    masks = masks_of(network(**dict.fromkeys(RATES, 0.5), **options), rows=7)
    assert masks.source_embedding_VE.shape == (11, 3)
    assert masks.target_embedding_VE.shape == (9, 3)
    assert attention == "none" or masks.memory_SBM.shape == (5, 7, 8)
    assert attention == "bahdanau" or masks.memory_SBM is None


@pytest.mark.parametrize("name", RATES)
def test_each_rate_has_masks_of_its_own(name):
    """A rate draws the same masks whatever the others are, and none of theirs."""
    options = {"num_layers": 3, "attention": "bahdanau", **FEATURES}
    alone, together = (
        dataclasses.asdict(network(**rates, **options).draw_masks(5, 4, 2, GENERATOR, GENERATOR, 3))
        for rates in ({name: 0.5}, dict.fromkeys(RATES, 0.5))
    )
    drawn = [
        key
        for key, mask in alone.items()
        if (any(each is not None for each in mask) if isinstance(mask, tuple) else mask is not None)
    ]
    assert drawn == MASKS[name]
    for key in drawn:
        close(alone[key], together[key], 0)


def test_only_what_has_a_rate_is_drawn():
    assert masks_of(network()) is None
    tokens_only = masks_of(network(embedding_dropout=0.5))
    assert tokens_only.source_tokens_SB1 is not None is not tokens_only.target_tokens_TB1
    assert (tokens_only.output_TBF, *tokens_only.encoder_layers, *tokens_only.decoder_layers) == (None, None, None)
    between_only = masks_of(network(dropout=0.5))
    assert between_only.source_tokens_SB1 is between_only.target_tokens_TB1 is None


@pytest.mark.parametrize("side", ["source", "target"])
def test_embedding_dropout_drops_whole_tokens(side):
    """A dropped token is one whose embedding is 0, the others are scaled up."""
    model = network()
    ids, name = (SOURCES, "source_tokens_SB1") if side == "source" else (FED, "target_tokens_TB1")
    mask = torch.full((ids.shape[1], 2, 1), 1.0, dtype=torch.float64)
    mask[1, 0] = 0.0
    token = int(ids[0, 1])
    dropped = logits(model, DropoutMasks(**{name: mask}, encoder_layers=(None,), decoder_layers=(None,)))[:, 0]
    with torch.no_grad():
        (model.encoder if side == "source" else model.decoder).embedding.weight[token] = 0
    assert ids[0].tolist().count(token) == 1
    close(dropped, logits(model, None)[:, 0])
