"""The C library under AddressSanitizer and UndefinedBehaviorSanitizer: random models, sources and damage."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.compiled import BUILD

FLAGS = (
    "-g1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-DFREERUN_GAPS",
    f"-I{BUILD['SOURCES']}",
)
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0"
}  # counted by the program itself, as containers may forbid to look for them
UNLIMITED = ("sh", "-c", 'ulimit -S -v "$(ulimit -H -v)" && exec "$@"', "sh")
"""AddressSanitizer maps terabytes of addresses, more than the limits that some tests run under."""
MODELS = 100
"""Models for each case, so that starting a process is not most of the work."""


def sanitizers(folder: Path) -> str:
    """Return why there are no sanitizers here; empty if there are."""
    (folder / "probe.c").write_text("int main(void) { return 0; }\n")
    commands = ([*BUILD["_compiler"](), *FLAGS, "probe.c", "-o", "probe"], [*UNLIMITED, "./probe"])
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        if done.returncode:
            return done.stderr
    return ""


class Native:
    """``freerun_greedy`` with every instruction set of this machine; see native.c next to this file."""

    name = "native"

    def __init__(self, folder: Path, optimise: str = "-O2") -> None:
        """Build with ``optimise``; "-O1" takes a third of the time to build, and its program twice as long."""
        self._program = folder / "native"
        BUILD["link"](self._program, [str(Path(__file__).with_name("native.c"))], (optimise, *FLAGS))

    def __call__(self, number: int) -> str:
        """Return "passed".

        Raises:
            RuntimeError: the program stopped; the message has its report and the number of the model.
        """
        self.run(number * MODELS, MODELS)
        return "passed"

    def run(self, first: int, count: int) -> str:
        """Run models ``first`` to ``first + count``; return the instruction sets and the number of each result."""
        command = [*UNLIMITED, str(self._program), str(first), str(count)]
        environment = {**os.environ, **ENVIRONMENT}
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr}")
        return done.stdout


__all__ = ["Native", "sanitizers"]
