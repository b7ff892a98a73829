"""Builds the compiled library of native/ into the wheel, where a C compiler is there; without it the wheel has none.

CC names the compiler (cc, gcc or clang otherwise). An editable installation gets the library beside its sources.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = Path("freerun/runtime/greedy.so")
# compilers do not fuse products and sums by themselves: then a row's numbers would depend on how many rows there are
FLAGS = ["-std=gnu11", "-O3", "-fPIC", "-ffp-contract=off"]
INSTRUCTIONS = {"base": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    FLAGS.append("-DFREERUN_X86")
    AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
    INSTRUCTIONS |= {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx2", "-mfma", *AVX512]}


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's way to do something before a wheel is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library, and say of the wheel that it is for this kind of machine."""
        if self.target_name != "wheel":
            return
        library = Path(self.root) / LIBRARY
        library.unlink(missing_ok=True)
        try:
            build(Path(self.root) / "native", library)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or error
            self.app.display_warning(f"freerun is built without its compiled library, so it will be slower: {said}")
            return
        build_data["artifacts"].append(f"/{LIBRARY}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def build(sources: Path, library: Path, flags: tuple[str, ...] = ()) -> None:
    """Compile ``sources`` into ``library``: step.c once for each instruction set.

    Raises:
        OSError: there is no compiler.
        subprocess.CalledProcessError: it failed; ``stderr`` says why.
    """
    compiler = _compiler()
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        objects = []
        for name, instructions in INSTRUCTIONS.items():
            objects.append(f"{folder}/{name}.o")
            step = ["-c", str(sources / "step.c"), f"-DFREERUN_STEP={name}", "-o", objects[-1]]
            _run([*compiler, *FLAGS, *flags, *instructions, *step])
        made = f"{folder}/{library.name}"
        _run([*compiler, *FLAGS, *flags, "-shared", str(sources / "greedy.c"), *objects, "-lm", "-o", made])
        Path(made).replace(library)


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC", ""))
    if named:
        return named
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise OSError("no C compiler was found (cc, gcc, clang, or the one that CC names)")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
