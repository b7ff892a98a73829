"""Results of mutants: a JSON Lines file to resume from, and the list of survivors with a reason."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

from mutation.mutant import Mutant

NOTICED = ("killed", "timeout")
HEADER = """\
# Mutants that no test notices, and why that is right: equal behaviour, only speed or memory, ...
# `scripts/mutants.py --record` appends new survivors with an empty reason, which counts as none.
# Take an entry out when its text has changed: the run names entries that match no mutant.
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """``kind`` is "killed", "timeout", "survived", or "untested" if no test calls the function.

    ``source`` is a hash of the mutated source, ``tests`` one of the test files that the result depends on: that of the
    test that ``failed``, or all. ``budget`` is the number of seconds of tests that a survivor survived.
    """

    id: str
    source: str
    tests: str
    kind: str
    failed: str
    budget: float
    seconds: float


class Journal:
    """Results so far, each appended as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[tuple[str, str], Result] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                result = Result(**json.loads(line))
            except (TypeError, ValueError):  # a line that a stopped run left unfinished
                continue
            self._results[result.id, result.source] = result

    def find(self, mutant_id: str, source: str) -> Result | None:
        """Return the last result for the same source; its tests may have changed since then."""
        return self._results.get((mutant_id, source))

    def append(self, result: Result) -> None:
        """Append a result on a new line, even after an unfinished one."""
        self._results[result.id, result.source] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            if file.tell() and not self._path.read_bytes().endswith(b"\n"):
                file.write(b"\n")
            file.write((json.dumps(asdict(result)) + "\n").encode())


def accepted(path: Path) -> dict[str, str]:
    """Return the reasons of survivors by id. An entry without a reason is left out."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return {
        entry["id"]: entry["reason"] for entry in tomllib.loads(text).get("survivor", []) if entry["reason"].strip()
    }


def record(path: Path, survivors: list[tuple[Mutant, str]]) -> int:
    """Append survivors (with their diffs) that the file does not list yet; return how many."""
    text = path.read_text(encoding="utf-8") if path.is_file() else HEADER
    listed = {entry["id"] for entry in tomllib.loads(text).get("survivor", [])}
    new = [(mutant, diff) for mutant, diff in survivors if mutant.id not in listed]
    for mutant, diff in new:
        # A literal string in TOML has no escapes; three single quotes would end it.
        body = diff.replace("'''", '"""')
        text += f"\n[[survivor]]\nid = {json.dumps(mutant.id)}\nreason = \"\"\ndiff = '''\n{body}\n'''\n"
    path.write_text(text, encoding="utf-8")
    return len(new)
