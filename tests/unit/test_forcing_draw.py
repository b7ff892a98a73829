from __future__ import annotations

import pytest
import torch

from freerun.forcing.draw import Draw
from freerun.models import device as devices

LOGITS = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()


def drawn(number, logits=LOGITS, **options):
    return Draw(**options).tokens(logits, torch.tensor([number], dtype=torch.float64)).item()


@pytest.mark.parametrize(("number", "token"), [(0.0, 0), (0.09, 0), (0.11, 1), (0.29, 1), (0.31, 2), (0.61, 3)])
def test_a_number_points_at_a_token(number, token):
    assert drawn(number) == token


def test_banned_tokens_are_never_drawn_and_the_others_share_their_place():
    numbers = torch.linspace(0, 1 - 1e-9, 1001, dtype=torch.float64)
    found = Draw(banned=(0, 3)).tokens(LOGITS.expand(1001, -1), numbers)
    assert found.unique().tolist() == [1, 2]
    assert (found == 1).double().mean().item() == pytest.approx(0.4, abs=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_number_points_at_the_last_token_that_is_possible(dtype):
    logits = torch.tensor([[0.0, 1.0, 0.5, -float("inf"), -float("inf")]], dtype=dtype)
    assert drawn(1 - 2.0**-53, logits) == 2
    assert drawn(0.0, torch.tensor([[-float("inf"), 1.0]], dtype=dtype)) == 1


def test_temperature_sharpens_and_flattens():
    assert [drawn(0.35, temperature=temperature) for temperature in (0.1, 1.0, 100.0)] == [3, 2, 1]


def test_argmax_takes_the_first_of_equals_and_heeds_bans():
    tied = torch.tensor([[1.0, 3.0, 3.0, 2.0]])
    assert drawn(0.99, tied, kind="argmax") == 1
    assert drawn(0.0, tied, kind="argmax", banned=(1, 2)) == 3


def test_draws_in_bf16_are_made_from_fp32():
    logits = torch.zeros(1, 1000, dtype=torch.bfloat16)
    assert drawn(0.7505, logits) == 750


def test_the_logits_are_left_as_they_are():
    logits = LOGITS.clone()
    drawn(0.5, logits, banned=(2,))
    assert torch.equal(logits, LOGITS)


@pytest.mark.parametrize("options", [{}, {"banned": (0, 3)}, {"temperature": 0.2}])
def test_integers_draw_what_fractions_do(monkeypatch, options):
    numbers = torch.linspace(0, 1 - 2.0**-53, 1001, dtype=torch.float64)
    logits = LOGITS.double().expand(1001, -1)
    expected = Draw(**options).tokens(logits, numbers)
    monkeypatch.setattr(devices, "_SYNCHRONOUS", frozenset())
    assert torch.equal(Draw(**options).tokens(logits, numbers), expected)


def test_integers_end_at_the_last_token_that_is_possible(monkeypatch):
    monkeypatch.setattr(devices, "_SYNCHRONOUS", frozenset())
    test_the_largest_number_points_at_the_last_token_that_is_possible(torch.float64)
