"""Schedules of ``teacher_prob``, the probability that the decoder is fed the reference token.

A schedule is a function of i >= 0, the updates or epochs since the warm-up or the target position, with values in
[0, 1]. The kinds are those of Bengio et al. 2015 (section 2.4), a constant, and the increasing one of Teutsch & Maeder
2022. Schedules over updates also have the unit of i and a warm-up.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from freerun.bounds import MAX_NUMBER
from freerun.config.numbers import Number, PositiveNumber
from freerun.forcing.training_batch import Update

__all__ = [
    "ConstantProb",
    "ConstantProbOverUpdates",
    "ExponentialDecay",
    "ExponentialDecayOverUpdates",
    "InverseSigmoidDecay",
    "InverseSigmoidDecayOverUpdates",
    "LinearDecay",
    "LinearDecayOverUpdates",
    "LinearIncrease",
    "LinearIncreaseOverUpdates",
    "PositionSchedule",
    "UpdateSchedule",
    "at_position",
    "at_update",
]

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class _Kind(BaseModel):
    """A schedule: a function of i."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def value(self, i: float) -> float:
        """Return ``teacher_prob`` at i, in [0, 1]."""
        raise NotImplementedError

    def warm(self) -> float:
        """Return ``teacher_prob`` during the warm-up: teacher forcing by default."""
        return 1.0


class ConstantProb(_Kind):
    """A constant, ``teacher_prob``."""

    kind: Literal["constant"]
    teacher_prob: Probability = 0.5

    def value(self, i: float) -> float:
        """Return the constant."""
        return self.teacher_prob


class LinearDecay(_Kind):
    """Linear decay: ``max(minimum, k - c * i)``."""

    kind: Literal["linear"]
    k: Probability = 1.0
    c: PositiveNumber = 1e-4
    minimum: Probability = 0.0

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.minimum > self.k:
            raise ValueError(
                f"minimum = {self.minimum:g} is above k = {self.k:g}|Expected minimum <= k|Change minimum or k"
            )
        return self

    def value(self, i: float) -> float:
        """Return a value that falls by ``c`` per unit, down to ``minimum``."""
        return max(self.minimum, self.k - self.c * i)


class ExponentialDecay(_Kind):
    """Exponential decay: ``k ** i``."""

    kind: Literal["exponential"]
    k: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9999

    def value(self, i: float) -> float:
        """Return ``exp(i * log(k))``, which goes to 0 silently where a power would underflow."""
        return math.exp(i * math.log(self.k))


class InverseSigmoidDecay(_Kind):
    """Inverse sigmoid decay: ``k / (k + exp(i / k)) = sigmoid(log(k) - i / k)``, one half at ``i = k * log(k)``."""

    kind: Literal["inverse_sigmoid"]
    k: Annotated[float, Field(ge=1.0, le=MAX_NUMBER)] = 2000.0

    def value(self, i: float) -> float:
        """Return the sigmoid in the form whose exponential cannot overflow."""
        x = math.log(self.k) - i / self.k
        return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


class LinearIncrease(_Kind):
    """Linear increase, ``min(end, start + c * i)``: from free running to teacher forcing (Teutsch & Maeder 2022)."""

    kind: Literal["increasing"]
    start: Probability = 0.0
    end: Probability = 1.0
    c: PositiveNumber = 1e-4

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.start > self.end:
            raise ValueError(
                f"start = {self.start:g} is above end = {self.end:g}|Expected start <= end|Change start or end"
            )
        return self

    def value(self, i: float) -> float:
        """Return a value that rises by ``c`` per unit, up to ``end``."""
        return min(self.end, self.start + self.c * i)

    def warm(self) -> float:
        """Return ``start``: an increasing schedule must not begin at its end."""
        return self.start


class _OverUpdates(BaseModel):
    """The keys of a schedule over updates: the unit of i, and the length of the warm-up before i starts at 0."""

    unit: Literal["updates", "epochs"] = "updates"
    warmup: Number = 0.0


class ConstantProbOverUpdates(ConstantProb, _OverUpdates):
    """A constant after the warm-up."""


class LinearDecayOverUpdates(LinearDecay, _OverUpdates):
    """Linear decay after the warm-up."""


class ExponentialDecayOverUpdates(ExponentialDecay, _OverUpdates):
    """Exponential decay after the warm-up."""


class InverseSigmoidDecayOverUpdates(InverseSigmoidDecay, _OverUpdates):
    """Inverse sigmoid decay after the warm-up."""


class LinearIncreaseOverUpdates(LinearIncrease, _OverUpdates):
    """Linear increase after the warm-up."""


_AnyOverUpdates = (
    ConstantProbOverUpdates
    | LinearDecayOverUpdates
    | ExponentialDecayOverUpdates
    | InverseSigmoidDecayOverUpdates
    | LinearIncreaseOverUpdates
)
_AnyOverPositions = ConstantProb | LinearDecay | ExponentialDecay | InverseSigmoidDecay
_EXAMPLE = 'a table with its kind, for example { kind = "inverse_sigmoid", k = 2000.0 }'
UpdateSchedule = Annotated[_AnyOverUpdates, Field(discriminator="kind", description=_EXAMPLE)]
PositionSchedule = Annotated[
    _AnyOverPositions,
    Field(discriminator="kind", description='a table with its kind, for example { kind = "exponential", k = 0.99 }'),
]


def at_update(schedule: _AnyOverUpdates, update: Update) -> float:
    """Return ``teacher_prob`` of an update: i is the number of earlier updates or epochs, minus the warm-up."""
    done = update.number - 1 if schedule.unit == "updates" else update.epoch
    return schedule.warm() if done < schedule.warmup else schedule.value(done - schedule.warmup)


def at_position(schedule: _AnyOverPositions, t: int, teacher_prob: float) -> float:
    """Return ``teacher_prob`` of target token t (from 1) under a schedule g over positions and f(i) over updates.

    This is ``g(t * (1 - f(i)))``, the composite of Liu et al. 2021 (decoding steps). While f is 1 training is
    teacher-forced; as f falls, later positions, where errors of free running accumulate, are sampled more often.
    """
    return schedule.value(t * (1.0 - teacher_prob))
