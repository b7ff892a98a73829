"""Every command under every fault of the operating system, and what has to hold.

A command either succeeds or ends with exit code 2 and a message; there is never a traceback. Files that were there
before are as they were, or as the undisturbed command would have left them: whole, in either case. Nothing unfinished
is left behind. After SIGKILL the same command succeeds.

Commands run as forks of one process, which has loaded everything, and has no threads. Faults of writing come from
shim.c, which has to be preloaded: ``run_table`` starts the process so, ``main`` is what it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["COMMANDS", "FAULTS", "Cell", "Command", "build_shim", "run_table"]

ROOT = Path(__file__).resolve().parents[2]
BUSY_MESSAGE = "is writing here"
LIMIT = 60
"""Seconds after which a command is ended, and its cell is wrong."""


@dataclass(frozen=True)
class Command:
    """A command line, run in a copy of the scene.

    Attributes:
        arguments: what is typed.
        locks: the lock file that it must hold alone.
        prints: results go to standard output.
        any_bytes: what differs between two undisturbed runs, such as journals with times.
        between: what differs if it is stopped on the way: bundles of earlier updates.
        again: what is typed after it was killed, if that is not the same.
    """

    arguments: tuple[str, ...]
    locks: str = ""
    prints: bool = True
    any_bytes: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    again: tuple[str, ...] = ()


_ONE = ("--threads", "1")
_TUNE = (
    *("tune", "train.tsv", "--dev", "dev.tsv", "--out", "tuned", "--minutes", "0.4", "--trials", "2"),
    *("--set", "model.hidden_size=4", "--set", "model.embedding_size=4", "--set", "training.threads=1"),
)
COMMANDS: Mapping[str, Command] = {
    "train": Command(
        ("train", "config.toml", "--out", "new"),
        "new/.lock",
        any_bytes=("new/journal.jsonl", "new/checkpoints", "new/tensorboard"),
        between=("new",),
        again=("train", "config.toml", "--out", "new", "--resume"),
    ),
    "train --resume": Command(
        ("train", "--resume", "--out", "half"),
        "half/.lock",
        any_bytes=("half/journal.jsonl", "half/checkpoints", "half/tensorboard"),
    ),
    "predict": Command(("predict", "run", "ab", "ba", *_ONE)),
    "predict --output": Command(("predict", "bundle", "--input", "texts", "--output", "out.txt"), prints=False),
    "score": Command(("score", "run", "dev.tsv", *_ONE)),
    "evaluate": Command(("evaluate", "run", *_ONE)),
    "compare": Command(("compare", "run", "bundle", "dev.tsv", *_ONE)),
    "diagnose": Command(("diagnose", "run", *_ONE)),
    "diagnose --html": Command(("diagnose", "run", *_ONE, "--html", "page.html")),
    "study": Command(("study", "study.toml", "--out", "studied"), "studied/.lock"),
    "tune": Command(_TUNE, "tuned/.lock"),
    "export": Command(("export", "run"), "run/.lock"),
    "export --out": Command(("export", "run", "--out", "bundle"), ".bundle.lock"),
    "inspect": Command(("inspect", "bundle")),
    "data list": Command(("data", "list")),
    "data make": Command(("data", "make", "copy", "made"), "made/.lock"),
    "data prepare": Command(
        ("data", "prepare", "train.tsv", "--out", "prepared"),
        "prepared/.lock",
        any_bytes=("prepared/scratch",),
        between=("prepared",),
        again=("data", "prepare", "train.tsv", "--out", "prepared"),
    ),
}
"""The commands by what a table calls them; the words before an option are the command's name."""


@dataclass(frozen=True)
class Fault:
    """What is done to a command.

    Attributes:
        writes: error number of writing, or "kill".
        fraction: of the bytes that the undisturbed command writes; after so many the error begins.
        syncs: error number of fsync.
        streams: a standard stream's number, and what is done to it.
        lock: another process is writing the same; of two writers of a file the last one wins, whole.
    """

    writes: str = ""
    fraction: float = 0.0
    syncs: str = ""
    streams: tuple[int, str] | None = None
    lock: bool = False


FAULTS: Mapping[str, Fault] = {
    "none": Fault(),
    "disk full": Fault(str(errno.ENOSPC)),
    "disk full halfway": Fault(str(errno.ENOSPC), 0.5),
    "disk full at the end": Fault(str(errno.ENOSPC), 0.999),
    "EIO": Fault(str(errno.EIO), 0.3),
    "EIO in fsync": Fault(syncs=str(errno.EIO)),
    "stdout full": Fault(streams=(1, "full")),
    "stdout's reader gone": Fault(streams=(1, "pipe")),
    "stdout closed": Fault(streams=(1, "closed")),
    "stderr closed": Fault(streams=(2, "closed")),
    "stderr full": Fault(streams=(2, "full")),
    "stdin closed": Fault(streams=(0, "closed")),
    "second writer": Fault(lock=True),
    "killed": Fault("kill", 0.5),
}


