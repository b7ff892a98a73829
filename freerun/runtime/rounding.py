"""Weights in 8 bits, see ``freerun.onnx_export.quantise``."""

from __future__ import annotations

from typing import Final

import numpy as np

from freerun.runtime.compiled import Array

__all__ = ["STORED_LEVELS", "rounded"]

STORED_LEVELS: Final = 127
"""The largest level of a weight that is only stored in 8 bits."""


def rounded(array: Array, summed: int, levels: int) -> tuple[Array, Array]:
    """Round ``array`` to int8 in -levels..levels; return it and float32 scales, of size 1 along the axis ``summed``."""
    scale = np.abs(array).max(axis=summed, keepdims=True) / np.float32(levels)
    scale = np.where(scale > 0, scale, 1).astype(np.float32)  # for a column of zeros
    return np.rint(array / scale).astype(np.int8), scale
