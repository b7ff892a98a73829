"""The strategies by the name that a configuration gives them, a user's own included."""

from __future__ import annotations

import difflib
import importlib
import sys

from freerun.errors import ConfigError
from freerun.forcing.free_running import FreeRunning
from freerun.forcing.input_corruption import InputCorruption
from freerun.forcing.minimum_risk import MinimumRisk
from freerun.forcing.optimal_completion import OptimalCompletion
from freerun.forcing.professor import Professor
from freerun.forcing.scheduled_sampling import ScheduledSampling
from freerun.forcing.self_critical import SelfCritical
from freerun.forcing.strategy import Strategy, StrategySettings
from freerun.forcing.teacher import Teacher

__all__ = ["STRATEGIES", "settings_of", "strategy_named"]

STRATEGIES: dict[str, type[Strategy]] = {
    "teacher": Teacher,
    "scheduled_sampling": ScheduledSampling,
    "free_running": FreeRunning,
    "professor": Professor,
    "optimal_completion": OptimalCompletion,
    "minimum_risk": MinimumRisk,
    "self_critical": SelfCritical,
    "input_corruption": InputCorruption,
}


def settings_of(name: str) -> type[StrategySettings]:
    """The settings that the strategy of this name takes.

    Raises:
        ConfigError: there is none of this name.
    """
    return strategy_named(name).Settings


def strategy_named(name: str) -> type[Strategy]:
    """The strategy of this name: one of ours, or "module:Class", imported with the working folder in reach.

    Raises:
        ConfigError: there is none of this name.
    """
    if ":" in name:
        return _own(name)
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, 1, 0.5)
        raise ConfigError.single(
            "forcing.strategy",
            f"unknown strategy {name!r}",
            "Expected one of: " + ", ".join(STRATEGIES) + "; or your own as module:Class",
            f"The nearest is {near[0]!r}" if near else "Choose one of them",
        )
    return STRATEGIES[name]


def _own(name: str) -> type[Strategy]:
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a command's own folder is searched otherwise, not the one it is called in
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise ConfigError.single(
            "forcing.strategy",
            f"{name!r} cannot be imported ({type(error).__name__}: {error})",
            "Expected module:Class with a module in the working folder or installed",
            "Mend the module, or call freerun in its folder",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise ConfigError.single(
            "forcing.strategy",
            f"{name!r} is no strategy",
            "Expected a subclass of freerun.forcing.strategy.Strategy",
            "Derive the class from it",
        )
    return found