@dataclass
class Cell:
    """What a command did under a fault: exit code, the first line of its message, and whatever was wrong."""

    command: str
    fault: str
    code: int
    message: str = ""
    problems: list[str] = field(default_factory=list)


# -- building the shim and starting the table in a process that has it -------------------------------------------------


def build_shim(folder: Path, compiler: str) -> Path:
    """Compile shim.c into ``folder``; return the library."""
    library = folder / "shim.so"
    source = str(Path(__file__).with_name("shim.c"))
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-w", source, "-ldl", "-o", str(library)], check=True)
    return library


def run_table(
    folder: Path, compiler: str, commands: tuple[str, ...] = (), faults: tuple[str, ...] = (), processes: int = 2
) -> list[Cell]:
    """All cells, or those of some commands and faults, tried in ``folder`` by several processes."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "LD_PRELOAD": str(build_shim(folder, compiler)), "OMP_NUM_THREADS": "1"}
    chosen = commands or tuple(COMMANDS)
    parts = [chosen[number::processes] for number in range(min(processes, len(chosen)))]
    started = [_started(folder / str(number), part, faults, environment) for number, part in enumerate(parts)]
    cells: list[Cell] = []
    for number, process in enumerate(started):
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors[-4000:])
        cells += [Cell(**each) for each in json.loads((folder / str(number) / "cells.json").read_text())]
    return sorted(cells, key=lambda cell: (chosen.index(cell.command), list(FAULTS).index(cell.fault)))


def _started(
    folder: Path, commands: tuple[str, ...], faults: tuple[str, ...], environment: Mapping[str, str]
) -> subprocess.Popen[str]:
    folder.mkdir()
    arguments = [sys.executable, "-m", "tests.faults.table", str(folder / "scenes"), str(folder / "cells.json")]
    arguments += [f"--command={name}" for name in commands] + [f"--fault={name}" for name in faults]
    return subprocess.Popen(
        arguments, cwd=ROOT, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


# -- the scene ---------------------------------------------------------------------------------------------------------

CONFIG = """
[data]
train = "train.tsv"
dev = "dev.tsv"
source_tokens = "char"
target_tokens = "char"
[model]
cell = "gru"
embedding_size = 6
hidden_size = 8
num_layers = 1
attention = "none"
[training]
updates = 8
batch_size = 8
threads = 1
precision = "fp32"
checkpoint_every = 2
[evaluation]
every = 4
"""
STUDY = """
base = "config.toml"
control = "teacher"
seeds = [1]
[strategies.teacher]
strategy = "teacher"
[strategies.free]
strategy = "free_running"
"""


def make_scene(folder: Path) -> None:
    """Data, a finished run, one that was stopped halfway, an exported bundle, a finished study, a finished tuning."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_data(folder)
    (folder / "out.txt").write_text("older outputs\n")
    (folder / "page.html").write_text("an older page\n")
    with contextlib.chdir(folder):
        _call("train", "config.toml", "--out", "run")
        _call("export", "run", "--out", "bundle")
        _call("study", "study.toml", "--out", "studied")
        _call(*_TUNE)
        shutil.copytree("run", "half")
        _forget_the_end(folder / "half")


def _write_data(folder: Path) -> None:
    words = ["".join(chr(97 + (i * j) % 5) for j in range(1, 3 + i % 4)) for i in range(1, 40)]
    lines = [f"{word}\t{word[::-1]}\n" for word in dict.fromkeys(words)]
    (folder / "train.tsv").write_text("".join(lines[8:]))
    (folder / "dev.tsv").write_text("".join(lines[:8]))
    (folder / "texts").write_text("ab\nba\ncab\n" * 50)
    (folder / "config.toml").write_text(CONFIG)
    (folder / "study.toml").write_text(STUDY)


def _forget_the_end(run: Path) -> None:
    """Make of a finished run one that was stopped before its last checkpoint."""
    newest = max((run / "checkpoints").iterdir())
    shutil.rmtree(newest)
    size = json.loads((max((run / "checkpoints").iterdir()) / "state.json").read_text())["journal_size"]
    os.truncate(run / "journal.jsonl", size)


