from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from freerun.forcing import loss as loss_module
from freerun.forcing.loss import output_nll, smoothed_nll
from freerun.training.precision import autocast, bf16_is_fast
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


# ----------------------------------------------------------------------------------------------------------- in chunks


@pytest.fixture
def held(monkeypatch):
    """At most 14 logits at a time: two positions of a vocabulary of seven; tells how many there were each time."""
    sizes, whole = [], smoothed_nll

    def watched(logits, *more):
        sizes.append(logits.numel())
        return whole(logits, *more)

    monkeypatch.setattr(loss_module, "MAX_LOGITS", 14)
    monkeypatch.setattr(loss_module, "smoothed_nll", watched)
    return sizes


@each_smoothing
def test_in_chunks_the_loss_and_its_gradients_are_the_same(smoothing, held):
    features, weight, bias = draw(5, 4), draw(7, 4, seed=1), draw(7, seed=2)
    loss, nll = output_nll(features, weight, bias, RIGHT, smoothing)
    assert held == [14, 14, 7]
    expected, expected_nll = smoothed_nll(functional.linear(features, weight, bias), RIGHT, smoothing)
    close([loss, nll], [expected, expected_nll])
    wanted = features, weight, bias
    close(gradients(3.5 * loss, *wanted), gradients(3.5 * expected, *wanted))
    assert not nll.requires_grad


def test_a_vocabulary_beyond_the_limit_is_one_position_at_a_time(held):
    features, weight, bias = draw(5, 4), draw(20, 4, seed=1), draw(20, seed=2)
    loss, _ = output_nll(features, weight, bias, RIGHT)
    assert held == [20] * 5
    close(loss, smoothed_nll(functional.linear(features, weight, bias), RIGHT)[0])


@pytest.mark.skipif(not bf16_is_fast(), reason="this processor has no bf16")
def test_in_chunks_bf16_is_for_products_only(held):
    features, weight, bias = (
        draw(*shape, seed=n, dtype=torch.float32) for n, shape in enumerate([(5, 4), (7, 4), (7,)])
    )
    expected, _ = smoothed_nll(functional.linear(features, weight, bias), RIGHT)
    with autocast("bf16"):
        loss, _ = output_nll(features, weight, bias, RIGHT)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    wanted = features, weight, bias
    for found, right in zip(gradients(loss, *wanted), gradients(expected, *wanted), strict=True):
        assert found.dtype == torch.float32
        close(found, right, 0.03)
