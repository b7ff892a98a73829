"""The strategies by the name that a configuration gives them."""

from __future__ import annotations

import difflib

from freerun.errors import ConfigError
from freerun.forcing.free_running import FreeRunning
from freerun.forcing.professor import Professor
from freerun.forcing.scheduled_sampling import ScheduledSampling
from freerun.forcing.strategy import Strategy, StrategySettings
from freerun.forcing.teacher import Teacher

__all__ = ["STRATEGIES", "settings_of"]

STRATEGIES: dict[str, type[Strategy]] = {
    "teacher": Teacher,
    "scheduled_sampling": ScheduledSampling,
    "free_running": FreeRunning,
    "professor": Professor,
}


def settings_of(name: str) -> type[StrategySettings]:
    """The settings that the strategy of this name takes.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, 1, 0.5)
        raise ConfigError.single(
            "forcing.strategy",
            f"unknown strategy {name!r}",
            "Expected one of: " + ", ".join(STRATEGIES),
            f"The nearest is {near[0]!r}" if near else "Choose one of them",
        )
    return STRATEGIES[name].Settings
