"""Trivial baselines: outputs that need no model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np

from freerun.data.codec import Codec
from freerun.evaluation.free_running_metrics import FreeRunningMetrics
from freerun.evaluation.items import EvaluationSet

__all__ = ["baselines", "most_frequent_target"]


def baselines(items: EvaluationSet, target_codec: Codec, majority: str | None = None) -> dict[str, FreeRunningMetrics]:
    """Return ``copy``, the sources as target tokens; and ``majority``, one text for all sources, if it is given."""
    texts = {"copy": items.sources}
    if majority is not None:
        texts["majority"] = [majority] * len(items)
    # No model runs, so no output reaches a length bound.
    truncated = np.zeros(len(items), np.bool_)
    return {
        name: FreeRunningMetrics(items, target_codec, [target_codec.tokens(text) for text in each], truncated)
        for name, each in texts.items()
    }


def most_frequent_target(targets: Callable[[], Iterable[str]]) -> str:
    """Return the most frequent text, and of several such the first to appear.

    ``targets`` is called twice; 8 bytes per text are kept in between. Raises ValueError without texts.
    """
    hashes = np.fromiter(map(_hash, targets()), np.uint64)
    if not len(hashes):
        raise ValueError("no target to count")
    values, counts = np.unique(hashes, return_counts=True)
    # Usually one text; several if counts tie.
    candidates = set(values[counts == counts.max()].tolist())
    return next(text for text in targets() if _hash(text) in candidates)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
