"""The k best entries of each row, without sorting the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from freerun.search.stepper import Ids, LogProbs

__all__ = ["best_allowed", "top"]


def top(log_probs: LogProbs, k: int) -> tuple[Ids, LogProbs]:
    """Return the columns [N, k] and values [N, k] of the ``k`` largest ``log_probs`` [N, V] of each row, largest first.

    Ties go to the lowest column, even across the k-th position. Raises ValueError when k is not in 1..V.
    """
    size = log_probs.shape[1]
    if not 1 <= k <= size:
        raise ValueError(f"the {k} best of {size} entries")
    if k == 1:
        best = log_probs.argmax(axis=1)[:, None]
        return best, np.take_along_axis(log_probs, best, 1)
    # Partitioning finds the k-th value but chooses arbitrarily among equals; the mask takes them from the left.
    least = np.partition(log_probs, size - k, axis=1)[:, size - k, None]
    above, level = log_probs > least, log_probs == least
    chosen = above | (level & (np.cumsum(level, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    columns = np.nonzero(chosen)[1].reshape(-1, k)
    values = np.take_along_axis(log_probs, columns, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1), np.take_along_axis(values, order, 1)


def best_allowed(log_probs: LogProbs, k: int | None, banned: Sequence[int]) -> tuple[Ids, LogProbs]:
    """Return what ``Stepper.step`` does for the distributions ``log_probs`` [N, V]: the ``k`` best not ``banned``.

    Ids and values [N, k], best first, ties to the lowest id; with ``k=None`` all [N, V] in order, banned ones at -inf.
    """
    size = log_probs.shape[1]
    if k is None:
        log_probs = log_probs.copy()
        log_probs[:, list(banned)] = -np.inf
        return np.broadcast_to(np.arange(size), log_probs.shape), log_probs
    # Removed instead of set to -inf: another token of probability 0 must still come before a banned one.
    allowed = np.setdiff1d(np.arange(size), banned)
    columns, best = top(log_probs[:, allowed], min(k, len(allowed)))
    return allowed[columns], best
