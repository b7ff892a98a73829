"""The configuration of a study: strategies, or whole configurations, over seeds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from freerun.bounds import PROCESSES
from freerun.config.numbers import Seed, within
from freerun.config.sections import PathText, Section

__all__ = ["StudyConfig", "StudyMetric"]

StudyMetric = Literal[
    "symbol_error_rate.free", "sequence_accuracy.free", "nll.teacher", "token_accuracy.teacher", "hit_length_bound.free"
]
Arm = dict[str, Any]
Seeds = Annotated[
    list[Seed], Field(min_length=1, max_length=1000, description="1 to 1,000 seeds, for example [1, 2, 3, 4, 5]")
]


class StudyConfig(Section):
    """The keys of a study."""

    base: PathText
    """The configuration that all runs share."""
    control: str
    """The arm that all others are compared with."""
    seeds: Seeds = [1, 2, 3, 4, 5]  # noqa: RUF012 (pydantic copies it)
    metric: StudyMetric = "symbol_error_rate.free"
    """The metric of the primary test."""
    pairs: PathText | None = None
    """Pairs to report on, ideally none that a run was trained or selected on. Default: the development pairs."""
    target_error: Annotated[float | None, Field(gt=0.0, lt=1.0)] = None
    """A symbol error rate on the development pairs: how many updates does each arm need to reach it?"""
    processes: Annotated[int, within(PROCESSES)] = 1
    """Number of runs that are trained at the same time."""
    strategies: dict[str, Arm] = Field(default_factory=dict)
    """Name of an arm -> its [forcing] section."""
    variants: dict[str, Arm] = Field(default_factory=dict)
    """Name of an arm -> its changes to the base configuration."""
