from __future__ import annotations

import pytest
import torch

from freerun.architecture import FEATURE_ENCODERS
from freerun.models.feature_encoder import NO_FEATURES, FeatureEncoder, with_entries
from freerun.models.seq2seq import Seq2Seq
from freerun.randomness import CounterGenerator
from freerun.training.precision import autocast
from tests.networks import architecture, close, draw, network, padded, random_rows, randomise, with_features

SOURCES, LENGTHS = padded(random_rows([3, 5]))
IDS = torch.tensor([[3, 5, 6], [4, 0, 0]])
FED = torch.tensor([[1, 4, 5], [1, 6, 7]])
SIZES = {"attention": "general", "bidirectional": True}
each_kind = pytest.mark.parametrize("kind", FEATURE_ENCODERS)


def model_of(kind, **options):
    return network(**{**SIZES, **with_features(kind), **options})


def logits(model, feature_ids_BQ, masks=None):
    return model.decoder.logits(model(SOURCES, LENGTHS, FED, masks, feature_ids_BQ))


def summarized(encoder, *sums):
    """The summary [B, E] of the sums of embeddings."""
    return torch.tanh(torch.stack(sums) @ encoder.projection.weight.t() + encoder.projection.bias)


def test_a_summary_is_a_function_of_the_sum_of_the_real_features():
    encoder = randomise(FeatureEncoder(architecture(11, embedding_size=3, hidden_size=4, **with_features("summary"))))
    table, encoded = encoder.embedding.weight, encoder(torch.tensor([[3, 5, 6], [4, 0, 0], [0, 0, 0]]))
    nothing = torch.zeros(3).double()
    close(encoded.summary_BE, summarized(encoder, table[3] + table[5] + table[6], table[4], nothing))
    assert encoded.entries_BQM is None


def test_entries_are_functions_of_one_feature_each():
    encoder = randomise(
        FeatureEncoder(architecture(11, hidden_size=4, bidirectional=True, **with_features("sequence")))
    )
    encoded = encoder(IDS)
    close(encoded.entries_BQM[0], torch.tanh(encoder.entry_embedding.weight[[3, 5, 6]]))
    assert encoded.entries_BQM.shape == (2, 3, 8) and encoded.summary_BE is None
    assert encoded.mask_BQ.tolist() == [[True, True, True], [True, False, False]]


def test_each_part_has_weights_of_its_own():
    names = {
        kind: {name for name, _ in FeatureEncoder(architecture(11, **with_features(kind))).named_parameters()}
        for kind in FEATURE_ENCODERS
    }
    assert names["summary"] == {"embedding.weight", "projection.weight", "projection.bias"}
    assert names["sequence"] == {"entry_embedding.weight"}
    assert names["both"] == names["summary"] | names["sequence"]
    encoder = FeatureEncoder(architecture(11, hidden_size=4, bidirectional=True, **with_features("both"))).double()
    encoded = encoder(IDS)
    assert encoded.summary_BE.shape == (2, 16) and encoded.entries_BQM.shape == (2, 3, 8)


@pytest.mark.parametrize("mask_BS", [None, torch.tensor([[True, True], [True, False]])])
def test_entries_follow_those_of_the_source(mask_BS):
    memory_BSM, encoder = (
        draw(2, 2, 8),
        FeatureEncoder(architecture(11, hidden_size=4, bidirectional=True, **with_features("sequence"))).double(),
    )
    joined, mask = with_entries(memory_BSM, mask_BS, encoder(IDS))
    close(joined[:, :2], memory_BSM, 0)
    close(joined[:, 2:], encoder(IDS).entries_BQM, 0)
    expected = [[True, True], [True, mask_BS is None]]
    assert mask.tolist() == [[*expected[0], True, True, True], [*expected[1], True, False, False]]
    assert with_entries(memory_BSM, mask_BS, NO_FEATURES) == (memory_BSM, mask_BS)


