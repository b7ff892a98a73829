"""The compiled library of ``native/``: its structures, and arrays in the layout that it reads.

Installing freerun builds it, into this directory, if there is a C compiler. Without it models run in onnxruntime alone.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_double, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "LIBRARY",
    "PRODUCT_LEVELS",
    "AttentionWeights",
    "BeamSettings",
    "Layer",
    "Linear",
    "Model",
    "Outputs",
    "instructions",
    "library",
    "linear",
    "opened",
    "table",
]

Array = npt.NDArray[Any]

LIBRARY: Final = Path(__file__).with_name("greedy.so")
PRODUCT_LEVELS: Final = 64
"""Largest magnitude of an int8 weight: products of such weights add up without overflow on every CPU."""
_VERSION: Final = 6
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


class AttentionWeights(ctypes.Structure):
    """``freerun_attention``."""

    _fields_ = [
        ("is_within", c_int64),
        ("keys", POINTER(Linear)),
        ("query", POINTER(Linear)),
        ("vector", c_void_p),
        ("values", Linear),
        ("state", Linear),
        ("tokens", c_void_p),
        ("fed", POINTER(Linear)),
        ("entries", c_void_p),
    ]


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
        ("feature_vocabulary", c_int64),
        ("feature_table", c_void_p),
        ("feature_bias", c_void_p),
        ("feature_encoder", POINTER(Linear)),
        ("feature_decoder", POINTER(Linear)),
        ("attention", POINTER(AttentionWeights)),
    ]


class BeamSettings(ctypes.Structure):
    """``freerun_beam``."""

    _fields_ = [
        ("beam_size", c_int64),
        ("num_hypotheses", c_int64),
        ("early_stop", c_int64),
        ("length_penalty", c_double),
    ]


class Outputs(ctypes.Structure):
    """``freerun_outputs``."""

    _fields_ = [("tokens", POINTER(c_int32)), ("scores", POINTER(c_float))]


@cache
def library() -> ctypes.CDLL | None:
    """Return the library, or None if it was not built, was built from other sources, or cannot be loaded here."""
    try:
        compiled = opened(LIBRARY)
    except (OSError, AttributeError):  # AttributeError: some other library
        return None
    return compiled if compiled.freerun_version() == _VERSION else None


def instructions() -> str | None:
    """Return the instruction set that the library uses here: "avx512", "avx2" or "base"; None without the library."""
    compiled = library()
    if compiled is None:
        return None
    name: bytes = compiled.freerun_instructions()
    return name.decode()


def opened(path: Path) -> ctypes.CDLL:
    """Open the library at ``path``.

    Raises:
        OSError: it does not exist, or is not for this machine.
        AttributeError: it is another library.
    """
    compiled = ctypes.CDLL(str(path))
    compiled.freerun_greedy.argtypes = [POINTER(Model), c_int64, *[c_void_p] * 8, POINTER(c_int32)]
    compiled.freerun_greedy.restype = c_int32
    arrays: list[Any] = [c_void_p] * 5
    compiled.freerun_beam_search.argtypes = [
        *(POINTER(Model), c_int64, *arrays, POINTER(BeamSettings), c_void_p, c_void_p, POINTER(Outputs)),
        POINTER(c_int32),
    ]
    compiled.freerun_beam_search.restype = c_int32
    compiled.freerun_release.argtypes = [POINTER(Outputs)]
    compiled.freerun_release.restype = None
    compiled.freerun_start.argtypes = [POINTER(Model), c_int64, *[c_void_p] * 4, POINTER(c_void_p), POINTER(c_int32)]
    compiled.freerun_start.restype = c_int32
    compiled.freerun_step.argtypes = [c_void_p, c_int64, *[c_void_p] * 3]
    compiled.freerun_step.restype = c_int32
    compiled.freerun_attended.argtypes = [c_void_p, c_int64, c_int64, c_void_p]
    compiled.freerun_attended.restype = c_int32
    compiled.freerun_best.argtypes = [c_int64, c_int64, c_void_p, c_int64, c_void_p, c_void_p]
    compiled.freerun_best.restype = c_int32
    compiled.freerun_end.argtypes = [c_void_p]
    compiled.freerun_end.restype = None
    compiled.freerun_version.restype = c_int32
    compiled.freerun_instructions.restype = ctypes.c_char_p
    return compiled


def linear(
    memory: list[Array], weight: Array, bias: Array | None, scale: Array | None = None, step: float = 0.0
) -> Linear:
    """Return ``x @ weight + bias`` for weight [I, N]; int8 weights come with the ``scale`` [N] of their columns.

    ``step`` is then the width of a quantization level of x. The arrays that it points to are added to ``memory``, which
    must live as long as it does.
    """
    inputs, outputs = weight.shape
    if scale is None:
        return Linear(inputs=inputs, outputs=outputs, weight=_address(memory, _panels(weight)), bias=_row(memory, bias))
    correction = (-128 * weight.astype(np.int64).sum(axis=0)).astype(np.int32)
    return Linear(
        inputs=inputs,
        outputs=outputs,
        weight=_address(memory, _panels_of_fours(weight)),
        bias=_row(memory, bias),
        scale=_row(memory, scale * np.float32(step)),
        correction=_row(memory, correction),
        step=step,
    )


def table(memory: list[Array], rows: Array) -> int:
    """Return the address of rows [V, N], padded to whole panels."""
    return _address(memory, _padded(rows, (1, _PANEL)))


def _aligned(array: Array) -> Array:
    """Return a copy at a multiple of 64 bytes, with 64 bytes after it: the library may read past the end."""
    room = np.empty(array.nbytes + 2 * 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _panels(weight: Array) -> Array:
    """Return a weight [I, N] as [panels, I, 64]."""
    full = _padded(weight.astype(np.float32, copy=False), (1, _PANEL))
    return full.reshape(len(full), -1, _PANEL).transpose(1, 0, 2)


def _panels_of_fours(weight: Array) -> Array:
    """Return a weight [I, N] as [panels, I / 4, 64, 4]."""
    full = _padded(weight, (_FOUR, _PANEL))
    return full.reshape(len(full) // _FOUR, _FOUR, -1, _PANEL).transpose(2, 0, 3, 1)


def _padded(array: Array, multiples: tuple[int, ...]) -> Array:
    return np.pad(array, [(0, -size % multiple) for size, multiple in zip(array.shape, multiples, strict=True)])


def _row(memory: list[Array], row: Array | None) -> int | None:
    return None if row is None else _address(memory, _padded(row, (_PANEL,)))


def _address(memory: list[Array], array: Array) -> int:
    memory.append(_aligned(array))
    return int(memory[-1].ctypes.data)
