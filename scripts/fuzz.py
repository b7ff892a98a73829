"""Pass damaged files, arguments and requests to freerun, in processes with limits; report everything but clean answers.

A case is a number that determines what is damaged and how, so the number of a finding repeats it. The targets are in
tests/fuzz/. Results are stored in build/fuzz/: the same command resumes, and starts again if the code or the fuzzers
have changed.

Examples:
  python scripts/fuzz.py --count 100000 --minutes 60         every target
  python scripts/fuzz.py --target bundles --count 10000      one target
  python scripts/fuzz.py --target bundles --case 4711        one case, in this process

The exit code is 1 if there was a finding: an exception that is not one of freerun's, a crash, or a case that takes more
than 10 seconds or 2 GB more than the process had at its start.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import multiprocessing
import resource
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
TARGETS: Final = {
    "bundles": ("tests.fuzz.bundles", "Bundles"),
    "texts": ("tests.fuzz.texts", "Texts"),
    "checkpoints": ("tests.fuzz.checkpoints", "Checkpoints"),
    "arguments": ("tests.fuzz.arguments", "Arguments"),
    "configurations": ("tests.fuzz.configurations", "Configurations"),
    "requests": ("tests.fuzz.requests", "Requests"),
}
CHUNK: Final = 200
SECONDS: Final = 10.0
MEMORY: Final = 2 * 2**30
START: Final = 120.0
"""Seconds that a process may take to make what it will damage."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run cases and print their results; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all of them, one after the other")
    parser.add_argument("--count", type=int, default=10_000, help="cases of each target (default: 10,000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default: 0)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no case after this time")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--case", type=int, help="run one case in this process, with its traceback")
    parser.add_argument("--json", type=Path, help="write the table as JSON, too")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    if options.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(_made(options.target[0], Path(folder))(options.case))
        return 0
    until = time.monotonic() + 60 * options.minutes
    reports = [_fuzzed(name, options, until) for name in options.target or TARGETS]
    if options.json:
        options.json.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    for report in reports:
        _print(report)
    return int(any(report["findings"] for report in reports))


def _made(name: str, folder: Path) -> Any:
    module, kind = TARGETS[name]
    return getattr(importlib.import_module(module), kind)(folder / name)


@dataclass
class _Tally:
    """Results of the cases first to first + CHUNK; ``longest`` in seconds."""

    first: int
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    longest: float = 0.0
    megabytes: float = 0.0


def _fuzzed(name: str, options: argparse.Namespace, until: float) -> dict[str, Any]:
    """Run the cases of one target that fit into the time; return them with those of earlier runs."""
    journal = ROOT / "build" / "fuzz" / f"{name}-{_version()}.jsonl"
    journal.parent.mkdir(parents=True, exist_ok=True)
    done = {line["first"]: line for line in map(json.loads, _lines(journal))}
    wanted = range(options.first, options.first + options.count, CHUNK)
    waiting: SimpleQueue[int] = SimpleQueue()
    for first in wanted:
        if first not in done:
            waiting.put(first)

    def work(share: int) -> None:
        for tally in _worked(name, Path(folder, str(share)), waiting, until):
            with writing, journal.open("a", encoding="utf-8") as out:
                done[tally.first] = vars(tally)
                out.write(json.dumps(vars(tally)) + "\n")

    writing = threading.Lock()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(work, range(options.processes)))
    tallies = [done[first] for first in wanted if first in done]
    outcomes = sum((Counter(each["outcomes"]) for each in tallies), Counter[str]())
    return {
        "target": name,
        "first": options.first,
        "cases": sum(outcomes.values()) + sum(len(each["findings"]) for each in tallies),
        "outcomes": dict(outcomes),
        "findings": [finding for each in tallies for finding in each["findings"]],
        "seconds": round(sum(each["seconds"] for each in tallies), 1),
        "longest_seconds": max((each["longest"] for each in tallies), default=0.0),
        "megabytes": max((each["megabytes"] for each in tallies), default=0.0),
    }


