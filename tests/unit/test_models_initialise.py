from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import nn

from freerun.models.initialise import initialise, initialise_network
from freerun.models.seq2seq import Seq2Seq
from tests.networks import architecture

SIZES = {"embedding_size": 16, "hidden_size": 25, "num_layers": 2}


def weights(seed=1, sizes=None, **options):
    model = Seq2Seq(architecture(200, 150, **{**SIZES, **(sizes or {})}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    initialise(model, seed, **options)
    return {name: value.detach() for name, value in model.named_parameters()}


def spread(values, bound):
    """Whether values fill (-bound, bound) evenly."""
    share = values.abs().max().item() / bound
    return 0.95 < share <= 1 and values.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


@pytest.mark.parametrize("scheme", ["default", "uniform"])
def test_values_are_a_pure_function_of_seed_and_name(scheme):
    first = weights(scheme=scheme)
    torch.manual_seed(5)
    again = weights(scheme=scheme)
    assert all(first[name].equal(again[name]) for name in first)
    assert not any(values.isnan().any() for values in first.values())
    other = weights(2, scheme=scheme)
    assert all(not first[name].equal(other[name]) for name in first if first[name].dim() == 2)


@pytest.mark.parametrize("more", [{"num_layers": 4}, {"attention": "concat"}, {"cell": "gru"}])
def test_other_parts_do_not_change_what_stays(more):
    plain, changed = weights(), weights(sizes=more)
    same = [name for name in plain if name in changed and plain[name].shape == changed[name].shape]
    assert len(same) >= 4
    assert all(plain[name].equal(changed[name]) for name in same)


def test_no_two_parameters_are_alike():
    found = weights(sizes={"num_layers": 3, "bidirectional": True})
    matrices = [values for values in found.values() if values.dim() == 2]
    signs = {tuple(values.flatten()[:30].sign().tolist()) for values in matrices}
    assert len(signs) == len(matrices)


@pytest.mark.parametrize(("sizes", "std"), [({}, 1.0), ({"tied_output": True}, 0.25)])
def test_a_tied_embedding_has_the_size_of_an_output_layer(sizes, std):
    found = weights(sizes=sizes)
    assert found["encoder.embedding.weight"].std().item() == pytest.approx(1.0, rel=0.05)
    assert found["decoder.embedding.weight"].std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize("sizes", [{}, {"tied_output": True}, {"attention": "general", "feature_encoder": "sequence"}])
def test_an_embedding_of_features_is_one_of_tokens(sizes):
    found = weights(sizes={"feature_vocabulary": 100, "feature_encoder": "summary", **sizes})
    part = "entry_embedding" if sizes.get("feature_encoder") == "sequence" else "embedding"
    table = found[f"feature_encoder.{part}.weight"]
    assert stats.kstest(table.flatten().numpy(), "norm").pvalue > 1e-3
    plain = weights(sizes={name: value for name, value in sizes.items() if name != "feature_encoder"})
    assert all(found[name].equal(plain[name]) for name in plain if found[name].shape == plain[name].shape)


def test_recurrent_layers_go_by_the_hidden_size_and_others_by_what_they_read():
    found = weights(sizes={"bidirectional": True, "attention": "concat"})
    by_bound = {
        "encoder.forward_layers.0.weight_ih": 25,
        "encoder.backward_layers.1.weight_ih": 25,
        "decoder.layers.1.weight_hh": 25,
        "decoder.output_weight": 25,
        "decoder.attention.keys.weight": 50,
        "decoder.attention.query.weight": 25,
        "decoder.attention.combine.weight": 75,
        "bridge.h.0.weight": 50,
        "bridge.c.1.weight": 50,
    }
    assert [name for name, size in by_bound.items() if not spread(found[name], size**-0.5)] == []


def test_biases_are_0_but_for_the_forget_gate():
    found = {name: values for name, values in weights(forget_bias=None).items() if values.dim() == 1}
    assert len(found) == 9
    assert all(values.eq(0).all() for values in found.values())


@pytest.mark.parametrize("scheme", ["default", "uniform"])
@pytest.mark.parametrize("value", [1.0, 0.0, 2.5])
def test_the_forget_bias_counts_once_and_leaves_other_gates_alone(scheme, value):
    found, drawn = weights(scheme=scheme, forget_bias=value), weights(scheme=scheme, forget_bias=None)
    forget = torch.arange(100) // 25 == 1  # the second of i f g o
    for name in ("encoder.forward_layers.0", "encoder.forward_layers.1", "decoder.layers.0", "decoder.layers.1"):
        both = found[f"{name}.bias_ih"] + found[f"{name}.bias_hh"]
        assert both[forget].eq(value).all()
        for half in ("bias_ih", "bias_hh"):
            assert found[f"{name}.{half}"][~forget].equal(drawn[f"{name}.{half}"][~forget])


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_only_an_lstm_has_a_forget_gate(cell):
    found, drawn = (weights(sizes={"cell": cell}, forget_bias=value) for value in (1.0, None))
    assert all(found[name].equal(drawn[name]) for name in drawn)


def test_the_uniform_scheme_draws_everything_from_one_range():
    found = weights(sizes={"tied_output": True, "attention": "general"}, scheme="uniform", scale=0.08, forget_bias=None)
    assert [name for name, values in found.items() if values.numel() > 90 and not spread(values, 0.08)] == []
    assert weights(scheme="uniform", scale=0.5)["decoder.output_weight"].abs().max() > 0.49
    assert 0 < found["decoder.output_bias"].abs().max() <= 0.08


def test_values_have_the_distributions_that_are_documented():
    found = weights(sizes={"embedding_size": 64, "hidden_size": 100})
    assert stats.kstest(found["encoder.embedding.weight"].flatten().numpy(), "norm").pvalue > 1e-3
    uniform = stats.uniform(-0.1, 0.2)
    for name in ("encoder.forward_layers.0.weight_ih", "decoder.layers.1.weight_hh", "decoder.output_weight"):
        assert stats.kstest(found[name].flatten().numpy(), uniform.cdf).pvalue > 1e-3


@pytest.mark.parametrize("seed", [1 + 2**32, 1 + 2**62])
def test_the_whole_seed_decides_the_values(seed):
    one, other = weights(1), weights(seed)
    assert not any(one[name].equal(other[name]) for name in one if one[name].dim() == 2)


def test_another_network_has_matrices_by_what_they_read_and_biases_of_0():
    network = nn.Sequential(nn.Linear(50, 40), nn.LayerNorm(40), nn.Linear(40, 30))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(3.0)
    initialise_network(network, 1, "test")
    assert spread(network[0].weight, 50**-0.5) and spread(network[2].weight, 40**-0.5)
    assert network[0].bias.eq(0).all() and network[1].weight.eq(3).all()
    again = nn.Sequential(nn.Linear(50, 40))
    initialise_network(again, 1, "test")
    assert again[0].weight.equal(network[0].weight)
    initialise_network(again, 1, "other")
    assert not again[0].weight.equal(network[0].weight)
