"""scripts/kills.py: what it counts as the same, what it remembers; and, slowly, a few kills of each kind."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import killed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("kills")


@pytest.fixture
def result(script):
    """A result with these values."""
    usual = {"number": 1, "seed": 0, "scene": "study", "version": "v", "kills": 2, "late": 1, "differences": []}
    return lambda **values: script.Result(**{**usual, "seconds": 1.5, **values})


def test_the_kinds_take_turns_and_so_do_both_ways_to_export(script):
    scenes = [script.scene_of(number, script.KINDS) for number in range(200)]
    assert scenes[:6] == ["training", "export in place", "study", "training", "export elsewhere", "study"]
    assert [scenes.count(name) for name in script.SCENES] == [67, 34, 33, 66]
    assert [script.scene_of(number, ["export"]) for number in range(2)] == ["export in place", "export elsewhere"]


def test_results_are_those_of_the_same_seed_and_sources(script, result, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"number": 7, "see')  # a run that was stopped
    kept = [result(), result(number=2, differences=["a"])]
    for each in (*kept, result(number=3, seed=1), result(number=4, version="w")):
        script.append(path, each)
    assert script.read_results(path, 0, "v") == {1: kept[0], 2: kept[1]}
    assert script.read_results(tmp_path / "none", 0, "v") == {}


def test_the_table_counts_runs_that_are_as_undisturbed(script, result):
    results = [result(), result(differences=["a"], seconds=0.5), result(scene="training", kills=0)]
    assert script.as_table(results).splitlines()[2:] == [
        "| training | 1 | 0 | 1 | 2 | 1 |",
        "| study | 2 | 4 | 2 | 2 | 1 |",
        "| all | 3 | 4 | 3 | 4 | 2 |",
    ]


def test_files_are_compared_except_for_times(script, tmp_path):
    for name, seconds in (("case", 1.0), ("whole", 2.0)):
        (tmp_path / name / "out" / "results").mkdir(parents=True)
        (tmp_path / name / "out" / "logs").mkdir()
        (tmp_path / name / "out" / "logs" / "log").write_text(name)
        values = {"seconds": seconds, "arms": [{"cost": seconds, "x": 1}]}
        (tmp_path / name / "out" / "results" / "a.json").write_text(json.dumps(values))
    case, whole = (tmp_path / name / "out" for name in ("case", "whole"))
    assert script._different(case, whole, ("logs",)) == []
    assert script._different(case, whole) == ["logs/log"]
    (case / "results" / "a.json").write_text('{"arms": [{"x": 2}]}')
    (case / "more").touch()
    (whole / "less").touch()
    assert script._different(case, whole, ("logs",)) == ["less", "more", "results/a.json"]


def test_a_child_gives_its_exit_code_or_is_killed():
    code = "import sys, time; from tests import killed\n"
    code += "print(killed.wait(killed.fork(lambda: 3)), killed.killed_after(killed.fork(lambda: 4), 60), "
    code += "killed.killed_after(killed.fork(lambda: time.sleep(600)), 0.05))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "3 4 None\n", done.stderr


def test_what_is_left_behind_is_named(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "journal.jsonl").touch()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / "checkpoints" / ".update-00000004.abcdefgh.tmp").mkdir()
    assert killed.leftovers(tmp_path) == ["run/.lock", "run/checkpoints/.update-00000004.abcdefgh.tmp"]


@pytest.mark.slow
def test_killed_commands_end_as_undisturbed_ones(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "kills.py"), "--count", "9", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\| all \| 9 \| \d+ \| \d+ \| [\d,]+ \| 9 \|", done.stdout)
    again = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert again.stdout.strip() == done.stdout[done.stdout.index("| command") :].strip()  # nothing is run twice
