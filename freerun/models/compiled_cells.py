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

Operands of matmuls may be bf16; NumPy does not have that type, so they come as their 16 bits, uint16. All sums are in
the type of the others, float32 or float64.

Over 350 lines, because a cell is two loops over rows that share their arithmetic, one line per array.

Shape suffixes: B batch, H hidden, G gates x hidden, K what a step saves (4 H, RNN: 0), N rows of the input projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from freerun.errors import MissingExtraError

try:
    from llvmlite import ir
    from numba import njit, types
    from numba.extending import intrinsic, overload
except ModuleNotFoundError as missing:
    raise MissingExtraError("numba", "train", "training on a CPU") from missing

__all__ = ["COMPILED_CELLS", "CellSteps", "add_rows"]

Function = TypeVar("Function", bound=Callable[..., Any])
Numbers = NDArray[Any]
Rows = NDArray[np.int64]

# A multiplication and an addition may become one instruction, but nothing assumes finite numbers: NaN stays NaN.
_ARITHMETIC = {"contract"}


def _compiled(function: Function) -> Function:
    """Compile on the first call, and cache the code next to this file (or in the user's cache) for the next process."""
    try:
        compiled: Any = njit(cache=True, nogil=True, fastmath=_ARITHMETIC, error_model="numpy")(function)
    except RuntimeError:  # no writable cache directory: every process compiles its own
        compiled = njit(nogil=True, fastmath=_ARITHMETIC, error_model="numpy")(function)
    return cast("Function", compiled)


# -- numbers -----------------------------------------------------------------------------------------------------------


@intrinsic
def _from_bf16(context: Any, bits: Any) -> Any:
    """Return the float32 whose upper half is these 16 bits."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.IntType(32)(16)), ir.FloatType())

    return types.float32(types.uint16), code


@intrinsic
def _to_bf16(context: Any, value: Any) -> Any:
    """Return the upper 16 bits of a float32, rounded to nearest, ties to even; NaN stays NaN."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, word(16)), word(1))
        rounded = builder.lshr(builder.add(builder.add(bits, word(0x7FFF)), odd), word(16))
        is_nan = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        return builder.trunc(builder.select(is_nan, word(0x7FC0), rounded), ir.IntType(16))

    return types.uint16(types.float32), code


