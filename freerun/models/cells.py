"""The cells of ``freerun.architecture`` in torch: the equations of one step, under autograd.

These equations define a cell; every faster implementation is tested against them. A cell whose gates do not read the
previous state may add a ``scan``, which computes a whole sequence at once.

Shape suffixes: T time, B batch, H hidden, G gates x hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from freerun.models.device import is_asynchronous

__all__ = ["CELL_FUNCTIONS", "CellFunctions", "LayerState"]

LayerState = tuple[Tensor, Tensor | None]
"""(h, c) of a layer, each [B, H]; c is None unless the cell has one."""


@dataclass(frozen=True)
class CellFunctions:
    """One cell in torch.

    Attributes:
        step: ``(input_BG, recurrent_BG, h_BH, c_BH) -> (h', c')``: the two parts of the gates' inputs, biases included,
            and the state before. ``recurrent_BG`` is undefined (and not read) if the cell is not recurrent.
        scan: ``(input_TBG, h_BH) -> outputs_TBH``: all steps at once; None if there is only the loop.
    """

    step: Callable[[Tensor, Tensor, Tensor, Tensor | None], LayerState]
    scan: Callable[[Tensor, Tensor], Tensor] | None = None


def lstm_step(input_BG: Tensor, recurrent_BG: Tensor, h_BH: Tensor, c_BH: Tensor | None) -> LayerState:
    """LSTM, gates in the order i f g o (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    i, f, o = sigmoid, g = tanh;  c' = f * c + i * g;  h' = o * tanh(c').
    """
    assert c_BH is not None
    i, f, g, o = (input_BG + recurrent_BG).chunk(4, dim=-1)
    c_BH = torch.sigmoid(f) * c_BH + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c_BH), c_BH


def gru_step(input_BG: Tensor, recurrent_BG: Tensor, h_BH: Tensor, c_BH: Tensor | None) -> LayerState:
    """GRU, gates in the order r z n (Cho et al. 2014, with the reset gate after the matmul as in cuDNN).

    r, z = sigmoid;  n = tanh(input_n + r * recurrent_n);  h' = (1 - z) * n + z * h.
    """
    input_r, input_z, input_n = input_BG.chunk(3, dim=-1)
    recurrent_r, recurrent_z, recurrent_n = recurrent_BG.chunk(3, dim=-1)
    z = torch.sigmoid(input_z + recurrent_z)
    n = torch.tanh(input_n + torch.sigmoid(input_r + recurrent_r) * recurrent_n)
    return (1 - z) * n + z * h_BH, None


def rnn_step(input_BG: Tensor, recurrent_BG: Tensor, h_BH: Tensor, c_BH: Tensor | None) -> LayerState:
    """Plain RNN: h' = tanh(input + recurrent) (Elman 1990)."""
    return torch.tanh(input_BG + recurrent_BG), None


def mingru_step(input_BG: Tensor, recurrent_BG: Tensor, h_BH: Tensor, c_BH: Tensor | None) -> LayerState:
    """minGRU, gates in the order z n (Feng et al. 2024, "Were RNNs All We Needed?", appendix B).

    z = sigmoid;  n = g(input_n);  h' = (1 - z) * h + z * n, with g(x) = x + 1/2 for x >= 0, else sigmoid(x).
    """
    input_z, input_n = input_BG.chunk(2, dim=-1)
    n = torch.where(input_n >= 0, input_n + 0.5, torch.sigmoid(input_n))
    z = torch.sigmoid(input_z)
    return (1 - z) * h_BH + z * n, None


def mingru_scan(input_TBG: Tensor, h_BH: Tensor) -> Tensor:
    """Compute all steps at once, in log space (Heinsen 2023; Feng et al. 2024, appendix B).

    With A_t the product of (1 - z) up to step t, h_t = A_t * h_0 + sum over s <= t of A_t / A_s * z_s * n_s: in
    logarithms a cumulative sum and a cumulative logsumexp. The term of h_0 is added outside the logarithm, because a
    bridge may make it negative. In float64: the sums grow with the length of the sequence, and the exponential turns
    their absolute errors into relative ones.
    """
    input_z, input_n = input_TBG.double().chunk(2, dim=-1)
    log_n = torch.where(input_n >= 0, (input_n.clamp(min=0) + 0.5).log(), functional.logsigmoid(input_n))
    log_a = _cumulative_sum(functional.logsigmoid(-input_z))
    log_sum = torch.logcumsumexp(functional.logsigmoid(input_z) + log_n - log_a, 0)
    return ((log_a + log_sum).exp() + log_a.exp() * h_BH).to(h_BH.dtype)


def _cumulative_sum(values_TBH: Tensor) -> Tensor:
    """Return the cumulative sum over time; on a GPU by a matmul, because torch's differs from one run to the next."""
    if not is_asynchronous(values_TBH.device):
        return values_TBH.cumsum(0)
    steps = len(values_TBH)
    ones_TT = torch.ones(steps, steps, dtype=values_TBH.dtype, device=values_TBH.device).tril()
    return (ones_TT @ values_TBH.flatten(1)).view_as(values_TBH)


CELL_FUNCTIONS: Final[Mapping[str, CellFunctions]] = {
    "lstm": CellFunctions(lstm_step),
    "gru": CellFunctions(gru_step),
    "rnn": CellFunctions(rnn_step),
    "mingru": CellFunctions(mingru_step, mingru_scan),
}
