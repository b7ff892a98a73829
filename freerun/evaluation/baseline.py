"""Outputs that need no model: what a model's figures have to be compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np

from freerun.data.codec import Codec
from freerun.evaluation.free_running import FreeRunning
from freerun.evaluation.items import EvaluationSet

__all__ = ["baselines", "most_frequent_target"]


def baselines(items: EvaluationSet, target_codec: Codec, majority: str | None = None) -> dict[str, FreeRunning]:
    """``copy``: the source as target tokens; ``majority``: the same text for all, when it is given."""
    texts = {"copy": items.sources}
    if majority is not None:
        texts["majority"] = [majority] * len(items)
    # No model, no loop that could fail to end.
    ended = np.zeros(len(items), np.bool_)
    return {
        name: FreeRunning(items, target_codec, [target_codec.tokens(text) for text in each], ended)
        for name, each in texts.items()
    }


def most_frequent_target(targets: Callable[[], Iterable[str]]) -> str:
    """The text that occurs most often, of several such the first in order of code points; ValueError without texts.

    ``targets`` is called twice, and 8 bytes a text are kept in between.
    """
    hashes = np.fromiter(map(_hash, targets()), np.uint64)
    if not len(hashes):
        raise ValueError("no target to count")
    values, counts = np.unique(hashes, return_counts=True)
    # Usually one text; several when counts tie (or, about never, when hashes collide).
    most = set(values[counts == counts.max()].tolist())
    return min(text for text in targets() if _hash(text) in most)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
