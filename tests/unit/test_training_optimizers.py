"""An optimizer's state goes through a safetensors file and comes back as it was."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from freerun.training.optimizers import load_optimizer_state, make_optimizer, optimizer_tensors

KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def problem(kind, weight_decay=0.1):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    return module, make_optimizer(kind, module.parameters(), 0.05, weight_decay)


def updates(module, optimizer, numbers):
    for number in numbers:
        optimizer.zero_grad()
        (module(torch.ones(4, 3) * number) - 1.0).square().mean().backward()
        optimizer.step()


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_optimizer_goes_on_bit_by_bit(kind):
    module, optimizer = problem(kind)
    updates(module, optimizer, range(1, 4))
    names = {parameter: name for name, parameter in module.named_parameters()}
    saved = save(optimizer_tensors(optimizer, names)), {key: v.clone() for key, v in module.state_dict().items()}
    updates(module, optimizer, range(4, 7))

    again, fresh = problem(kind)
    again.load_state_dict(saved[1])
    load_optimizer_state(fresh, load(saved[0]), dict(again.named_parameters()))
    updates(again, fresh, range(4, 7))
    assert torch.equal(weights(again), weights(module))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_decay_only_if_told_to(kind):
    (group,) = make_optimizer(kind, [nn.Parameter(torch.ones(2))], 0.05).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.05, 0.0)


def test_adam_keeps_step_and_both_moments_of_every_parameter():
    module, optimizer = problem("adam")
    updates(module, optimizer, range(1, 3))
    tensors = optimizer_tensors(optimizer, {parameter: name for name, parameter in module.named_parameters()})
    parts = ("exp_avg", "exp_avg_sq", "step")
    assert sorted(tensors) == sorted(f"{name}/{part}" for name, _ in module.named_parameters() for part in parts)
    assert tensors["0.weight/step"] == 2
    assert tensors["1.weight/exp_avg"].abs().sum() > 0


def test_what_was_loaded_is_a_copy():
    module, optimizer = problem("adam")
    updates(module, optimizer, [1])
    tensors = optimizer_tensors(optimizer, {parameter: name for name, parameter in module.named_parameters()})
    before = {name: value.clone() for name, value in tensors.items()}
    again, fresh = problem("adam")
    load_optimizer_state(fresh, tensors, dict(again.named_parameters()))
    updates(again, fresh, [2])
    assert all(torch.equal(before[name], value) for name, value in tensors.items())


def test_a_state_of_other_parameters_is_refused():
    module, optimizer = problem("adam")
    with pytest.raises(KeyError, match=r"2\.weight"):
        load_optimizer_state(optimizer, {"2.weight/step": torch.ones(())}, dict(module.named_parameters()))


@pytest.mark.parametrize(("kind", "expected"), KINDS.items())
def test_each_kind_is_torchs_own(kind, expected):
    _, optimizer = problem(kind, weight_decay=0.25)
    assert type(optimizer) is expected
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.05, 0.25)
    assert optimizer.param_groups[0].get("momentum", 0) == 0


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'adagrad' is none of adam, adamw, sgd"):
        problem("adagrad")
