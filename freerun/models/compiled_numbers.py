"""Numbers in code that Numba compiles: bf16, the exponential, the logistic function and tanh.

Operands of matmuls may be bf16; NumPy does not have that type, so they come as their 16 bits, uint16. All sums are in
the type of the others, float32 or float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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

__all__ = [
    "ONE",
    "TWO",
    "Numbers",
    "Rows",
    "compiled",
    "compiled_sum",
    "downcast",
    "exp32",
    "exponential",
    "logistic",
    "tanh",
    "upcast",
]

Function = TypeVar("Function", bound=Callable[..., Any])
Numbers = NDArray[Any]
Rows = NDArray[np.int64]

# A multiplication and an addition may become one instruction, but nothing assumes finite numbers: NaN stays NaN.
_ARITHMETIC = {"contract"}
_SUM_ARITHMETIC = {"contract", "reassoc"}


def compiled(function: Function) -> Function:
    """Compile on the first call, and cache the code next to this file (or in the user's cache) for the next process."""
    return _compiled(function, _ARITHMETIC)


def compiled_sum(function: Function) -> Function:
    """Compile a sum whose order may be that of vector instructions; it depends on nothing but the number of terms."""
    return _compiled(function, _SUM_ARITHMETIC)


def _compiled(function: Function, arithmetic: set[str]) -> Function:
    options: dict[str, Any] = {"nogil": True, "fastmath": arithmetic, "error_model": "numpy"}
    try:
        result: Any = njit(cache=True, **options)(function)
    except RuntimeError:  # no writable cache directory: every process compiles its own
        result = njit(**options)(function)
    return cast("Function", result)


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
    """Return ``value * 2^n`` in float32, NaN for NaN; ``shifted`` is n + 1.5 * 2^23, whose last bits are those of n."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        value, shifted = (builder.bitcast(each, word) for each in arguments)
        product = builder.bitcast(builder.add(value, builder.shl(shifted, word(23))), ir.FloatType())
        # with bits added to its own, a NaN may become a number
        is_nan = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        return builder.select(is_nan, arguments[0], product)

    return types.float32(types.float32, types.float32), code


def upcast(value: Any) -> Any:
    """Convert a number to the type of sums."""


@overload(upcast, inline="always", strict=False)
def _upcast_of(value: Any) -> Any:
    if value == types.uint16:
        return lambda value: _from_bf16(value)  # type: ignore[call-arg]  # noqa: PLW0108 (Numba takes plain functions only)
    return lambda value: value


def downcast(value: Any, like: Any) -> Any:
    """Convert a number to the type of ``like``, an operand of a matmul."""


@overload(downcast, inline="always", strict=False)
def _downcast_of(value: Any, like: Any) -> Any:
    if like == types.uint16:
        return lambda value, like: _to_bf16(value)  # type: ignore[call-arg]
    return lambda value, like: value


ONE, TWO = np.float32(1.0), np.float32(2.0)
_LOG2_E = np.float32(1.4426950408889634)
_SHIFT = np.float32(1.5 * 2**23)
"""Added to a float32, it leaves no bits for a fraction: the sum is rounded to an integer."""
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LARGEST = np.float32(87.0)
"""e^87 is near the largest float32, and e^-87 near the smallest normal one."""
_C7, _C6, _C5, _C4, _C3, _C2 = (np.float32(1 / math.factorial(n)) for n in range(7, 1, -1))


@compiled
def exp32(x: Any) -> Any:
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
    return _times_two_to(series * (r * r) + r + ONE, shifted)  # type: ignore[call-arg]


def exponential(x: Any) -> Any:
    """Return ``e^x``."""


@overload(exponential, inline="always", strict=False)
def _exponential_of(x: Any) -> Any:
    if x == types.float32:
        return lambda x: exp32(x)  # noqa: PLW0108 (as above)
    return lambda x: math.exp(x)  # noqa: PLW0108


def logistic(x: Any) -> Any:
    """Return ``1 / (1 + e^-x)``."""


@overload(logistic, inline="always", strict=False)
def _logistic_of(x: Any) -> Any:
    if x == types.float32:
        return lambda x: ONE / (ONE + exp32(-x))
    return lambda x: 1.0 / (1.0 + math.exp(-x))


def tanh(x: Any) -> Any:
    """Return ``tanh x``; in float32 as 2 s(2 x) - 1, with an error of 2e-7 at most."""


@overload(tanh, inline="always", strict=False)
def _tanh_of(x: Any) -> Any:
    if x == types.float32:
        return lambda x: TWO / (ONE + exp32(-TWO * x)) - ONE
    return lambda x: math.tanh(x)  # noqa: PLW0108 (as above)
