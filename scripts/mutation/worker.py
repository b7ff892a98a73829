"""Runs tests in a copy of the project, in one forked process per request.

Runs as a separate process: ``python scripts/mutation/worker.py MODULE...`` imports the modules (large libraries that
tests use, never the project's own), then reads one request per line from standard input and answers each with one line:

request: {"args": pytest arguments, "items": node ids to run in this order or null, "limits": CPU seconds by node id,
"seconds": wall clock limit of the whole run, "trace": file for the functions called by each test, or null}
answer: {"code": pytest's exit code, or "timeout", "failed": the first failing node id, "seconds": wall clock}

A fork costs milliseconds where starting an interpreter and importing torch cost seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from _pytest.config import default_plugins

OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=short")
MEMORY = 16 << 30
"""Address space of one run in bytes: a mutant that allocates without end fails before the machine does."""
ITEM_SECONDS = 300.0
"""CPU seconds of a test whose usual time is not known."""


class Watch:
    """A pytest plugin: order, limits, the first failure, and the functions that each test calls."""

    def __init__(self, request: dict, answer: Path) -> None:
        self._order = None if request["items"] is None else {item: i for i, item in enumerate(request["items"])}
        self._limits, self._trace, self._answer = request["limits"], request["trace"], answer
        self._outside: set[tuple[str, str]] = set()
        self._now = self._outside
        self._items: dict[str, tuple[float, set[tuple[str, str]]]] = {}
        if self._trace:
            threading.settrace(self._called)
            sys.settrace(self._called)

    def _called(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        self._now.add((code.co_filename, code.co_qualname))

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the requested items, in the requested order."""
        if self._order is not None:
            items[:] = sorted((i for i in items if i.nodeid in self._order), key=lambda i: self._order[i.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Time and limit one item. The limit counts CPU time: a busy machine does not look like an endless loop."""
        signal.setitimer(signal.ITIMER_PROF, self._limits.get(item.nodeid, ITEM_SECONDS))
        start, calls = time.process_time(), set()
        self._now = calls
        try:
            return (yield)
        finally:
            self._now = self._outside
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._items[item.nodeid] = (time.process_time() - start, calls)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record which test failed first."""
        if report.failed and not self._answer.exists():
            self._answer.write_text(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write the calls: project files only, as paths relative to the working directory."""
        if not self._trace:
            return
        sys.settrace(None)
        here = f"{Path.cwd()}{os.sep}"
        ours = {
            item: [seconds, sorted([file.removeprefix(here), name] for file, name in calls if file.startswith(here))]
            for item, (seconds, calls) in {**self._items, "": (0.0, self._outside)}.items()
        }
        Path(self._trace).write_text(json.dumps(ours))


def _child(request: dict, log: Path, answer: Path) -> None:
    """Run pytest; never returns."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    code = int(pytest.ExitCode.INTERNAL_ERROR)
    try:
        code = int(pytest.main([*OPTIONS, *request["args"]], plugins=[Watch(request, answer)]))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, seconds: float) -> int | None:
    """Return the wait status, or nothing when the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.01)
    return None


def _run(request: dict, folder: Path) -> dict:
    log, answer = folder / "log", folder / "failed"
    answer.unlink(missing_ok=True)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(request, log, answer)
    try:
        status = _wait(child, request["seconds"])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # also whatever the tests started
    if status is None:
        os.waitpid(child, 0)
    late = status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF)
    code = "timeout" if late else os.waitstatus_to_exitcode(status)
    failed = answer.read_text() if answer.exists() else ""
    return {"code": code, "failed": failed, "seconds": time.monotonic() - start}


def main() -> None:
    """Serve requests until standard input ends. The second argument is a directory for logs."""
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # xdist and the like: of no use here, and slow to start
    for module in (*(f"_pytest.{name}" for name in default_plugins), *sys.argv[2:]):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line), folder)), flush=True)


if __name__ == "__main__":
    main()
