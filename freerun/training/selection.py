"""The choice of the better of two models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Metrics", "Selection"]

Metrics = Mapping[str, float | None]
"""Metrics by name; None for an undefined one."""


@dataclass(frozen=True)
class Selection:
    """Selection by ``metric``; ties by nll.teacher, then the earlier model. An undefined value is the worst."""

    metric: str
    higher_is_better: bool = False

    def better(self, new: Metrics, old: Metrics | None) -> bool:
        """Return True if ``new`` is strictly better than ``old`` (None: there is none yet)."""
        return old is None or self._key(new) < self._key(old)

    def _key(self, metrics: Metrics) -> tuple[float, float]:
        return _or_worst(metrics[self.metric], self.higher_is_better), _or_worst(metrics.get("nll.teacher"))


def _or_worst(value: float | None, higher_is_better: bool = False) -> float:
    """Return ``value`` as a number of which lower is better."""
    if value is None or math.isnan(value):
        return math.inf
    return -value if higher_is_better else value
