from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from freerun.forcing.loss import smoothed_nll
from tests.networks import close, draw, gradients

RIGHT = torch.tensor([0, 3, 3, 6, 1])
each_smoothing = pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])


@each_smoothing
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_loss_is_torchs_summed_cross_entropy(smoothing, dtype, tolerance):
    logits = (5 * draw(5, 7, dtype=dtype)).detach().requires_grad_()
    loss, nll = smoothed_nll(logits, RIGHT, smoothing)
    expected = functional.cross_entropy(logits, RIGHT, label_smoothing=smoothing, reduction="sum")
    close(loss, expected, tolerance)
    close(nll, functional.cross_entropy(logits, RIGHT, reduction="sum").detach(), tolerance)
    close(gradients(3.5 * loss, logits), gradients(3.5 * expected, logits), tolerance)


@each_smoothing
def test_the_gradient_is_that_of_differences(smoothing):
    assert torch.autograd.gradcheck(lambda logits: smoothed_nll(logits, RIGHT, smoothing)[0], draw(5, 7))


def test_it_is_a_sum_over_positions_in_nats():
    loss, nll = smoothed_nll(torch.zeros(5, 8), RIGHT, 0.3)
    assert loss.item() == nll.item() == pytest.approx(5 * math.log(8))


def test_only_the_loss_has_a_gradient():
    loss, nll = smoothed_nll(draw(5, 7), RIGHT, 0.1)
    assert loss.requires_grad
    assert not nll.requires_grad


@each_smoothing
def test_the_loss_is_not_the_nll_itself(smoothing):
    """Adding to one in place must not change the other."""
    loss, nll = smoothed_nll(draw(5, 7).detach(), RIGHT, smoothing)
    before = nll.item()
    loss.add_(1)
    assert nll.item() == before


def test_bf16_logits_are_normalised_and_summed_in_fp32():
    logits = (8 * draw(5, 7)).to(torch.bfloat16).detach().requires_grad_()
    loss, nll = smoothed_nll(logits, RIGHT, 0.1)
    expected = functional.cross_entropy(logits.double(), RIGHT, label_smoothing=0.1, reduction="sum")
    assert loss.dtype == nll.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert logits.grad.dtype == torch.bfloat16


def test_large_logits_do_not_overflow():
    loss, _ = smoothed_nll(torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True), torch.tensor([1]))
    assert loss.item() == 2e4
