"""Principal components: high-dimensional points projected onto two dimensions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Projection", "project"]

Floats = npt.NDArray[np.floating]


class Projection(NamedTuple):
    """Coordinates [N, 2] and the fractions of the variance that they explain."""

    points: npt.NDArray[np.float64]
    explained: tuple[float, float]


def project(points: Floats) -> Projection:
    """Project ``points`` [N, H] onto their first two principal components; N and H at least 1."""
    centred = points.astype(np.float64) - points.mean(0)
    rows, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates = np.zeros((len(points), 2))
    width = min(2, len(sizes))
    coordinates[:, :width] = rows[:, :width] * sizes[:width]
    variance = float((sizes**2).sum()) or 1.0
    explained = [*(float(size) ** 2 / variance for size in sizes[:2]), 0.0, 0.0]
    return Projection(coordinates, (explained[0], explained[1]))
