"""The strategies by the names that a configuration gives them, custom ones included.

This is the only place where freerun imports code that a file names.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import keyword
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

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
from freerun.text import cut

__all__ = ["EVERYTHING", "NO_CUSTOM_CODE", "STRATEGIES", "Trust", "settings_of", "strategy_named"]

_KEY: Final = "forcing.strategy"
_CUSTOM: Final[dict[str, type[Strategy]]] = {}
"""Custom strategies, "module:Class", that were imported in this process."""

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


@dataclass(frozen=True)
class Trust:
    """The custom strategies, "module:Class", that may be imported: those that the user named, or all.

    A configuration may come from anywhere, and importing a module runs it. So a strategy is imported only if the user
    named it, in a configuration file or on the command line, or declared the code trustworthy (``--trust-code``).
    """

    names: Collection[str] = ()
    everything: bool = False

    def settings_of(self, name: str) -> type[StrategySettings]:
        """Return the settings of the strategy of this name; a custom one is imported.

        Raises:
            ConfigError: there is no such strategy, or it is code that is not trusted.
        """
        if ":" not in name:
            return strategy_named(name).Settings
        _check_name(name)
        if not (self.everything or name in self.names):
            raise ConfigError.single(
                _KEY,
                f"{cut(name)!r} is Python code, named by a run directory and not by you, so it was not imported",
                "Expected a strategy of freerun, or code that you trust",
                "Check where the directory comes from, then add --trust-code (in Python: trust_code=True)",
            )
        # repeated on each call: a module may have been reloaded
        _CUSTOM[name] = _import_strategy(name)
        return _CUSTOM[name].Settings


NO_CUSTOM_CODE: Final = Trust()
"""Trusts only freerun's own strategies."""
EVERYTHING: Final = Trust(everything=True)
"""Trusts every strategy that a configuration names: the user wrote it, or declared it trustworthy."""


def settings_of(name: str) -> type[StrategySettings]:
    """Return the settings of one of freerun's own strategies.

    Raises:
        ConfigError: there is no such strategy, or it is custom code.
    """
    return NO_CUSTOM_CODE.settings_of(name)


def strategy_named(name: str) -> type[Strategy]:
    """Return the strategy of this name: one of freerun's, or "module:Class" if a ``Trust`` has imported it.

    Raises:
        ConfigError: there is no such strategy.
    """
    if name in _CUSTOM:
        return _CUSTOM[name]
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, 1, 0.5)
        raise ConfigError.single(
            _KEY,
            f"unknown strategy {cut(name)!r}",
            "Expected one of: " + ", ".join(STRATEGIES) + "; or a custom one as module:Class",
            f"The closest match is {near[0]!r}" if near else "Choose one of them",
        )
    return STRATEGIES[name]


def _check_name(name: str) -> None:
    """Raise ``ConfigError`` unless the name is module:Class; nothing else reaches Python's import."""
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in (*module.split("."), attribute)):
        raise ConfigError.single(
            _KEY,
            f"{cut(name)!r} is not module:Class",
            "Expected the name of a module, a colon and the name of a class, for example my_forcing:WordDropout",
            "Write it in this form, without the path and the suffix of the file",
        )


def _import_strategy(name: str) -> type[Strategy]:
    """Import the class of a custom strategy; the working directory is searched, too."""
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # by default Python searches the directory of the command, not the working directory
    try:
        strategy = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        # any exception of the module: it is the user's own, so they can fix it
        raise ConfigError.single(
            _KEY,
            f"{cut(name)!r} cannot be imported ({type(error).__name__}: {cut(str(error), 200)})",
            "Expected module:Class with a module in the working directory or installed",
            "Fix the module, or run freerun from its directory",
        ) from error
    if not (isinstance(strategy, type) and issubclass(strategy, Strategy)) or inspect.isabstract(strategy):
        what = "is an abstract class" if inspect.isabstract(strategy) else "is not a strategy"
        raise ConfigError.single(
            _KEY,
            f"{cut(name)!r} {what}",
            "Expected a subclass of freerun.forcing.strategy.Strategy with a method losses",
            "Derive the class from Strategy",
        )
    if not issubclass(strategy.Settings, StrategySettings):
        raise ConfigError.single(
            _KEY,
            f"the Settings of {cut(name)!r} are not StrategySettings",
            "Expected a subclass of freerun.forcing.strategy.StrategySettings",
            "Derive the class Settings from StrategySettings",
        )
    return strategy
