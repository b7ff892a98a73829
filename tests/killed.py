"""Runs that are killed and started again, and what has to be the same afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from freerun.experiment import run as runs
from freerun.experiment.request import TrainRequest
from freerun.training.checkpoint import Checkpoints
from freerun.training.journal import read_journal

TIMES = ("seconds", "_per_second")
BUNDLES = ("best", "last")
OF_THE_JOURNAL = ("journal_size", "journal_sha256")
"""Keys of a checkpoint's state that depend on how many digits a time has."""


# ------------------------------------------------------------------------------------------- what has to be the same


def journal(directory):
    """The events of a run, except the time they took and where the run was resumed."""
    events = [event for event in read_journal(directory / "journal.jsonl") if event["event"] != "resume"]
    return [json.dumps({key: value for key, value in event.items() if not key.endswith(TIMES)}) for event in events]


def contents(directory):
    """Content by name: everything that has to be the same to the last byte."""
    found = {"config.toml": (directory / "config.toml").read_bytes()}
    if (directory / "dev.tsv").exists():
        found["dev.tsv"] = (directory / "dev.tsv").read_bytes()
    for name in BUNDLES:
        for path in sorted((directory / name).iterdir()):
            found[f"{name}/{path.name}"] = path.read_bytes()
    for update in Checkpoints(directory / "checkpoints", 3).updates():
        name = f"checkpoints/update-{update:08d}"
        for part in ("model", "optimizer", "strategy"):
            found[f"{name}/{part}.safetensors"] = (directory / name / f"{part}.safetensors").read_bytes()
        state = json.loads((directory / name / "state.json").read_bytes())
        found[f"{name}/state.json"] = {key: value for key, value in state.items() if key not in OF_THE_JOURNAL}
    return found


def differences(directory, whole):
    """Return the names of the files that differ between two run directories."""
    found, expected = contents(directory), contents(whole)
    names = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    return names + ["journal.jsonl"] * (journal(directory) != journal(whole))


def leftovers(directory):
    """Return the lock files and partial files anywhere in a directory."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob(".*"))


# ------------------------------------------------------------------------------------------------------------- killing


def fork(task: Callable[[], int], log: Path | None = None) -> int:
    """Start a task in a child process, which has loaded everything already; returns its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        if log is not None:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
        code = task()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(child: int) -> int | None:
    """The exit code of a child, None while it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait(child: int) -> int:
    """The exit code of a child, when it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child: int) -> None:
    """SIGKILL; returns when the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    wait(child)


def killed_after(child: int, seconds: float) -> int | None:
    """Kill a child after this time; returns its exit code if it has ended before."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if (code := ended(child)) is not None:
            return code
        time.sleep(min(left, 0.01))
    kill(child)
    return None


def main(arguments: list[str]) -> int:
    """Train, killed again and again whenever the run has a new checkpoint and a random while later; then to the end.

    Prints the update of the newest checkpoint when an attempt began, and when it was killed.
    """
    config, directory, seed, kills, longest, *settings = arguments
    runs.tensorboard_is_installed = lambda: False
    os.fsync = lambda handle: None  # what a killed process wrote is not lost
    request = TrainRequest(source=Path(config), out=Path(directory), settings=tuple(settings), resume=True)
    moments = random.Random(int(seed))

    def train() -> int:
        runs.train(request)
        return 0

    def newest() -> int:
        return (Checkpoints(Path(directory) / "checkpoints", 9).updates() or [0])[-1]

    for _ in range(int(kills)):
        before = newest()
        child = fork(train)
        started = time.monotonic()
        while (code := ended(child)) is None:
            if newest() > before or time.monotonic() - started > 60:
                if (code := killed_after(child, moments.uniform(0, float(longest)))) is None:
                    sys.stdout.write(f"killed at {before} {newest()}\n")
                    sys.stdout.flush()
                break
            time.sleep(0.01)
        if code is not None:
            return code
    return wait(fork(train))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
