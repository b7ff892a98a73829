"""Measures as JSON values."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["as_values"]


def as_values(value: Any) -> Any:
    """Return named tuples and dataclasses as dicts, sequences as lists, NaN and infinity as None."""
    if hasattr(value, "_asdict"):
        return as_values(value._asdict())
    if is_dataclass(value):
        return {field.name: as_values(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(name): as_values(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_values(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
