"""Principal components: points of many dimensions as a picture of two."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Projection", "project"]

Floats = npt.NDArray[np.floating]


class Projection(NamedTuple):
    """Coordinates [N, 2] and the shares (0-1) of the variance that the two of them have."""

    points: npt.NDArray[np.float64]
    shares: tuple[float, float]


def project(points: Floats) -> Projection:
    """The two directions of largest variance of ``points`` [N, H] around their mean; N and H at least 1."""
    centred = points.astype(np.float64) - points.mean(0)
    rows, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    found = np.zeros((len(points), 2))
    width = min(2, len(sizes))
    found[:, :width] = rows[:, :width] * sizes[:width]
    variance = float((sizes**2).sum()) or 1.0
    shares = [*(float(size) ** 2 / variance for size in sizes[:2]), 0.0, 0.0]
    return Projection(found, (shares[0], shares[1]))
