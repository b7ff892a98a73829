"""Compiles the library: step.c once for each instruction set, the other sources once.

    python native/build.py LIBRARY [FLAG ...]

CC names the compiler (cc, gcc or clang otherwise).
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
# compilers do not fuse products and sums by themselves: then a row's numbers would depend on how many rows there are
FLAGS = ["-std=gnu11", "-O3", "-fPIC", "-ffp-contract=off"]
INSTRUCTIONS: dict[str, list[str]] = {"base": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    FLAGS.append("-DFREERUN_X86")
    AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
    INSTRUCTIONS |= {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx2", "-mfma", *AVX512]}


def build(library: Path, flags: tuple[str, ...] = ()) -> None:
    """Compile the sources beside this file into ``library``, with further ``flags``.

    Raises:
        OSError: there is no compiler.
        ValueError: CC is not a command.
        subprocess.CalledProcessError: it failed; ``stderr`` says why.
    """
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder, library.name)
        link(made, [str(SOURCES / "greedy.c"), "-shared"], flags)
        made.replace(library)


def link(made: Path, sources: list[str], flags: tuple[str, ...] = ()) -> None:
    """Compile ``sources`` with the steps of all instruction sets and the checks into ``made``; see ``build``."""
    compiler = [*_compiler(), *FLAGS, *flags]
    objects = []
    for name, instructions in INSTRUCTIONS.items():
        objects.append(f"{made}.{name}.o")
        step = ["-c", str(SOURCES / "step.c"), f"-DFREERUN_STEP={name}", "-o", objects[-1]]
        _run([*compiler, *instructions, *step])
    _run([*compiler, *sources, str(SOURCES / "check.c"), *objects, "-lm", "-o", str(made)])


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC", ""))
    if named:
        return named
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise OSError("no C compiler was found (cc, gcc, clang, or the one that CC names)")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    build(Path(sys.argv[1]), tuple(sys.argv[2:]))
