"""Commands run in this process, with all that a case of the fuzzers has to leave alone."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch

from freerun.cli import main
from freerun.experiment import run as trainings
from freerun.studies import runner
from tests.exported import write_model
from tests.networks import network

TINY = """
[data]
train = "pairs.tsv"
dev = "dev.tsv"
source_tokens = "char"
target_tokens = "whitespace"
[model]
embedding_size = 3
hidden_size = 4
num_layers = 1
[training]
updates = 1
batch_size = 8
threads = 1
[evaluation]
every = 1
"""
STUDY = """
base = "tiny.toml"
control = "a"
seeds = [1]
[strategies.a]
strategy = "teacher"
[strategies.b]
strategy = "free_running"
"""
PAIRS = "a b\tv w\nc\tx\nd e\ty v\nb\tw\na\tv\nc a\tx v\n"
LONGEST_MESSAGE = 3000


@dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str


class Workplace:
    """A directory with models, pairs and configurations, of which each case gets a copy to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs = folder / "inputs"
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was ended
        self.inputs.mkdir(parents=True)
        self.case = folder / "case"
        self._is_new = False
        for name in ("home", "fonts"):
            (folder / name).mkdir(exist_ok=True)
        (folder / "outside").mkdir(exist_ok=True)
        (folder / "outside" / "letter.txt").write_text("dear")
        write_model(self.inputs / "bundle", network(1, torch.float32))
        (self.inputs / "pairs.tsv").write_text(PAIRS)
        (self.inputs / "dev.tsv").write_text(PAIRS[:8])
        (self.inputs / "tiny.toml").write_text(TINY)
        (self.inputs / "study.toml").write_text(STUDY)
        (self.inputs / "directory").mkdir(exist_ok=True)
        (self.inputs / "directory" / "letter.txt").write_text("dear")
        self._begin()
        trained = self.run(["train", "tiny.toml", "--out", "run"])
        assert trained.code == 0, trained
        exported = self.run(["export", "run", "--out", "exported"])
        assert exported.code == 0, exported
        for name in ("run", "exported"):
            shutil.rmtree(self.inputs / name, ignore_errors=True)
            shutil.copytree(self.case / name, self.inputs / name)
        self._before = self._elsewhere()

    def _begin(self) -> None:
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(self.inputs, self.case)

    def inputs_of_case(self) -> Path:
        """A new copy, to be changed before ``attempt``."""
        self._begin()
        self._is_new = True
        return self.case

    def attempt(self, arguments: Sequence[str]) -> Result:
        """Run a command in a new copy; whatever it does outside of that is an AssertionError."""
        if not self._is_new:
            self._begin()
        self._is_new = False
        result = self.run(arguments)
        assert self._elsewhere() == self._before, f"{arguments}: it changed what is outside of its directory"
        check(arguments, result)
        return result

    def run(self, arguments: Sequence[str]) -> Result:
        """Run a command with the copy as the working directory."""
        torch.set_num_threads(1)
        with in_directory(self.case, self.folder), _quick(), _streams() as streams:
            code = main(list(arguments))
        return Result(code, *(stream.getvalue().decode("utf-8", "surrogateescape") for stream in streams))

    def _elsewhere(self) -> dict[str, object]:
        """Everything but the case: kind, time and content of each file."""
        found: dict[str, object] = {}
        for name in ("inputs", "home", "outside"):
            for path in sorted((self.folder / name).rglob("*")):
                status = path.lstat()
                content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
                found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
        return {**found, "": sorted(os.listdir(self.folder))}


def check(arguments: Sequence[str], result: Result) -> None:
    """Exit code 0, or 2 with errors that say where, what, and what to do."""
    told = f"{arguments}: {result}"
    assert result.code in (0, 2), told
    assert "Traceback" not in result.err, told
    if result.code == 2:
        errors = [line for line in result.err.splitlines() if line.startswith(("error: ", "Usage: "))]
        assert errors, told
        for line in errors:
            assert line.startswith("Usage: ") or _is_message(line), told


def _is_message(line: str) -> bool:
    whole = re.fullmatch(r"error: .+: .+\. .+\.", line) is not None
    return (
        whole
        and any(word in line for word in ("Expected", "It requires", "See freerun"))
        and len(line) < LONGEST_MESSAGE
    )


@contextlib.contextmanager
def in_directory(folder: Path, places: Path) -> Iterator[None]:
    """``folder`` as the working directory, with a home directory in ``places``."""
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    try:
        # matplotlib keeps a list of fonts
        home = {"HOME": str(places / "home"), "MPLCONFIGDIR": str(places / "fonts")}
        with patch.dict(os.environ, home):
            yield
    finally:
        os.chdir(before)
        sys.path[:] = path


@contextlib.contextmanager
def _streams() -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Standard output and error as bytes; standard input has one line."""
    out, err = io.BytesIO(), io.BytesIO()
    texts = [io.TextIOWrapper(raw, "utf-8", errors, write_through=True) for raw, errors in _kinds(out, err)]
    with patch.multiple(sys, stdin=io.TextIOWrapper(io.BytesIO(b"a b\n"), "utf-8"), stdout=texts[0], stderr=texts[1]):
        yield out, err
    for text in texts:
        text.detach()


def _kinds(out: io.BytesIO, err: io.BytesIO) -> list[tuple[io.BytesIO, str]]:
    """How Python itself opens the two."""
    return [(out, "surrogateescape"), (err, "backslashreplace")]


class _NotTrained:
    """In place of a training in a process of its own: one that says at once why it cannot be."""

    start_time = 0.0

    def __init__(self, arguments: Sequence[str], log: Path, environment: object) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("error: training: this is a test. Expected none. Go on.\n")

    def poll(self) -> int:
        """Exit code."""
        return 2

    def was_locked_out(self) -> bool:
        """Not for another process."""
        return False

    def request_stop(self) -> None:
        """It has ended."""

    def wait(self) -> None:
        """It has ended."""


@contextlib.contextmanager
def _quick() -> Iterator[None]:
    """Nothing waits for the disk, writes for TensorBoard or starts processes: no case is about these."""
    with (
        patch.object(os, "fsync", lambda handle: None),
        patch.object(trainings, "tensorboard_is_installed", lambda: False),
        patch.object(runner, "TrainingProcess", _NotTrained),
        patch.object(runner, "_POLL_SECONDS", 0.0),
    ):
        yield


__all__ = ["STUDY", "TINY", "Result", "Workplace", "check", "in_directory"]
