"""Planted mutants: bugs written by hand, recorded in tests/mutants/*.toml with the tests that notice them."""

from __future__ import annotations

import tomllib
from pathlib import Path

from mutation.mutant import Mutant

KEYS = {"name", "file", "find", "replace", "tests"}


def planted(root: Path) -> list[Mutant]:
    """Return the planted mutants of the project at ``root``.

    Raises ValueError with all problems found: unknown or missing keys, names used twice, missing files and tests, and
    a ``find`` that does not occur exactly once.
    """
    mutants: dict[str, Mutant] = {}
    problems = []
    for path in sorted((root / "tests" / "mutants").glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", []):
            location = f"{path.relative_to(root)}, {entry.get('name', 'an entry without a name')!r}"
            problem = _problem(root, entry)
            if problem is None and entry["name"] in mutants:
                problem = "the name is used twice. Expected a unique name. Rename one of them"
            if problem is None:
                mutants[entry["name"]] = _mutant(root, entry)
            else:
                problems.append(f"{location}: {problem}.")
    if problems:
        raise ValueError("\n".join(problems))
    return list(mutants.values())


def _mutant(root: Path, entry: dict) -> Mutant:
    start = (root / entry["file"]).read_bytes().index(entry["find"].encode())
    end = start + len(entry["find"].encode())
    replacement, tests = entry["replace"].encode(), tuple(entry["tests"])
    return Mutant(
        id=f"planted:{entry['name']}",
        file=entry["file"],
        scope="",
        start=start,
        end=end,
        replacement=replacement,
        tests=tests,
    )


def _problem(root: Path, entry: dict) -> str | None:
    if entry.keys() != KEYS:
        return f"wrong keys: {sorted(entry.keys() ^ KEYS)}. Expected exactly {sorted(KEYS)}. Add or remove these"
    if not (root / entry["file"]).is_file():
        return f"there is no file {entry['file']}. Expected a source file of the project. Correct the path"
    missing = [test for test in entry["tests"] if not (root / test.partition("::")[0]).is_file()]
    if missing or not entry["tests"]:
        return f"no such tests: {missing}. Expected test files or node ids. Name the tests that notice this bug"
    times = (root / entry["file"]).read_bytes().count(entry["find"].encode())
    if times != 1:
        return f"`find` occurs {times} times in {entry['file']}. Expected exactly once. Correct its text"
    if entry["find"] == entry["replace"]:
        return "`find` and `replace` are the same. Expected a change. Correct `replace`"
    return None
