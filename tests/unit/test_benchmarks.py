"""The benchmark scripts run, and print what they promise."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from freerun.forcing.registry import STRATEGIES

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "forcing_cost.py"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    path.write_text(
        "".join(f"{'abc'[n % 3] * (1 + n % 4)}\t{' '.join('xyz'[n % 3] * (1 + n % 3))} {n}\n" for n in range(40))
    )
    return path


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: object) -> str:
    monkeypatch.setattr(sys, "argv", ["forcing_cost.py", "--rounds", "1", "--updates", "1", *map(str, options)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return capsys.readouterr().out


def test_the_cost_of_forcing_is_a_line_a_strategy(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(monkeypatch, capsys, "--pairs", pairs, "--hidden", 8).splitlines()
    assert all(re.fullmatch(r"\w+ \d+\.\d ms/update \d+\.\d\dx", line) for line in lines)
    assert lines[0].startswith("teacher ") and lines[0].endswith(" 1.00x")
    assert set(STRATEGIES) <= {line.split()[0] for line in lines}


def test_the_cost_of_forcing_as_json(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(printed(monkeypatch, capsys, "--pairs", pairs, "--hidden", 8, "--dropout", 0.2, "--json"))
    assert found["rounds"]["teacher"] == [found["ms_per_update"]["teacher"]]
