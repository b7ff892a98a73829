"""The compiled steps: their functions, their roundings, and what is not a number."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from numba import njit

from freerun.architecture import CELLS
from freerun.models import compiled_cells as cells
from freerun.models import compiled_numbers as numbers
from tests.networks import COMPILED_CELLS

each_cell = pytest.mark.parametrize("cell", COMPILED_CELLS)
WIDE = np.concatenate([np.linspace(-100, 100, 100_001), np.linspace(-1e-3, 1e-3, 1001)]).astype(np.float32)


@njit
def logistics(values, out):
    for j in range(len(values)):
        out[j] = numbers.logistic(values[j])


@njit
def tanhs(values, out):
    for j in range(len(values)):
        out[j] = numbers.tanh(values[j])


@njit
def exponentials(values, out):
    for j in range(len(values)):
        out[j] = numbers.exp32(values[j])


@njit
def roundings(values, out):
    for j in range(len(values)):
        out[j] = numbers.downcast(values[j], out[j])


@njit
def widenings(values, out):
    for j in range(len(values)):
        out[j] = numbers.upcast(values[j])


def applied(function, values, dtype=None):
    out = np.zeros(values.shape, dtype or values.dtype)
    function(values, out)
    return out


def test_exponentials_are_right_to_the_last_bits():
    values = np.linspace(-87, 87, 100_001).astype(np.float32)
    exact = np.exp(values.astype(np.float64))
    assert np.abs(applied(exponentials, values) / exact - 1).max() < 2e-7


@pytest.mark.parametrize(
    ("function", "exact"), [(logistics, lambda x: torch.sigmoid(torch.tensor(x)).numpy()), (tanhs, np.tanh)]
)
def test_gates_are_right_to_the_last_bits(function, exact):
    assert np.abs(applied(function, WIDE) - exact(WIDE.astype(np.float64))).max() < 2e-7
    assert np.abs(applied(function, WIDE.astype(np.float64)) - exact(WIDE.astype(np.float64))).max() < 1e-15


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("function", "low"), [(logistics, 0.0), (tanhs, -1.0)])
def test_gates_at_their_ends(function, low, dtype):
    found = applied(function, np.array([-np.inf, np.inf, np.nan], dtype))
    assert found[:2] == pytest.approx([low, 1.0], abs=1e-37)
    assert np.isnan(found[2])


def test_rounding_to_bf16_is_that_of_torch():
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, np.uint32)
    halfway = np.arange(0x3F800000, 0x3F8F0000, 0x8000, np.uint32)  # every other one lies between two bf16 numbers
    special = np.array([0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 1], np.uint32)
    values = np.concatenate([bits, halfway, special]).view(np.float32)
    expected = torch.tensor(values).bfloat16()
    found = torch.tensor(applied(roundings, values, np.uint16)).view(torch.bfloat16)
    assert found.isnan().equal(expected.isnan())
    real = ~expected.isnan()
    assert found[real].view(torch.int16).equal(expected[real].view(torch.int16))


def test_every_kind_of_nan_stays_one():
    values = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFFC00000], np.uint32).view(np.float32)
    assert torch.tensor(applied(roundings, values, np.uint16)).view(torch.bfloat16).isnan().all()


@pytest.mark.parametrize("function", [exponentials, logistics, tanhs])
def test_functions_of_every_kind_of_nan_are_none(function):
    values = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC000FF, 0xFFC00000], np.uint32).view(np.float32)
    assert np.isnan(applied(function, values)).all()


def test_bf16_is_widened_exactly():
    bits = np.arange(2**16, dtype=np.uint16)
    expected = torch.tensor(bits).view(torch.bfloat16).float()
    real = ~expected.isnan()
    assert torch.tensor(applied(widenings, bits, np.float32))[real].equal(expected[real])


@each_cell
def test_a_number_that_is_none_is_seen_in_the_state(cell):
    """Training stops at a loss that is not finite; a clamp that swallowed NaN would hide it."""
    gates = CELLS[cell].gates
    product = np.zeros((1, gates), np.float32)
    product[0, -1] = np.nan
    x, rows, state, new = np.zeros((1, gates), np.float32), np.zeros(1, np.int64), np.zeros((1, 1), np.float32), {}
    for name in ("accum", "h"):
        new[name] = np.zeros((1, 1), np.float32)
    compiled = cells.COMPILED_CELLS[cell]
    saved = np.zeros((1, compiled.saved), np.float32)
    compiled.forward(product, x, rows, np.zeros(1, np.float32), state, saved, new["accum"], new["h"])
    assert np.isnan(new["h"]).all()


def test_rows_are_added_where_they_are_named():
    total = np.ones((3, 2))
    cells.add_rows(total, np.array([2, 0, 2]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert total.tolist() == [[4, 5], [1, 1], [7, 9]]


def test_without_a_folder_for_code_it_is_compiled_all_the_same(monkeypatch):
    def njit_without_folder(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numbers, "njit", njit_without_folder)
    assert numbers.compiled(lambda x: x + 1)(2) == 3


def test_without_numba_it_says_how_to_install_it():
    program = "import sys; sys.modules['numba'] = None; import freerun.models.compiled_cells"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    message = "numba: this package is not installed, and training on a CPU needs it. Expected the extra 'train'."
    assert f"{message} Install it with: pip install 'freerun[train]'" in found.stderr
