"""The strategies by the name that a configuration gives them, a user's own included.

This is the one place where freerun imports code that a file names.
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

__all__ = ["EVERYTHING", "NOBODY", "STRATEGIES", "Trust", "settings_of", "strategy_named"]

_KEY: Final = "forcing.strategy"
_OWN: Final[dict[str, type[Strategy]]] = {}
"""Strategies "module:Class" that were imported in this process."""

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
    """Which strategies "module:Class" may be imported: those of the user's own, or everything.

    A configuration comes from anywhere, and importing a module runs it. So a strategy is imported only if the user
    named it, in a configuration file or on the command line, or said that the code can be trusted (``--trust-code``).
    """

    names: Collection[str] = ()
    everything: bool = False

    def settings_of(self, name: str) -> type[StrategySettings]:
        """The settings that the strategy of this name takes; imports a module of the user's own.

        Raises:
            ConfigError: there is none of this name, or it is code that nobody trusts.
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
        # anew each time: a module may have been reloaded
        _OWN[name] = _imported(name)
        return _OWN[name].Settings


NOBODY: Final = Trust()
"""No code but that of freerun."""
EVERYTHING: Final = Trust(everything=True)
"""Everything that a configuration names: the user wrote it, or said so."""


def settings_of(name: str) -> type[StrategySettings]:
    """The settings of one of freerun's strategies.

    Raises:
        ConfigError: there is none of this name, or it is code from elsewhere.
    """
    return NOBODY.settings_of(name)


def strategy_named(name: str) -> type[Strategy]:
    """The strategy of this name: one of ours, or "module:Class" if that was imported by a ``Trust``.

    Raises:
        ConfigError: there is none of this name.
    """
    if name in _OWN:
        return _OWN[name]
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, 1, 0.5)
        raise ConfigError.single(
            _KEY,
            f"unknown strategy {cut(name)!r}",
            "Expected one of: " + ", ".join(STRATEGIES) + "; or your own as module:Class",
            f"The closest match is {near[0]!r}" if near else "Choose one of them",
        )
    return STRATEGIES[name]


def _check_name(name: str) -> None:
    """Raise ``ConfigError`` unless this is module:Class; anything else is never given to Python's import."""
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in (*module.split("."), attribute)):
        raise ConfigError.single(
            _KEY,
            f"{cut(name)!r} is not module:Class",
            "Expected the name of a module, a colon and the name of a class, for example my_forcing:WordDropout",
            "Write it so, without the path and the ending of the file",
        )


def _imported(name: str) -> type[Strategy]:
    """Import the class; the working directory is searched, too."""
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a command's own folder is searched otherwise, not the one it is called in
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        # whatever the module raises: it is the user's own, so they can fix it
        raise ConfigError.single(
            _KEY,
            f"{cut(name)!r} cannot be imported ({type(error).__name__}: {cut(str(error), 200)})",
            "Expected module:Class with a module in the working folder or installed",
            "Fix the module, or run freerun from its directory",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Strategy)) or inspect.isabstract(found):
        what = "is an abstract class" if inspect.isabstract(found) else "is no strategy"
        raise ConfigError.single(
            _KEY,
            f"{cut(name)!r} {what}",
            "Expected a subclass of freerun.forcing.strategy.Strategy, with a method losses",
            "Derive the class from it",
        )
    if not issubclass(found.Settings, StrategySettings):
        raise ConfigError.single(
            _KEY,
            f"the Settings of {cut(name)!r} are no StrategySettings",
            "Expected a subclass of freerun.forcing.strategy.StrategySettings",
            "Derive the class Settings from it",
        )
    return found
