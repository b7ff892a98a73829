"""Which test calls which function: measured once per test file, and again if the file or a source it runs changes.

The measuring runs also show that every test passes without a mutant.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from mutation.mutant import digest
from mutation.workshop import Outcome, Workshop

SELECT, SLOW = ("-m", "not slow"), ("-m", "slow")
LEFT_OUT = ("tests/browser", "tests/examples")
"""These start programs of their own (Chromium, Node), where calls cannot be seen."""
FACTOR, LEAST = 10.0, 20.0
"""A test may take ten times its usual CPU time, and at least 20 seconds: then the mutant made it endless."""


@dataclass(frozen=True)
class Plan:
    """Tests for one mutant: those that call its function, then the others of these files; limits in CPU seconds.

    ``files`` are all files with callers, also those for which the budget leaves no time.
    """

    files: tuple[str, ...]
    callers: tuple[str, ...]
    others: tuple[str, ...]
    limits: dict[str, float]


class Calls:
    """The calls of the tests below ``root`` (a copy that is not edited meanwhile), stored in the JSON file ``path``."""

    def __init__(self, root: Path, path: Path) -> None:
        self._root, self._path, self._lock = root, path, threading.Lock()
        self._files: dict[str, dict] = json.loads(path.read_text()) if path.is_file() else {}
        self._helpers = digest(*(self._hash(name) for name in _helpers(root)))

    def test_files(self) -> list[str]:
        """Return the project's test files, relative to it."""
        files = sorted(str(path.relative_to(self._root)) for path in (self._root / "tests").rglob("test_*.py"))
        return [file for file in files if not file.startswith(LEFT_OUT)]

    def stale(self, files: Iterable[str]) -> list[str]:
        """Return the test files that have to be measured."""
        return [file for file in files if not self._is_fresh(file)]

    def measure(self, file: str, workshop: Workshop) -> Outcome:
        """Run the tests of ``file`` without a mutant. Raises RuntimeError if one fails."""
        trace = workshop.path.with_name("trace.json")
        outcome = workshop.run([file, *SELECT], trace=trace)
        if outcome.kind not in ("passed", "none"):
            raise RuntimeError(
                f"{file}: {outcome.failed or outcome.kind} without any mutant. Expected passing tests. "
                f"Fix it first; pytest says:\n{workshop.log()}"
            )
        measured = json.loads(trace.read_text()) if trace.is_file() else {}
        trace.unlink(missing_ok=True)
        functions = sorted({tuple(call) for _, calls in measured.values() for call in calls})
        number = {function: index for index, function in enumerate(functions)}
        sources = {source for source, _ in functions if not source.startswith("tests/")}
        self._files[file] = {
            "helpers": self._helpers,
            "hash": self._hash(file),
            "sources": {source: self._hash(source) for source in sorted(sources)},
            "functions": functions,
            "items": {
                item: [round(seconds, 3), sorted(number[tuple(call)] for call in calls)]
                for item, (seconds, calls) in measured.items()
            },
        }
        with self._lock:
            self._path.write_text(json.dumps(self._files))
        return outcome

    def version(self, tests: Iterable[str]) -> str:
        """Return a hash of the files of these tests (node ids), and of what tests share."""
        return digest(
            self._helpers, *(self._hash(file) for file in sorted({test.partition("::")[0] for test in tests}))
        )

    def plan(self, test_files: Iterable[str], file: str, scope: str, budget: float) -> Plan:
        """Return ``budget`` seconds of tests, quick ones first, to run against a change of ``scope`` in ``file``.

        A change outside functions concerns all tests that call a function of the file. Tests without a call stand
        last, in the files that have callers: a fixture or a cache may have called the function for them.
        """
        costs: dict[str, float] = {}
        callers: dict[str, list[str]] = {}
        others: dict[str, list[str]] = {}
        for test_file in test_files:
            entry = self._files[test_file]
            wanted = {i for i, (path, name) in enumerate(entry["functions"]) if path == file and _holds(scope, name)}
            if not wanted:
                continue
            for item, (seconds, calls) in entry["items"].items():
                if item:
                    costs[item] = seconds
                    side = callers if not wanted.isdisjoint(calls) else others
                    side.setdefault(test_file, []).append(item)
        limits = {item: max(LEAST, FACTOR * seconds) for item, seconds in costs.items()}
        first = _within(callers, costs, budget)
        left = budget - sum(costs[item] for item in first)
        return Plan(tuple(callers), first, _within(others, costs, left), limits)

    def limits(self, files: Iterable[str]) -> dict[str, float]:
        """Return the limits of all measured tests in ``files``."""
        items = (item for file in files for item in self._files[file]["items"].items())
        return {name: max(LEAST, FACTOR * seconds) for name, (seconds, _) in items}

    def _is_fresh(self, file: str) -> bool:
        entry = self._files.get(file)
        return (
            entry is not None
            and (entry["helpers"], entry["hash"]) == (self._helpers, self._hash(file))
            and all(self._hash(source) == value for source, value in entry["sources"].items())
        )

    def _hash(self, file: str) -> str:
        path = self._root / file
        return digest(path.read_bytes()) if path.is_file() else "missing"


def _helpers(root: Path) -> list[str]:
    """Return the files that all tests share: helper modules and pytest's settings."""
    modules = (path for path in (root / "tests").rglob("*.py") if not path.name.startswith("test_"))
    return ["pyproject.toml", *sorted(str(path.relative_to(root)) for path in modules)]


def _holds(scope: str, name: str) -> bool:
    """Return True if ``name`` is the function ``scope``, or something inside it. An empty scope holds everything."""
    name = name.replace("<locals>.", "")
    return not scope or name == scope or name.startswith(f"{scope}.")


def _within(files: dict[str, list[str]], costs: dict[str, float], budget: float) -> tuple[str, ...]:
    """Return the quickest tests of all files up to ``budget`` seconds, so that a slow file does not use it up.

    Tests of a file stay together, so that they share fixtures; files with little to run come first.
    """
    affordable = set()
    for item in sorted((item for items in files.values() for item in items), key=lambda item: costs[item]):
        budget -= costs[item]
        if budget < 0:
            break
        affordable.add(item)
    chosen = [[item for item in items if item in affordable] for items in files.values()]
    return tuple(chain.from_iterable(sorted(chosen, key=lambda items: sum(costs[item] for item in items))))
