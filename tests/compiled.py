"""The compiled library, also as it is for processors of other kinds than the one at hand."""

from __future__ import annotations

import os
import runpy
import shutil
from pathlib import Path

import pytest

from freerun.runtime.compiled import LIBRARY, opened

BUILD = runpy.run_path(str(Path(__file__).parents[1] / "native" / "build.py"))
COMPILER = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler: install gcc or clang")

CHECKED = ("-fsanitize=undefined", "-fno-sanitize-recover=all")
"""Stop at once at what C leaves undefined."""
KINDS = {"installed": None, "avx2": ("-DFREERUN_NO_AVX512",), "base": ("-UFREERUN_X86", *CHECKED)}


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """A function from a kind to the library of that kind, each built once."""
    made = {}

    def library(kind):
        if kind not in made:
            path = LIBRARY
            if KINDS[kind] is not None:
                path = tmp_path_factory.mktemp("native") / "greedy.so"
                BUILD["build"](path, KINDS[kind])
            made[kind] = opened(path)
        return made[kind]

    return library


__all__ = ["BUILD", "COMPILER", "KINDS", "build", "needs_compiler"]
