"""Schedules of ``teacher_prob``, the probability that the decoder is fed the right token.

A schedule is a function of a time i >= 0: updates or epochs done since the warm-up, or the target position. Its values
are in [0, 1]. The kinds are those of Bengio et al. 2015 (section 2.4), a constant, and the increasing one of Teutsch &
Maeder 2022. Over updates, each kind also takes the unit of i and a warm-up; over positions there is neither.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from freerun.bounds import MAX_NUMBER
from freerun.config.numbers import Number, PositiveNumber
from freerun.forcing.training_batch import Update

__all__ = [
    "Constant",
    "ConstantOverUpdates",
    "Exponential",
    "ExponentialOverUpdates",
    "Increasing",
    "IncreasingOverUpdates",
    "InverseSigmoid",
    "InverseSigmoidOverUpdates",
    "Linear",
    "LinearOverUpdates",
    "PositionSchedule",
    "Schedule",
    "at_position",
    "at_update",
]

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class _Kind(BaseModel):
    """A function of i."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def value(self, i: float) -> float:
        """``teacher_prob`` at time i, in [0, 1]."""
        raise NotImplementedError

    def warm(self) -> float:
        """``teacher_prob`` during the warm-up: the decoder is fed reference tokens only."""
        return 1.0


class Constant(_Kind):
    """Always ``teacher_prob``."""

    kind: Literal["constant"]
    teacher_prob: Probability = 0.5

    def value(self, i: float) -> float:
        """The constant."""
        return self.teacher_prob


class Linear(_Kind):
    """max(minimum, k - c i)."""

    kind: Literal["linear"]
    k: Probability = 1.0
    c: PositiveNumber = 1e-4
    minimum: Probability = 0.0

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.minimum > self.k:
            raise ValueError(
                f"minimum = {self.minimum:g} is above k = {self.k:g}|Expected minimum <= k|Change one of the two"
            )
        return self

    def value(self, i: float) -> float:
        """Falls by ``c`` a unit, down to ``minimum``."""
        return max(self.minimum, self.k - self.c * i)


class Exponential(_Kind):
    """k ** i."""

    kind: Literal["exponential"]
    k: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9999

    def value(self, i: float) -> float:
        """Falls to 0; as exp(i log k), which goes to 0 quietly where a power would underflow."""
        return math.exp(i * math.log(self.k))


class InverseSigmoid(_Kind):
    """k / (k + exp(i / k)), which is sigmoid(log k - i / k): half at i = k log k."""

    kind: Literal["inverse_sigmoid"]
    k: Annotated[float, Field(ge=1.0, le=MAX_NUMBER)] = 2000.0

    def value(self, i: float) -> float:
        """Falls to 0; the sigmoid in the form whose exponential cannot overflow."""
        x = math.log(self.k) - i / self.k
        return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


class Increasing(_Kind):
    """min(end, start + c i): from own tokens to right ones (Teutsch & Maeder 2022)."""

    kind: Literal["increasing"]
    start: Probability = 0.0
    end: Probability = 1.0
    c: PositiveNumber = 1e-4

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.start > self.end:
            raise ValueError(
                f"start = {self.start:g} is above end = {self.end:g}|Expected start <= end|Change one of the two"
            )
        return self

    def value(self, i: float) -> float:
        """Rises by ``c`` a unit, up to ``end``."""
        return min(self.end, self.start + self.c * i)

    def warm(self) -> float:
        """The start is held: a schedule that rises does not begin at its end."""
        return self.start


class _OverUpdates(BaseModel):
    """The keys of a schedule over updates: the unit of i, and how long ``warm()`` is held before i begins to count."""

    unit: Literal["updates", "epochs"] = "updates"
    warmup: Number = 0.0


class ConstantOverUpdates(Constant, _OverUpdates):
    """A constant after the warm-up."""


class LinearOverUpdates(Linear, _OverUpdates):
    """Linear after the warm-up."""


class ExponentialOverUpdates(Exponential, _OverUpdates):
    """Exponential after the warm-up."""


class InverseSigmoidOverUpdates(InverseSigmoid, _OverUpdates):
    """Inverse sigmoid after the warm-up."""


class IncreasingOverUpdates(Increasing, _OverUpdates):
    """Increasing after the warm-up."""


_AnyOverUpdates = (
    ConstantOverUpdates | LinearOverUpdates | ExponentialOverUpdates | InverseSigmoidOverUpdates | IncreasingOverUpdates
)
_AnyOverPositions = Constant | Linear | Exponential | InverseSigmoid
_EXAMPLE = 'a table with its kind, for example { kind = "inverse_sigmoid", k = 2000.0 }'
Schedule = Annotated[_AnyOverUpdates, Field(discriminator="kind", description=_EXAMPLE)]
PositionSchedule = Annotated[
    _AnyOverPositions,
    Field(discriminator="kind", description='a table with its kind, for example { kind = "exponential", k = 0.99 }'),
]


def at_update(schedule: _AnyOverUpdates, update: Update) -> float:
    """``teacher_prob`` of an update: i counts what was done before it, less the warm-up."""
    done = update.number - 1 if schedule.unit == "updates" else update.epoch
    return schedule.warm() if done < schedule.warmup else schedule.value(done - schedule.warmup)


def at_position(schedule: _AnyOverPositions, t: int, teacher_prob: float) -> float:
    """``teacher_prob`` of the t-th target token (1 the first) under a schedule g over positions and f(i) over updates.

    g(t (1 - f(i))): the composite of Liu et al. 2021 (decoding steps). While f is 1 all tokens are right ones; as it
    falls, later positions, where errors of a free run have piled up, are drawn more often than early ones.
    """
    return schedule.value(t * (1.0 - teacher_prob))
