"""Every error that freerun raises on purpose.

    FreerunError
    ├── UserError                 the user can fix it: the command line prints it and exits with 2
    │   ├── ConfigError           a configuration: unknown key, wrong type, impossible combination
    │   ├── DataError             a file of pairs or of texts
    │   ├── BundleError           a model bundle: missing, truncated, foreign or newer
    │   ├── RunError              a run folder: occupied, changed, unfinished
    │   ├── TrainingError         training cannot go on: a loss that is not finite
    │   └── MissingExtraError     a package that an extra would have installed
    └── Interrupted               a signal asked training to stop; a checkpoint was written

A user's mistake is told in four parts, ``<where>: <what>. <expected>. <fix>.``
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BundleError",
    "ConfigError",
    "DataError",
    "FreerunError",
    "Interrupted",
    "MissingExtraError",
    "RunError",
    "TrainingError",
    "UserError",
]


class FreerunError(Exception):
    """Base of all errors that freerun raises on purpose."""


class UserError(FreerunError):
    """A mistake that the user can fix, told as where, what, what was expected, and how to fix it.

    Each part is given without its closing full stop; ``expected`` and ``fix`` are whole sentences.
    """

    def __init__(self, where: object, what: str, expected: str = "", fix: str = "") -> None:
        self.where = str(where)
        self.what = what
        self.expected = expected
        self.fix = fix
        super().__init__(f"{self.where}: " + " ".join(f"{part}." for part in (what, expected, fix) if part))


class ConfigError(UserError):
    """One or more faults of a configuration, all of them reported at once.

    ``problems`` holds one ``UserError`` a fault; the message has a line for each.
    """

    def __init__(self, problems: Sequence[UserError]) -> None:
        first = problems[0]
        super().__init__(first.where, first.what, first.expected, first.fix)
        self.problems = tuple(problems)
        self.args = ("\n".join(str(problem) for problem in problems),)

    @classmethod
    def single(cls, where: object, what: str, expected: str = "", fix: str = "") -> ConfigError:
        """A configuration error with one fault."""
        return cls([UserError(where, what, expected, fix)])


class DataError(UserError):
    """A file of pairs or texts that cannot be used as it is."""


class BundleError(UserError):
    """A model bundle that is missing, incomplete, damaged or from a newer version."""


class RunError(UserError):
    """A run folder that cannot be used as asked."""


class TrainingError(UserError):
    """Training cannot go on."""


class MissingExtraError(UserError):
    """A package is missing that an extra of freerun installs."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            package,
            f"this package is not installed, and {purpose} needs it",
            f"Expected the extra {extra!r}",
            f"Install it with: pip install 'freerun[{extra}]'",
        )


class Interrupted(FreerunError):
    """A signal asked training to stop. ``signal`` is its number; a checkpoint was written."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal
