"""The compiled library of ``native/``: its structures, and arrays as it wants them.

It is built when freerun is installed, where a C compiler is there, and its place is beside this file. Without it models
run in onnxruntime alone.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["LIBRARY", "PRODUCT_LEVELS", "Layer", "Linear", "Model", "library", "linear", "opened", "table"]

Array = npt.NDArray[Any]

LIBRARY: Final = Path(__file__).with_name("greedy.so")
PRODUCT_LEVELS: Final = 64
"""What a weight of 7 bits is within: what all processors can add up."""
_VERSION: Final = 3
"""FREERUN_VERSION of native/greedy.h."""
_PANEL: Final = 64
_FOUR: Final = 4


class Linear(ctypes.Structure):
    """``freerun_linear`` of native/greedy.h."""

    _fields_ = [
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("scale", c_void_p),
        ("correction", c_void_p),
        ("step", c_float),
    ]


class Layer(ctypes.Structure):
    """``freerun_layer``."""

    _fields_ = [("input", Linear), ("recurrent", Linear), ("table", c_void_p)]


class Model(ctypes.Structure):
    """``freerun_model``."""

    _fields_ = [
        *((name, c_int64) for name in ("cell", "layers", "directions", "hidden", "embedding")),
        ("source_vocabulary", c_int64),
        ("target_vocabulary", c_int64),
        ("encoder", POINTER(Layer)),
        ("source_embedding", c_void_p),
        ("bridge_h", POINTER(Linear)),
        ("bridge_c", POINTER(Linear)),
        ("decoder", POINTER(Layer)),
        ("context_gates", POINTER(Linear)),
        ("context_output", POINTER(Linear)),
        ("output", Linear),
        ("tied", POINTER(Linear)),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The library, or None where it was not built, was built of other sources, or cannot be loaded here."""
    try:
        found = opened(LIBRARY)
    except (OSError, AttributeError):  # AttributeError: some other library
        return None
    return found if found.freerun_version() == _VERSION else None


def opened(path: Path) -> ctypes.CDLL:
    """The library at ``path``.

    Raises:
        OSError: it is not there, or not for this machine.
        AttributeError: it is another one.
    """
    found = ctypes.CDLL(str(path))
    found.freerun_greedy.argtypes = [POINTER(Model), c_int64, *[c_void_p] * 6, POINTER(c_int32)]
    found.freerun_greedy.restype = c_int32
    found.freerun_version.restype = c_int32
    found.freerun_instructions.restype = ctypes.c_char_p
    return found


def linear(
    kept: list[Array], weight: Array, bias: Array | None, scale: Array | None = None, step: float = 0.0
) -> Linear:
    """``x @ weight + bias`` for weight [I, N]; int8 weights come with the ``scale`` [N] of their columns.

    ``step`` is what a level of x is then. What it points to is added to ``kept``, which has to live as long as it does.
    """
    inputs, outputs = weight.shape
    if scale is None:
        return Linear(inputs, outputs, _address(kept, _panels(weight)), _row(kept, bias))
    correction = (-128 * weight.astype(np.int64).sum(axis=0)).astype(np.int32)
    return Linear(
        inputs,
        outputs,
        _address(kept, _panels_of_fours(weight)),
        _row(kept, bias),
        _row(kept, scale * np.float32(step)),
        _row(kept, correction),
        step,
    )


def table(kept: list[Array], rows: Array) -> int:
    """The address of rows [V, N] that are filled up to whole panels."""
    return _address(kept, _filled(rows, (1, _PANEL)))


def _aligned(array: Array) -> Array:
    """A copy that begins at a multiple of 64 bytes, with as much behind it: the library may read past the end."""
    room = np.empty(array.nbytes + 2 * 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _panels(weight: Array) -> Array:
    """[I, N] as [panels, I, 64]."""
    full = _filled(weight.astype(np.float32, copy=False), (1, _PANEL))
    return full.reshape(len(full), -1, _PANEL).transpose(1, 0, 2)


def _panels_of_fours(weight: Array) -> Array:
    """[I, N] as [panels, I / 4, 64, 4]."""
    full = _filled(weight, (_FOUR, _PANEL))
    return full.reshape(len(full) // _FOUR, _FOUR, -1, _PANEL).transpose(2, 0, 3, 1)


def _filled(array: Array, multiples: tuple[int, ...]) -> Array:
    return np.pad(array, [(0, -size % multiple) for size, multiple in zip(array.shape, multiples, strict=True)])


def _row(kept: list[Array], row: Array | None) -> int | None:
    return None if row is None else _address(kept, _filled(row, (_PANEL,)))


def _address(kept: list[Array], array: Array) -> int:
    kept.append(_aligned(array))
    return int(kept[-1].ctypes.data)