@each_kind
def test_the_row_of_padding_has_no_influence_and_no_gradient(kind):
    model = model_of(kind)
    before = logits(model, IDS)
    before.square().sum().backward()
    tables = [each.weight for each in model.feature_encoder.modules() if isinstance(each, torch.nn.Embedding)]
    assert len(tables) == 1 + (kind == "both")
    for table in tables:
        assert not table.grad[0].any() and table.grad[[3, 4, 5, 6]].any(1).all()
        with torch.no_grad():
            table[0] = 1e6
    close(logits(model, IDS), before, 0)


@each_kind
def test_more_padding_and_the_order_of_features_change_nothing(kind):
    model = model_of(kind)
    expected = logits(model, IDS)
    close(logits(model, torch.tensor([[6, 3, 5, 0, 0], [4, 0, 0, 0, 0]])), expected, 1e-12)


@each_kind
@pytest.mark.parametrize("lengths", [LENGTHS, torch.tensor([5, 5])])
def test_a_batch_without_any_feature(kind, lengths):
    model = model_of(kind)
    none, padding = (torch.zeros(2, size, dtype=torch.int64) for size in (0, 2))
    one, other = (model.encode(SOURCES, lengths, None, ids) for ids in (none, padding))
    close(model.decoder.sequence(FED, one).features_TBF, model.decoder.sequence(FED, other).features_TBF)


@each_kind
def test_every_feature_changes_the_output(kind):
    model = model_of(kind)
    outputs = [logits(model, torch.tensor([[number], [number]])) for number in range(7)]
    assert all(not one.allclose(other) for n, one in enumerate(outputs) for other in outputs[:n])


@each_kind
def test_rows_of_encoded_features_can_be_selected(kind):
    model, origins = model_of(kind), torch.tensor([1, 0, 1])
    encoded = model.encode(SOURCES, LENGTHS, None, IDS)
    whole = model.decoder.sequence(FED, encoded).features_TBF
    close(model.decoder.sequence(FED[origins], encoded.select(origins)).features_TBF, whole[:, origins])
    detached = encoded.detach()
    close(model.decoder.sequence(FED, detached).features_TBF, whole, 0)
    parts = [detached.feature_summary_BE, detached.feature_gates_BG, detached.memory.values_BSM]
    assert not any(part.requires_grad for part in parts if part is not None)


def test_features_that_are_missing_or_not_read_are_told():
    with pytest.raises(ValueError, match=r"^feature_ids_BQ: it is None") as error:
        model_of("summary").encode(SOURCES, LENGTHS)
    assert str(error.value) == (
        "feature_ids_BQ: it is None, but this model reads features. Expected ids [B, Q], right-padded with 0. Pass "
        "batch.feature_ids_BQ, or encode a batch with freerun.forcing.replay.encode."
    )
    with pytest.raises(ValueError, match=r"^feature_ids_BQ: ids of shape") as error:
        network().encode(SOURCES, LENGTHS, None, IDS)
    assert str(error.value) == (
        "feature_ids_BQ: ids of shape [2, 3], but this model reads no features. Expected None. Leave it out."
    )


def test_a_model_without_features_has_the_parameters_that_it_had():
    names = [name for name, _ in Seq2Seq(architecture(5, attention="general")).named_parameters()]
    assert not [name for name in names if "feature" in name]


# ------------------------------------------------------------------------------------------------------------- dropout


def masks_of(model, num_features, rows=4, steps=3, purpose="masks"):
    return model.draw_masks(5, steps, rows, CounterGenerator(1, purpose), CounterGenerator(1, "shared"), num_features)


@each_kind
def test_features_have_a_mask_of_their_own(kind):
    options = {"dropout": 0.5, "embedding_dropout": 0.5, "num_layers": 3}
    with_them, without = masks_of(model_of(kind, **options), 3), masks_of(network(**SIZES, **options), 0)
    assert without.features_BQ1 is None
    assert with_them.features_BQ1.shape == (4, 3, 1)
    assert set(with_them.features_BQ1.unique().tolist()) == {0.0, 2.0}
    for name in ("source_tokens_SB1", "target_tokens_TB1", "output_TBF"):
        close(getattr(with_them, name), getattr(without, name), 0)
    close(with_them.encoder_layers, without.encoder_layers, 0)
    close(with_them.decoder_layers, without.decoder_layers, 0)


