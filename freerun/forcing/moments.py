"""Moment matching: a distance between two sets of vectors (Gretton et al. 2012).

Shape suffixes: N rows, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mmd"]


def mmd(first_ND: Tensor, second_ND: Tensor) -> Tensor:
    """Return the unbiased squared maximum mean discrepancy (equation 3) under a Gaussian kernel.

    ``k(a, b) = exp(-|a - b|^2 / (2 * s^2))``, where ``s^2`` is half the median squared distance of all pairs. It is a
    constant: no gradient flows through it. Both sets have N >= 2 rows.
    """
    size = len(first_ND)
    both = torch.cat([first_ND, second_ND])
    squares = both.square().sum(1)
    distances = (squares[:, None] + squares[None, :] - 2 * both @ both.t()).clamp(min=0.0)
    apart = ~torch.eye(2 * size, dtype=torch.bool, device=both.device)
    # all but the diagonal, whose place among the others is known beforehand
    others = distances.detach().flatten()[1:].view(2 * size - 1, 2 * size + 1)[:, :-1]
    median = others.median().clamp(min=1e-12)
    kernel = torch.exp(-distances / median) * apart
    within = kernel[:size, :size].sum() + kernel[size:, size:].sum()
    across = kernel[:size, size:].sum()
    return within / (size * (size - 1)) - 2 * across / (size * size)
