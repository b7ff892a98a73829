"""All errors that freerun raises on purpose.

    FreerunError
    ├── UserError                 the user can fix it: the command line prints it and exits with 2
    │   ├── ConfigError           a configuration: unknown key, wrong type, impossible combination
    │   ├── DataError             a file of pairs or of texts
    │   ├── BundleError           a model bundle: missing, truncated, foreign or newer
    │   ├── RunError              a run directory: occupied, changed, unfinished
    │   ├── TrainingError         training cannot continue: a loss that is not finite
    │   ├── RankError             one of several training processes has ended, or cannot be reached
    │   └── MissingExtraError     a missing package that an extra installs
    ├── Interrupted               a signal stopped the training; a checkpoint was saved
    └── Ended                     another process of the training has ended it, and says why

The message of a ``UserError`` has four parts, ``<where>: <what>. <expected>. <fix>.``
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BundleError",
    "ConfigError",
    "DataError",
    "Ended",
    "FreerunError",
    "Interrupted",
    "MissingExtraError",
    "RankError",
    "RunError",
    "TrainingError",
    "UserError",
    "exit_code",
]


class FreerunError(Exception):
    """Base class of all errors that freerun raises on purpose."""


class UserError(FreerunError):
    """A problem that the user can fix: where it is, what is wrong, what was expected, and how to fix it.

    Each part is given without its full stop; ``expected`` and ``fix`` are complete sentences.
    """

    def __init__(self, where: object, what: str, expected: str = "", fix: str = "") -> None:
        self.where = str(where)
        self.what = what
        self.expected = expected
        self.fix = fix
        super().__init__(f"{self.where}: " + " ".join(f"{part}." for part in (what, expected, fix) if part))


class ConfigError(UserError):
    """One or more errors of a configuration, all of them reported at once.

    ``problems`` holds one ``UserError`` per error; the message has a line for each.
    """

    def __init__(self, problems: Sequence[UserError]) -> None:
        first = problems[0]
        super().__init__(first.where, first.what, first.expected, first.fix)
        self.problems = tuple(problems)
        self.args = ("\n".join(str(problem) for problem in problems),)

    @classmethod
    def single(cls, where: object, what: str, expected: str = "", fix: str = "") -> ConfigError:
        """Return a configuration error with a single problem."""
        return cls([UserError(where, what, expected, fix)])


class DataError(UserError):
    """A file of pairs or texts that cannot be used."""


class BundleError(UserError):
    """A model bundle that is missing, incomplete, damaged or of a newer version."""


class RunError(UserError):
    """A run directory that cannot be used as requested."""


class TrainingError(UserError):
    """Training cannot continue."""


class RankError(UserError):
    """One of several training processes has ended, or cannot be reached.

    ``is_explained``: the process itself has said why, in ``what``; then nothing can be gained by starting it again.
    """

    def __init__(
        self, where: object, what: str, expected: str = "", fix: str = "", *, is_explained: bool = False
    ) -> None:
        super().__init__(where, what.rstrip(".") if is_explained else what, expected, fix)
        self.is_explained = is_explained


class MissingExtraError(UserError):
    """A missing package that an extra of freerun installs."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            package,
            f"this package is not installed, and {purpose} needs it",
            f"Expected the extra {extra!r}",
            f"Install it with: pip install 'freerun[{extra}]'",
        )


class Interrupted(FreerunError):
    """A signal stopped the training. ``signal`` is its number; a checkpoint was saved."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class Ended(FreerunError):
    """Another process has ended this training, and reports why. ``code`` is its exit code, and this process's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"ended with exit code {code}")
        self.code = code


def exit_code(error: BaseException) -> int:
    """Return the exit code that this error ends a process with: 2 if the user can fix it, 128 + a signal, or 1."""
    match error:
        case Ended():
            return error.code
        case Interrupted():
            return 128 + error.signal
        case KeyboardInterrupt():
            return 130
        case _:
            return 2 if isinstance(error, UserError) else 1
