"""A mutant: one small change of one source file, which at least one test should notice."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """Replace bytes ``start`` to ``end`` of ``file`` (relative to the project) by ``replacement``.

    ``scope`` is the qualified name of the function that holds the change ("" outside functions). ``tests`` are the
    pytest arguments of a planted mutant; a generated one has none, and runs the tests that call its function.
    """

    id: str
    file: str
    scope: str
    start: int
    end: int
    replacement: bytes
    tests: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """The package under freerun, or "planted"."""
        return "planted" if self.tests else self.file.split("/")[1]

    def apply(self, source: bytes) -> bytes:
        """Return the mutated source."""
        return source[: self.start] + self.replacement + source[self.end :]

    def diff(self, source: bytes) -> str:
        """Return the change as a unified diff with one line of context."""
        old, new = source.decode().splitlines(), self.apply(source).decode().splitlines()
        return "\n".join(difflib.unified_diff(old, new, self.file, self.file, n=1, lineterm=""))


def digest(*parts: object) -> str:
    """Return a short hash of the parts."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=5).hexdigest()