@intrinsic
def _times_two_to(context: Any, value: Any, shifted: Any) -> Any:
    """Return ``value * 2^n`` in float32; ``shifted`` is n + 1.5 * 2^23, whose last bits are those of n."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        value, shifted = (builder.bitcast(each, word) for each in arguments)
        return builder.bitcast(builder.add(value, builder.shl(shifted, word(23))), ir.FloatType())

    return types.float32(types.float32, types.float32), code


def _upcast(value: Any) -> Any:
    """Convert a number to the type of sums."""


@overload(_upcast, inline="always", strict=False)
def _upcast_of(value: Any) -> Any:
    if value == types.uint16:
        return lambda value: _from_bf16(value)  # type: ignore[call-arg]  # noqa: PLW0108 (Numba takes plain functions only)
    return lambda value: value


def _downcast(value: Any, like: Any) -> Any:
    """Convert a number to the type of ``like``, an operand of a matmul."""


@overload(_downcast, inline="always", strict=False)
def _downcast_of(value: Any, like: Any) -> Any:
    if like == types.uint16:
        return lambda value, like: _to_bf16(value)  # type: ignore[call-arg]
    return lambda value, like: value


_ONE, _TWO = np.float32(1.0), np.float32(2.0)
_LOG2_E = np.float32(1.4426950408889634)
_SHIFT = np.float32(1.5 * 2**23)
"""Added to a float32, it leaves no bits for a fraction: the sum is rounded to an integer."""
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LARGEST = np.float32(87.0)
"""e^87 is near the largest float32, and e^-87 near the smallest normal one."""
_C7, _C6, _C5, _C4, _C3, _C2 = (np.float32(1 / math.factorial(n)) for n in range(7, 1, -1))


@_compiled
def _exp32(x: Any) -> Any:
    """Return e^x in float32, relative error 2e-7: x = n ln 2 + r, |r| <= ln 2 / 2, e^r by series (Cody & Waite 1980).

    Beyond ``_LARGEST`` it is constant.
    """
    if x > _LARGEST:
        x = _LARGEST
    if x < -_LARGEST:
        x = -_LARGEST
    shifted = x * _LOG2_E + _SHIFT
    n = shifted - _SHIFT
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    series = ((((_C7 * r + _C6) * r + _C5) * r + _C4) * r + _C3) * r + _C2
    return _times_two_to(series * (r * r) + r + _ONE, shifted)  # type: ignore[call-arg]


def _logistic(x: Any) -> Any:
    """Return ``1 / (1 + e^-x)``."""


@overload(_logistic, inline="always", strict=False)
def _logistic_of(x: Any) -> Any:
    if x == types.float32:
        return lambda x: _ONE / (_ONE + _exp32(-x))
    return lambda x: 1.0 / (1.0 + math.exp(-x))


def _tanh(x: Any) -> Any:
    """Return ``tanh x``; in float32 as 2 s(2 x) - 1, with an error of 2e-7 at most."""


@overload(_tanh, inline="always", strict=False)
def _tanh_of(x: Any) -> Any:
    if x == types.float32:
        return lambda x: _TWO / (_ONE + _exp32(-_TWO * x)) - _ONE
    return lambda x: math.tanh(x)  # noqa: PLW0108 (as above)


# -- LSTM --------------------------------------------------------------------------------------------------------------


@_compiled
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
            gates[j] = _upcast(x[j]) + _upcast(u[j])
        for j in range(2 * size):
            gates[j] = _logistic(gates[j])
        for j in range(size):
            g[j] = _tanh(g[j])
        for j in range(size):
            o[j] = _logistic(o[j])
        for j in range(size):
            new_c[j] = f[j] * c[j] + i[j] * g[j]
        for j in range(size):
            h[j] = _downcast(o[j] * _tanh(new_c[j]), h[j])


@_compiled
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
            dh[j] += _upcast(du_h[j])
        for j in range(size):
            da_o[j] = _tanh(new_c[j])
        for j in range(size):
            dc[j] += dh[j] * o[j] * (_ONE - da_o[j] * da_o[j])
        for j in range(size):
            da_o[j] = dh[j] * da_o[j] * o[j] * (_ONE - o[j])
        for j in range(size):
            da_i[j] = dc[j] * g[j] * i[j] * (_ONE - i[j])
        for j in range(size):
            da_f[j] = dc[j] * c[j] * f[j] * (_ONE - f[j])
        for j in range(size):
            da_g[j] = dc[j] * i[j] * (_ONE - g[j] * g[j])
        for j in range(size):
            dc[j] *= f[j]
        for j in range(4 * size):
            du[j] = _downcast(da[j], du[j])


# -- GRU ---------------------------------------------------------------------------------------------------------------


@_compiled
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
            saved[j] = _logistic(_upcast(x[j]) + _upcast(u[j]))
        for j in range(size):
            b_u_n[j] = _upcast(u[2 * size + j]) + bias_H[j]
        for j in range(size):
            n[j] = _tanh(_upcast(x[2 * size + j]) + r[j] * b_u_n[j])
        for j in range(size):
            new_h[j] = n[j] + z[j] * (h[j] - n[j])
        for j in range(size):
            compute_h[j] = _downcast(new_h[j], compute_h[j])


@_compiled
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
            dh[j] += _upcast(du_h[j]) + d_carried[j]
        for j in range(size):
            da_n[j] = dh[j] * (_ONE - z[j]) * (_ONE - n[j] * n[j])
        for j in range(size):
            da_r[j] = da_n[j] * b_u_n[j] * r[j] * (_ONE - r[j])
        for j in range(size):
            da_z[j] = dh[j] * (h[j] - n[j]) * z[j] * (_ONE - z[j])
        for j in range(size):
            db_H[j] += da_n[j] * r[j]
        for j in range(2 * size):
            du[j] = _downcast(da[j], du[j])
        for j in range(size):
            du_n[j] = _downcast(da_n[j] * r[j], du_n[j])
        for j in range(size):
            d_carried[j] = dh[j] * z[j]


# -- RNN ---------------------------------------------------------------------------------------------------------------


@_compiled
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
            new_h[j] = _tanh(_upcast(x[j]) + _upcast(u[j]))
        for j in range(len(new_h)):
            compute_h[j] = _downcast(new_h[j], compute_h[j])


@_compiled
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
            dh[j] += _upcast(du_h[j])
        for j in range(len(new_h)):
            da[j] = dh[j] * (_ONE - new_h[j] * new_h[j])
        for j in range(len(new_h)):
            du[j] = _downcast(da[j], du[j])


# -- the cells of the kernels ------------------------------------------------------------------------------------------


@_compiled
def sums_of_rows(rows_B: Rows, x_NG: Numbers, constant_BG: Numbers, sums_BG: Numbers) -> None:
    """Write the sum of the row of ``x_NG`` that ``rows_B`` names and the row of ``constant_BG``."""
    for row in range(len(sums_BG)):
        x, constant, sums = x_NG[rows_B[row]], constant_BG[row], sums_BG[row]
        for j in range(len(sums)):
            sums[j] = _upcast(x[j]) + _upcast(constant[j])


@_compiled
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