def _call(*arguments: str) -> None:
    """A command in a fork: what runs commands must itself have no threads of torch or onnxruntime."""
    with tempfile.TemporaryFile() as log:
        child = os.fork()
        if not child:
            code = 70
            try:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                code = _command(arguments)
            finally:
                os._exit(code)
        if os.waitpid(child, 0)[1]:
            log.seek(0)
            raise RuntimeError(f"{arguments}: {log.read().decode()}")


# -- a cell ------------------------------------------------------------------------------------------------------------


class Table:
    """Runs commands under faults in copies of the scene."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scene = folder / "scene"
        make_scene(self.scene)
        self._undisturbed: dict[str, tuple[dict[str, bytes], int]] = {}

    def cell(self, name: str, fault_name: str) -> Cell | None:
        """Try it; None where the fault does not apply."""
        command, fault = COMMANDS[name], FAULTS[fault_name]
        size = self._bytes(name)
        if (fault.lock or fault.writes) and not size:
            return None
        copy = self._copy()
        before = contents(copy)
        with self._second_writer(copy, command) if fault.lock else contextlib.nullcontext():
            code, out, err = self._run(copy, command.arguments, fault, size)
            after = contents(copy)
        cell = Cell(name, fault_name, code, _first_line(err))
        cell.problems += self._wrong_files(name, before, after)
        cell.problems += self._damaged_bundles(copy)
        cell.problems += _wrong_end(command, fault, cell, out, err)
        if fault.writes == "kill":
            cell.problems += self._after_the_kill(name, copy)
        elif left := [path for path in after if _is_leftover(path) and not (fault.lock and path == command.locks)]:
            cell.problems.append(f"left behind: {', '.join(left)}")
        return cell

    def _bytes(self, name: str) -> int:
        """How much a command writes if nothing happens."""
        if name not in self._undisturbed:
            copy = self._copy()
            code, _, err = self._run(copy, COMMANDS[name].arguments, Fault(), 0)
            if code:
                raise RuntimeError(f"{name}: {err}")
            self._undisturbed[name] = contents(copy), self.written
        return self._undisturbed[name][1]

    def _copy(self) -> Path:
        copy = self.folder / "case"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.scene, copy)
        return copy

    def _wrong_files(self, name: str, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
        """Files that are neither what they were nor what the command makes of them."""
        whole = self._undisturbed[name][0]
        may_differ = (*COMMANDS[name].any_bytes, *COMMANDS[name].between)
        lost = [path for path in before if path not in after and not _beginning(path, may_differ)]
        odd = [
            path
            for path, content in after.items()
            if content not in (before.get(path), whole.get(path))
            and not _beginning(path, may_differ)
            and not _is_leftover(path)
        ]
        return [f"lost: {path}" for path in lost] + [f"half written: {path}" for path in odd]

    def _damaged_bundles(self, copy: Path) -> list[str]:
        from freerun.errors import BundleError
        from freerun.runtime.bundle import read_bundle

        problems = []
        for config in copy.rglob("config.json"):
            if _is_leftover(str(config.relative_to(copy))):
                continue
            try:
                bundle = read_bundle(config.parent)
                for name in bundle.config["files"]:
                    bundle.checked_bytes(name)
            except BundleError as error:
                problems.append(str(error))
        return problems

    def _after_the_kill(self, name: str, copy: Path) -> list[str]:
        """The same command again."""
        command = COMMANDS[name]
        code, _, err = self._run(copy, command.again or command.arguments, Fault(), 0)
        after = contents(copy)
        problems = [f"again: exit code {code}: {_first_line(err)}"] if code else []
        problems += [f"again, left behind: {path}" for path in after if _is_leftover(path)]
        whole = self._undisturbed[name][0]
        other = [path for path in whole if after.get(path) != whole[path]]
        return problems + [
            f"again, not as undisturbed: {path}" for path in other if not _beginning(path, COMMANDS[name].any_bytes)
        ]

    @contextlib.contextmanager
    def _second_writer(self, copy: Path, command: Command) -> Iterator[None]:
        """Hold the lock of what is written; a file has none, so be about to replace it as well."""
        from freerun.files import replacing_file
        from freerun.lock import only_writer

        if command.locks:
            with only_writer(copy / command.locks):
                yield
            return
        file = copy / command.arguments[-1]
        with replacing_file(file) as out:
            out.write(b"of the other writer")
            yield
        if file.read_bytes() != b"of the other writer":
            raise RuntimeError(f"{file}: not as the last writer left it")

    def _run(self, folder: Path, arguments: tuple[str, ...], fault: Fault, size: int) -> tuple[int, str, str]:
        """Exit code (minus the signal's number), standard output and standard error of a command in a fork."""
        out, err = self.folder / "stdout", self.folder / "stderr"
        counted = self.folder / "written"
        child = os.fork()
        if not child:
            code = 70
            try:
                os.chdir(folder)
                signal.alarm(LIMIT)
                _set_streams(out, err, fault)
                os.environ.update(
                    FAULT_UNDER=str(folder) + "/",
                    FAULT_AFTER=str(int(size * fault.fraction)),
                    FAULT_ERRNO=fault.writes,
                    FAULT_SYNC=fault.syncs,
                    HOME=str(folder),
                )
                code = _command(arguments)
                counted.write_text(str(ctypes.CDLL(None).fault_written()))
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self.written = int(counted.read_text()) if counted.exists() else 0
        return code, _text(out), _text(err)


def _command(arguments: tuple[str, ...]) -> int:
    """As the program freerun: with Python's own writing at exit."""
    from freerun.cli import main as command

    try:
        code = command(list(arguments))
    except BaseException:  # noqa: BLE001 (told as Python tells it)
        sys.excepthook(*sys.exc_info())
        code = 1
    try:
        sys.stdout.flush()
    except OSError:
        code = 120  # which is what Python makes of it
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    return code


def _set_streams(out: Path, err: Path, fault: Fault) -> None:
    """The three streams of a new process, with what the fault does to one of them, and Python's objects on them."""
    for number, path in ((0, Path(os.devnull)), (1, out), (2, err)):
        handle = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    names = {0: "stdin", 1: "stdout", 2: "stderr"}
    closed = None
    if fault.streams is not None:
        number, what = fault.streams
        if what == "closed":
            os.close(number)
            closed = number
        elif what == "full":
            handle = os.open("/dev/full", os.O_WRONLY)
            os.dup2(handle, number)
        else:
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(writer, number)
    for number, name in names.items():
        stream = None if number == closed else open(number, "w" if number else "r", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)


def _wrong_end(command: Command, fault: Fault, cell: Cell, out: str, err: str) -> list[str]:
    problems = []
    if "Traceback" in err or "Exception ignored" in err:
        problems.append(f"a traceback: {err[-2000:]}")
    if cell.code not in _codes(command, fault):
        problems.append(f"exit code {cell.code}")
    if cell.code == 2 and fault.streams != (2, "closed") and "error: " not in err:
        problems.append("no message")
    if fault.lock and command.locks and BUSY_MESSAGE not in err:
        problems.append("does not say who is writing")
    if any(word in out for word in ("warning:", "error:")):
        problems.append("notices on standard output")
    return problems


def _codes(command: Command, fault: Fault) -> tuple[int, ...]:
    """Exit codes that are right."""
    if fault.writes == "kill":
        return (-signal.SIGKILL,)
    if fault.lock or fault.writes or fault.syncs:
        # a command that writes nothing to the disk does not notice, one that writes must say so
        if fault.lock:
            return (2,) if command.locks else (0,)
        return (2,) if fault.writes else (0, 2)
    number, what = fault.streams or (0, "")
    if number == 1 and command.prints and what in ("full", "pipe"):
        return (2,) if what == "full" else (1,)
    return (0,)


def contents(folder: Path) -> dict[str, bytes]:
    """Content by relative path, leftovers included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if not path.is_dir()}


def _is_leftover(path: str) -> bool:
    return any(part.startswith(".") and part.endswith((".tmp", ".old", ".lock")) for part in Path(path).parts)


def _beginning(path: str, beginnings: tuple[str, ...]) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in beginnings)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _first_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    return lines[0] if lines else ""


def main() -> None:
    """Run cells in this process, which has the shim, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--command", action="append", choices=COMMANDS)
    parser.add_argument("--fault", action="append", choices=FAULTS)
    options = parser.parse_args()
    _load_everything()
    table = Table(options.folder)
    cells = [
        cell
        for name in options.command or COMMANDS
        for fault in options.fault or FAULTS
        if (cell := table.cell(name, fault)) is not None
    ]
    options.result.write_text(json.dumps([asdict(cell) for cell in cells], indent=1))


def _load_everything() -> None:
    """Import what commands import, and train for a moment, which loads more; so forks need not."""
    import freerun.commands.export
    import freerun.commands.study
    import freerun.commands.tune
    import freerun.report.diagnosis_page
    import freerun.report.tuning_page
    import freerun.studies.tuner  # noqa: F401
    from freerun.cli import main as command

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as log:
        _write_data(Path(folder))
        with contextlib.redirect_stderr(log):
            code = command(["train", f"{folder}/config.toml", "--out", f"{folder}/run"])
    if code:
        raise RuntimeError(log.getvalue())


if __name__ == "__main__":
    main()
