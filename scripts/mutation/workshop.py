"""A temporary copy of the project, and the worker that runs tests there. The working tree is never changed."""

from __future__ import annotations

import compileall
import json
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mutation.mutant import Mutant

WORKER = Path(__file__).with_name("worker.py")
PRELOAD = ("torch", "numba", "scipy.stats", "onnx", "onnxruntime", "rapidfuzz", "sacrebleu", "safetensors.torch")
PRELOAD += ("hypothesis", "pydantic", "typer", "jinja2")
"""Libraries that are imported once, before any test: most of the time of a short test."""
LIBRARY = "freerun/runtime/greedy.so"


@dataclass(frozen=True)
class Outcome:
    """What pytest returned: "passed", "failed", "timeout", "none" (no such tests) or "error", and the first failure."""

    kind: str
    failed: str
    seconds: float


class Workshop:
    """Runs tests in a copy of ``root``, which is ``path`` below ``folder``; logs are stored next to it."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.path, self._folder = folder / "copy", folder
        copy_project(root, self.path)
        command = [sys.executable, str(WORKER), str(folder), *PRELOAD]
        environment = {**os.environ, "PYTHONPATH": str(self.path), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        environment.setdefault("FREERUN_SHARED", str(root / "shared"))
        environment.pop("PYTEST_ADDOPTS", None)
        self._process = subprocess.Popen(
            command,
            cwd=self.path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the script, which then ends the worker
        )

    def run(
        self,
        args: Sequence[str],
        *,
        items: Sequence[str] | None = None,
        limits: Mapping[str, float] | None = None,
        seconds: float = 3600.0,
        trace: Path | None = None,
    ) -> Outcome:
        """Run pytest with ``args``: only ``items``, in their order, if given. See worker.py for the limits."""
        request = {"args": list(args), "items": items, "limits": limits or {}, "seconds": seconds}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({**request, "trace": trace and str(trace)}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{WORKER}: the worker ended. Expected an answer. Look at its messages above")
        answer = json.loads(line)
        # 2 is an interrupted run, as by an import error while collecting: noticed, too. Signals are negative.
        kinds = {0: "passed", 1: "failed", 2: "failed", 5: "none", "timeout": "timeout"}
        code = answer["code"]
        kind = "failed" if isinstance(code, int) and code < 0 else kinds.get(code, "error")
        return Outcome(kind, answer["failed"], answer["seconds"])

    def log(self) -> str:
        """Return what pytest printed last."""
        return (self._folder / "log").read_text(errors="replace")

    @contextmanager
    def mutated(self, mutant: Mutant, source: bytes) -> Iterator[None]:
        """Apply a mutant inside the block."""
        path = self.path / mutant.file
        before = path.stat()
        path.write_bytes(mutant.apply(source))
        try:
            yield
        finally:
            path.write_bytes(source)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def close(self) -> None:
        """End the worker, and the tests that it may be running."""
        self._process.terminate()
        self._process.communicate()


def project_files(root: Path) -> list[str]:
    """Return the files that are or would be committed, as they are in the working tree.

    Raises RuntimeError outside a git checkout.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{root}: {done.stderr.strip()}. Expected a git checkout. Clone the project")
    names = filter(None, done.stdout.split("\0"))
    return [name for name in names if (root / name).is_file() and not (root / name).is_symlink()]


@contextmanager
def workshops(root: Path, number: int) -> Iterator[list[Workshop]]:
    """Open ``number`` copies of the project, and remove them at the end."""
    with tempfile.TemporaryDirectory(prefix="freerun-mutants-") as folder:
        opened: list[Workshop] = []
        try:
            opened.extend(Workshop(root, Path(folder) / str(index)) for index in range(number))
            yield opened
        finally:
            for workshop in opened:
                workshop.close()


def copy_project(root: Path, copy: Path) -> None:
    """Copy the project, with the compiled library if there is one."""
    library = [LIBRARY] if (root / LIBRARY).is_file() else []
    for name in project_files(root) + library:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, copy / name)
    # Time stamps of bytecode count whole seconds: a mutant of the same length could be missed. Hashes are safe.
    checked = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(copy, quiet=2, invalidation_mode=checked)
