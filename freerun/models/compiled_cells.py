"""The cells of the CPU kernels: one step of LSTM, GRU and plain RNN, forward and backward, compiled by Numba.

A step adds little arithmetic to its matmul with the recurrent weight. Written as tensor operations that is a dozen
passes over memory and as many calls; here a row's gates are computed, used and stored while they are in the fastest
cache. Each loop writes one array, because then the compiler turns it into vector instructions.

Notation: x the input projection of the gates, u the recurrent projection, u = h W'; h, c and h', c' the state before
and after a step, s the logistic function; dv the gradient of v, da that of the argument of a gate's s or tanh.

LSTM (Hochreiter & Schmidhuber 1997; Gers et al. 2000), a = x + u:

    i, f, o = s(a_i), s(a_f), s(a_o);  g = tanh a_g;  c' = f * c + i * g;  h' = o * tanh c'

    dc' += dh' * o * (1 - tanh^2 c');  da_o = dh' * tanh c' * o * (1 - o)
    da_i = dc' * g * i * (1 - i);  da_f = dc' * c * f * (1 - f);  da_g = dc' * i * (1 - g^2);  dc = dc' * f

GRU (Cho et al. 2014, the reset gate after the matmul as in cuDNN), b the recurrent bias of the candidate:

    r, z = s(x_r + u_r), s(x_z + u_z);  n = tanh(x_n + r * (u_n + b));  h' = n + z * (h - n)

    da_z = dh' * (h - n) * z * (1 - z);  da_n = dh' * (1 - z) * (1 - n^2);  da_r = da_n * (u_n + b) * r * (1 - r)
    du_n = db = da_n * r, which is not da_n;  dh = dh' * z, plus what the matmuls pass back

RNN (Elman 1990):  h' = tanh(x + u);  da = dh' * (1 - h'^2)

Over 350 lines, because a cell is two loops over rows that share their arithmetic, one line per array.

Shape suffixes: B batch, H hidden, G gates x hidden, K what a step saves (4 H, RNN: 0), N rows of the input projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from freerun.models.compiled_numbers import (
    ONE,
    Numbers,
    Rows,
    compiled,
    downcast,
    logistic,
    tanh,
    upcast,
)

__all__ = ["COMPILED_CELLS", "CellSteps", "add_rows", "add_scaled_rows", "gate_inputs"]


# -- LSTM --------------------------------------------------------------------------------------------------------------


@compiled
def _lstm_forward(
    u_BG: Numbers,
    x_NG: Numbers,
    rows_B: Rows,
    bias_H: Numbers,
    c_BH: Numbers,
    saved_BK: Numbers,
    new_c_BH: Numbers,
    h_BH: Numbers,
) -> None:
    size = c_BH.shape[1]
    for row in range(len(c_BH)):
        u, x, c, new_c, h = u_BG[row], x_NG[rows_B[row]], c_BH[row], new_c_BH[row], h_BH[row]
        gates = saved_BK[row]
        i, f, g, o = gates[:size], gates[size : 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
        for j in range(4 * size):
            gates[j] = upcast(x[j]) + upcast(u[j])
        for j in range(2 * size):
            gates[j] = logistic(gates[j])
        for j in range(size):
            g[j] = tanh(g[j])
        for j in range(size):
            o[j] = logistic(o[j])
        for j in range(size):
            new_c[j] = f[j] * c[j] + i[j] * g[j]
        for j in range(size):
            h[j] = downcast(o[j] * tanh(new_c[j]), h[j])


@compiled
def _lstm_backward(
    dh_BH: Numbers,
    du_h_BH: Numbers,
    saved_BK: Numbers,
    c_BH: Numbers,
    new_c_BH: Numbers,
    dc_BH: Numbers,
    da_BG: Numbers,
    du_BG: Numbers,
    db_H: Numbers,
) -> None:
    size = c_BH.shape[1]
    for row in range(len(c_BH)):
        dh, du_h, c, new_c, dc = dh_BH[row], du_h_BH[row], c_BH[row], new_c_BH[row], dc_BH[row]
        gates, da, du = saved_BK[row], da_BG[row], du_BG[row]
        i, f, g, o = gates[:size], gates[size : 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
        da_i, da_f, da_g, da_o = da[:size], da[size : 2 * size], da[2 * size : 3 * size], da[3 * size :]
        for j in range(size):
            dh[j] += upcast(du_h[j])
        for j in range(size):
            da_o[j] = tanh(new_c[j])
        for j in range(size):
            dc[j] += dh[j] * o[j] * (ONE - da_o[j] * da_o[j])
        for j in range(size):
            da_o[j] = dh[j] * da_o[j] * o[j] * (ONE - o[j])
        for j in range(size):
            da_i[j] = dc[j] * g[j] * i[j] * (ONE - i[j])
        for j in range(size):
            da_f[j] = dc[j] * c[j] * f[j] * (ONE - f[j])
        for j in range(size):
            da_g[j] = dc[j] * i[j] * (ONE - g[j] * g[j])
        for j in range(size):
            dc[j] *= f[j]
        for j in range(4 * size):
            du[j] = downcast(da[j], du[j])


# -- GRU ---------------------------------------------------------------------------------------------------------------


@compiled
def _gru_forward(
    u_BG: Numbers,
    x_NG: Numbers,
    rows_B: Rows,
    bias_H: Numbers,
    h_BH: Numbers,
    saved_BK: Numbers,
    new_h_BH: Numbers,
    compute_h_BH: Numbers,
) -> None:
    size = h_BH.shape[1]
    for row in range(len(h_BH)):
        u, x, h, new_h, compute_h = u_BG[row], x_NG[rows_B[row]], h_BH[row], new_h_BH[row], compute_h_BH[row]
        saved = saved_BK[row]
        r, z, n, b_u_n = saved[:size], saved[size : 2 * size], saved[2 * size : 3 * size], saved[3 * size :]
        for j in range(2 * size):
            saved[j] = logistic(upcast(x[j]) + upcast(u[j]))
        for j in range(size):
            b_u_n[j] = upcast(u[2 * size + j]) + bias_H[j]
        for j in range(size):
            n[j] = tanh(upcast(x[2 * size + j]) + r[j] * b_u_n[j])
        for j in range(size):
            new_h[j] = n[j] + z[j] * (h[j] - n[j])
        for j in range(size):
            compute_h[j] = downcast(new_h[j], compute_h[j])


@compiled
def _gru_backward(
    dh_BH: Numbers,
    du_h_BH: Numbers,
    saved_BK: Numbers,
    h_BH: Numbers,
    new_h_BH: Numbers,
    d_carried_BH: Numbers,
    da_BG: Numbers,
    du_BG: Numbers,
    db_H: Numbers,
) -> None:
    size = h_BH.shape[1]
    for row in range(len(h_BH)):
        dh, du_h, h, d_carried = dh_BH[row], du_h_BH[row], h_BH[row], d_carried_BH[row]
        saved, da, du = saved_BK[row], da_BG[row], du_BG[row]
        r, z, n, b_u_n = saved[:size], saved[size : 2 * size], saved[2 * size : 3 * size], saved[3 * size :]
        da_r, da_z, da_n, du_n = da[:size], da[size : 2 * size], da[2 * size :], du[2 * size :]
        for j in range(size):
            dh[j] += upcast(du_h[j]) + d_carried[j]
        for j in range(size):
            da_n[j] = dh[j] * (ONE - z[j]) * (ONE - n[j] * n[j])
        for j in range(size):
            da_r[j] = da_n[j] * b_u_n[j] * r[j] * (ONE - r[j])
        for j in range(size):
            da_z[j] = dh[j] * (h[j] - n[j]) * z[j] * (ONE - z[j])
        for j in range(size):
            db_H[j] += da_n[j] * r[j]
        for j in range(2 * size):
            du[j] = downcast(da[j], du[j])
        for j in range(size):
            du_n[j] = downcast(da_n[j] * r[j], du_n[j])
        for j in range(size):
            d_carried[j] = dh[j] * z[j]


# -- RNN ---------------------------------------------------------------------------------------------------------------


@compiled
def _rnn_forward(
    u_BG: Numbers,
    x_NG: Numbers,
    rows_B: Rows,
    bias_H: Numbers,
    h_BH: Numbers,
    saved_BK: Numbers,
    new_h_BH: Numbers,
    compute_h_BH: Numbers,
) -> None:
    for row in range(len(h_BH)):
        u, x, new_h, compute_h = u_BG[row], x_NG[rows_B[row]], new_h_BH[row], compute_h_BH[row]
        for j in range(len(new_h)):
            new_h[j] = tanh(upcast(x[j]) + upcast(u[j]))
        for j in range(len(new_h)):
            compute_h[j] = downcast(new_h[j], compute_h[j])


@compiled
def _rnn_backward(
    dh_BH: Numbers,
    du_h_BH: Numbers,
    saved_BK: Numbers,
    h_BH: Numbers,
    new_h_BH: Numbers,
    d_carried_BH: Numbers,
    da_BG: Numbers,
    du_BG: Numbers,
    db_H: Numbers,
) -> None:
    for row in range(len(h_BH)):
        dh, du_h, new_h, da, du = dh_BH[row], du_h_BH[row], new_h_BH[row], da_BG[row], du_BG[row]
        for j in range(len(new_h)):
            dh[j] += upcast(du_h[j])
        for j in range(len(new_h)):
            da[j] = dh[j] * (ONE - new_h[j] * new_h[j])
        for j in range(len(new_h)):
            du[j] = downcast(da[j], du[j])


# -- the cells of the kernels ------------------------------------------------------------------------------------------


@compiled
def gate_inputs(
    rows_B: Rows, x_NG: Numbers, scale_B: Numbers, constant_BG: Numbers, read_BG: Numbers, sums_BG: Numbers
) -> None:
    """Write the gates' inputs: the row of ``x_NG`` that ``rows_B`` names, times ``scale_B``, and what is added to it.

    The others may be empty.
    """
    for row in range(len(sums_BG)):
        x, sums = x_NG[rows_B[row]], sums_BG[row]
        if len(scale_B):
            scale = scale_B[row]
            for j in range(len(sums)):
                sums[j] = scale * upcast(x[j])
        else:
            for j in range(len(sums)):
                sums[j] = upcast(x[j])
        if len(constant_BG):
            constant = constant_BG[row]
            for j in range(len(sums)):
                sums[j] += upcast(constant[j])
        if len(read_BG):
            read = read_BG[row]
            for j in range(len(sums)):
                sums[j] += upcast(read[j])


@compiled
def add_rows(
    total_NG: Numbers,
    rows_B: Rows,
    values_BG: Numbers,
) -> None:
    """Add each row of ``values_BG`` to the row of ``total_NG`` that ``rows_B`` names."""
    for row in range(len(values_BG)):
        total, values = total_NG[rows_B[row]], values_BG[row]
        for j in range(len(values)):
            total[j] += values[j]


@compiled
def add_scaled_rows(total_NG: Numbers, rows_B: Rows, scale_B: Numbers, values_BG: Numbers) -> None:
    """The same with each row times its ``scale_B``."""
    for row in range(len(values_BG)):
        total, values, scale = total_NG[rows_B[row]], values_BG[row], scale_B[row]
        for j in range(len(values)):
            total[j] += scale * values[j]


@dataclass(frozen=True)
class CellSteps:
    """The steps of one cell.

    ``forward(u_BG, x_NG, rows_B, bias_H, accum_BH, saved_BK, new_accum_BH, h_BH)``: from the recurrent projection
    ``u_BG``, the rows ``rows_B`` of the input projection ``x_NG``, a GRU's ``bias_H`` and the state ``accum_BH``, it
    writes what the backward step needs, the new state, and the h that is multiplied next. ``accum`` is the state in
    the type of sums: an LSTM's c, and h of the others.

    ``backward(dh_BH, du_h_BH, saved_BK, accum_BH, new_accum_BH, d_accum_BH, da_BG, du_BG, db_H)``: from the gradient of
    the output h, to which the one that the next step's matmul passes back is added in place, and from ``d_accum_BH``,
    that of the new state, it writes the gradients of the old state (in place), of the input projection and of the
    recurrent one, and adds to a GRU's ``db_H``.
    """

    forward: Callable[..., None]
    backward: Callable[..., None]
    saved: int
    """Numbers per unit that a step saves."""


COMPILED_CELLS = {
    "lstm": CellSteps(_lstm_forward, _lstm_backward, 4),
    "gru": CellSteps(_gru_forward, _gru_backward, 4),
    "rnn": CellSteps(_rnn_forward, _rnn_backward, 0),
}
