"""Example outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from freerun.data.features import Features
from freerun.evaluation.free_running_metrics import FreeRunningMetrics
from freerun.randomness import numpy_generator

__all__ = ["Example", "random_examples", "worst_examples"]


@dataclass(frozen=True, slots=True)
class Example:
    """A source, its references, and the output with its edit distance in tokens to the closest reference.

    ``features`` are None if the model reads none.
    """

    source: str
    references: list[str]
    prediction: str
    distance: int
    truncated: bool
    features: Features | None = None


def worst_examples(free: FreeRunningMetrics, count: int) -> list[Example]:
    """Return the ``count`` outputs with the highest symbol error rates, worst first; ties go to the earlier source."""
    distances, lengths = free.distances
    # An empty reference has no rate: there, each wrong token counts as one.
    rates = distances / np.maximum(lengths, 1)
    return _examples(free, np.argsort(-rates, kind="stable")[:count].tolist())


def random_examples(free: FreeRunningMetrics, count: int, seed: int = 0) -> list[Example]:
    """Return ``count`` different sources sampled at random, in their order in the set."""
    rows = numpy_generator(seed, "examples").permutation(len(free.items))[:count]
    return _examples(free, sorted(rows.tolist()))


def _examples(free: FreeRunningMetrics, indices: Iterable[int]) -> list[Example]:
    return [
        Example(
            free.items.items[n].source,
            free.items.items[n].texts,
            free.texts[n],
            int(free.distances.distances[n]),
            bool(free.truncated[n]),
            free.items.items[n].features,
        )
        for n in indices
    ]
