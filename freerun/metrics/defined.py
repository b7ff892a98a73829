"""Metrics without NaN: JSON has none, and 0 would be wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["defined", "finite_or_none"]


def defined(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return the metrics with None for undefined ones and whole numbers as ints."""
    return {name: _number(value) if math.isfinite(value) else None for name, value in metrics.items()}


def finite_or_none(value: float) -> float | None:
    """Return a number, or None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)