def _worked(name: str, folder: Path, waiting: SimpleQueue[int], until: float) -> Iterator[_Tally]:
    """Run chunks of cases in a process that is replaced when it dies or hangs."""
    worker = _Worker(name, folder)
    try:
        while time.monotonic() < until and not waiting.empty():
            tally = _Tally(waiting.get())
            for number in range(tally.first, tally.first + CHUNK):
                began = time.monotonic()
                outcome, finding = worker.run(number)
                seconds = time.monotonic() - began
                if finding:
                    tally.findings.append({"case": number, "what": finding})
                else:
                    tally.outcomes[outcome] += 1
                tally.seconds += seconds
                tally.longest = max(tally.longest, seconds)
                tally.megabytes = max(tally.megabytes, worker.megabytes)
                if not worker.is_alive:
                    worker = _Worker(name, folder)
            yield tally
    finally:
        worker.end()


class _Worker:
    """A process that runs one case at a time."""

    def __init__(self, name: str, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(name, folder, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.is_alive = True
        self.megabytes = 0.0
        if not self._connection.poll(START):
            raise RuntimeError(f"{name}: the process did not start")
        self._connection.recv()

    def run(self, number: int) -> tuple[str, str]:
        """Run a case; return its outcome and the finding, if any."""
        try:
            self._connection.send(number)
            if not self._connection.poll(SECONDS):
                self._kill()
                return "", f"no answer within {SECONDS:g} seconds"
            outcome, found, self.megabytes = self._connection.recv()
        except (EOFError, ConnectionError):
            self._kill()
            return "", f"the process died (exit code {self._process.exitcode})"
        return outcome, found

    def end(self) -> None:
        """Let the process end, and with it what it has started; if it does not, kill it."""
        with suppress(OSError):
            self._connection.send(None)
            self._process.join(SECONDS)
        self._kill()

    def _kill(self) -> None:
        self.is_alive = False
        self._process.kill()
        self._process.join()


def _serve(name: str, folder: Path, connection: Connection) -> None:
    """Run the requested cases, until None is received."""
    run = _made(name, folder)
    run(0)  # what is imported late shall not count as a case's memory
    began = _peak()
    resource.setrlimit(resource.RLIMIT_DATA, (_data() + MEMORY, resource.RLIM_INFINITY))
    connection.send("ready")
    while (number := connection.recv()) is not None:
        found = outcome = ""
        try:
            outcome = run(number)
        except BaseException:  # noqa: BLE001 (whatever it is, it is a finding)
            found = traceback.format_exc()[-3000:]
        connection.send((outcome, found, (_peak() - began) / 2**20))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _data() -> int:
    """Return the bytes of private writable memory."""
    status = Path("/proc/self/status")
    found = [line for line in status.read_text().splitlines() if line.startswith("VmData")] if status.exists() else []
    return int(found[0].split()[1]) * 1024 if found else 8 * 2**30


def _version() -> str:
    """Return a hash of everything that a result depends on."""
    digest = hashlib.sha256()
    for folder in ("freerun", "native", "tests/fuzz"):
        for path in sorted((ROOT / folder).rglob("*.[pch]*")):
            if path.suffix in (".py", ".c", ".h"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _lines(path: Path) -> list[str]:
    """Return the complete lines: a stop may have truncated the last one."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.endswith("}")]


def _print(report: dict[str, Any]) -> None:
    parts = ", ".join(f"{count:,} {name}" for name, count in sorted(report["outcomes"].items()))
    print(
        f"{report['target']}: {report['cases']:,} cases in {report['seconds']:,.0f} process seconds: {parts}; "
        f"{len(report['findings'])} findings; at most {report['megabytes']:,.0f} MB more than at the start"
    )
    for finding in report["findings"][:20]:
        print(f"\n--- {report['target']}, case {finding['case']}\n{finding['what']}")


if __name__ == "__main__":
    sys.exit(main())
