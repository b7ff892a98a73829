"""Types of numeric configuration keys: the ranges of ``freerun.bounds`` for pydantic."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from freerun.bounds import COUNT, LENGTH, MAX_NUMBER, POSITIVE_TEMPERATURE, SEED, SIZE, Range

__all__ = [
    "Count",
    "Length",
    "Number",
    "PositiveCount",
    "PositiveNumber",
    "Seed",
    "SignedNumber",
    "Size",
    "Temperature",
    "within",
]


def within(bounds: Range) -> Any:
    """Return the pydantic constraint to a range."""
    return Field(ge=bounds.low, le=bounds.high)


Count = Annotated[int, within(COUNT)]
PositiveCount = Annotated[int, Field(ge=1, le=COUNT.high)]
Length = Annotated[int, within(LENGTH)]
Size = Annotated[int, within(SIZE)]
Seed = Annotated[int, within(SEED)]
Number = Annotated[float, Field(ge=0.0, le=MAX_NUMBER)]
PositiveNumber = Annotated[float, Field(gt=0.0, le=MAX_NUMBER)]
SignedNumber = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Temperature = Annotated[float, within(POSITIVE_TEMPERATURE)]
