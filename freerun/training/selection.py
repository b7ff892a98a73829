"""Which of two models is the better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Metrics", "Selection"]

Metrics = Mapping[str, float | None]
"""Figures by name; None for one that is not defined."""


@dataclass(frozen=True)
class Selection:
    """By ``metric``, ties by nll.teacher, then the earlier one. An undefined figure is worse than any other."""

    metric: str
    higher_is_better: bool = False

    def better(self, new: Metrics, old: Metrics | None) -> bool:
        """Whether ``new`` is strictly better than ``old`` (None: there is none yet)."""
        return old is None or self._key(new) < self._key(old)

    def _key(self, metrics: Metrics) -> tuple[float, float]:
        return _or_worst(metrics[self.metric], self.higher_is_better), _or_worst(metrics.get("nll.teacher"))


def _or_worst(value: float | None, higher_is_better: bool = False) -> float:
    """``value`` as a number of which the lower is the better."""
    if value is None or math.isnan(value):
        return math.inf
    return -value if higher_is_better else value
