"""The C library does nothing undefined, whatever it is given: random models and damage under sanitizers."""

from __future__ import annotations

import os
import re

import pytest

from freerun.runtime.compiled import LIBRARY, opened
from tests.compiled import COMPILER
from tests.fuzz.native import Native, sanitizers

FEW = 110  # the first that asks for memory that is not there is 103
MANY = range(1, 101)  # hundreds of models
SETS = ["base", "avx2", "avx512"]


@pytest.fixture
def folder(tmp_path):
    """Where to build; skips, or fails where nothing may be left out, if the compiler has no sanitizers."""
    why = sanitizers(tmp_path) if COMPILER else "no C compiler"
    if why and os.environ.get("FREERUN_SANITIZERS") == "required":
        pytest.fail(why)
    if why:
        pytest.skip(f"the compiler has no sanitizers (Debian: gcc): {why}")
    return tmp_path


@pytest.mark.slow
def test_random_models_and_damage_pass_under_sanitizers(folder):
    found = Native(folder, "-O1").run(0, FEW)
    report = r"([a-z0-9 ]+) ok (\d+), no memory (\d+), bad source (\d+), bad model (\d+)\n"
    sets, *results = re.fullmatch(report, found).groups()
    best = opened(LIBRARY).freerun_instructions().decode()
    assert sets.split() == SETS[: SETS.index(best) + 1]
    assert sum(map(int, results)) == FEW * len(sets.split())
    assert all(int(each) > 0 for each in results)


@pytest.mark.slow
def test_many_random_models_and_damage_pass_under_sanitizers(folder):
    native = Native(folder)
    assert {native(number) for number in MANY} == {"passed"}