def test_a_further_feature_or_step_does_not_change_the_masks_of_the_others():
    model = model_of("summary", dropout=0.5, embedding_dropout=0.5)
    short, long = masks_of(model, 2, rows=30), masks_of(model, 6, rows=30, steps=9)
    close(long.features_BQ1[:, :2], short.features_BQ1, 0)
    close(long.target_tokens_TB1[:3], short.target_tokens_TB1, 0)
    assert not long.features_BQ1[:, 2:4].equal(short.features_BQ1)
    assert not masks_of(model, 2, rows=30, purpose="other").features_BQ1.equal(short.features_BQ1)
    assert masks_of(model, 2).first_steps(1).features_BQ1.equal(masks_of(model, 2).features_BQ1)


def test_without_embedding_dropout_no_feature_is_dropped():
    assert masks_of(model_of("summary", dropout=0.5), 3).features_BQ1 is None


@each_kind
def test_a_summary_has_the_dropout_of_a_layer(kind):
    masks = masks_of(model_of(kind, dropout=0.75), 3, rows=100)
    if kind == "sequence":
        assert masks.feature_summary_BE is None
        return
    summary_BE = masks.feature_summary_BE
    assert summary_BE.shape == (100, 3) and set(summary_BE.unique().tolist()) == {0.0, 4.0}
    assert summary_BE.mean().item() == pytest.approx(1.0, abs=0.2)
    assert not summary_BE.equal(masks_of(model_of(kind, dropout=0.75), 3, rows=100, purpose="other").feature_summary_BE)
    assert masks_of(model_of(kind, embedding_dropout=0.5), 3).feature_summary_BE is None


def test_the_mask_of_a_summary_is_applied_after_the_bound():
    encoder = randomise(FeatureEncoder(architecture(11, embedding_size=3, **with_features("summary"))))
    mask = torch.tensor([[0.0, 4.0, 4.0], [4.0, 0.0, 0.0]]).double()
    close(encoder(IDS, None, mask).summary_BE, mask * encoder(IDS).summary_BE)


def test_a_dropped_feature_is_not_in_the_sum_and_the_others_are_scaled_up():
    encoder = randomise(FeatureEncoder(architecture(11, embedding_size=3, **with_features("summary"))))
    table, mask = encoder.embedding.weight, torch.tensor([[[0.0], [2.0], [2.0]], [[0.0], [2.0], [0.0]]]).double()
    summary = encoder(IDS, mask).summary_BE
    close(summary, summarized(encoder, 2 * table[5] + 2 * table[6], torch.zeros(3).double()))


def test_the_entry_of_a_dropped_feature_is_zero_and_the_others_are_scaled_up():
    encoder = randomise(FeatureEncoder(architecture(11, hidden_size=4, **with_features("both"))))
    mask = torch.tensor([[[0.0], [2.0], [2.0]]]).double()
    close(encoder(IDS[:1], mask).entries_BQM, mask * encoder(IDS[:1]).entries_BQM)


# ----------------------------------------------------------------------------------------------------------- precision


@each_kind
def test_gradients_of_a_pass_in_bf16_are_in_fp32(kind):
    model = model_of(kind).float()
    with autocast("bf16"):
        encoded = model.encode(SOURCES, LENGTHS, None, IDS)
        features_TBF = model.decoder.sequence(FED, encoded).features_TBF
    features_TBF.float().sum().backward()
    gradients = [parameter.grad for name, parameter in model.named_parameters() if name.startswith("feature_encoder")]
    assert all(gradient.dtype == torch.float32 and gradient.any() for gradient in gradients)
