"""The k best entries of each row, without sorting the rows."""

from __future__ import annotations

import numpy as np

from freerun.search.stepper import Ids, LogProbs

__all__ = ["top"]


def top(log_probs: LogProbs, k: int) -> tuple[Ids, LogProbs]:
    """Columns [N, k] and values [N, k] of the ``k`` largest entries of ``log_probs`` [N, V], largest first.

    Ties go to the lowest column, also where they straddle the k-th place. Raises ValueError when k is not in 1..V.
    """
    size = log_probs.shape[1]
    if not 1 <= k <= size:
        raise ValueError(f"the {k} best of {size} entries")
    if k == 1:
        best = log_probs.argmax(axis=1)[:, None]
        return best, np.take_along_axis(log_probs, best, 1)
    # Partitioning finds the k-th value but picks among equals as it likes; the mask takes them from the left.
    least = np.partition(log_probs, size - k, axis=1)[:, size - k, None]
    above, level = log_probs > least, log_probs == least
    chosen = above | (level & (np.cumsum(level, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    columns = np.nonzero(chosen)[1].reshape(-1, k)
    values = np.take_along_axis(log_probs, columns, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1), np.take_along_axis(values, order, 1)
