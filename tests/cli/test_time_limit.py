"""``freerun train PAIRS --minutes M``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import freerun as library
from freerun.config import read_toml
from tests.cli.conftest import Freerun

SMALL = [
    part
    for key in ("model.hidden_size=4", "model.embedding_size=4", "training.threads=1", "evaluation.max_sources=4")
    for part in ("--set", key)
]


def test_the_plan_fits_the_minutes_and_is_written_down(freerun: Freerun, pairs: Path) -> None:
    """A tenth of a minute for tiny data: as many updates as fit, or as can gain anything."""
    run = pairs / "run"
    result = freerun("train", pairs / "train.tsv", "--out", run, "--minutes", 0.5, *SMALL)
    assert result.code == 0, result.err
    planned = re.search(r"([0-9,]+) updates.*: about .* at most 0\.5 minutes\.", result.err + result.out)
    assert planned
    assert read_toml(run / "config.toml")["training"]["updates"] == int(planned[1].replace(",", ""))
    again = freerun("train", pairs / "train.tsv", "--out", run, "--minutes", 9, "--resume", *SMALL)
    assert again.code == 0, again.err
    assert "--minutes has no effect: the length of this run was fixed when it was started." in again.err + again.out


@pytest.mark.parametrize("setting", ["training.updates=3", "training.epochs=3"])
def test_a_length_and_a_time_limit_contradict_each_other(freerun: Freerun, pairs: Path, setting: str) -> None:
    result = freerun("train", pairs / "train.tsv", "--out", pairs / "run", "--minutes", 1, "--set", setting)
    assert result.code == 2
    assert f"minutes: a time limit is set, and {setting[:-2]} sets the length, too." in result.err


def test_so_do_a_configuration_and_a_time_limit(freerun: Freerun, pairs: Path) -> None:
    result = freerun("train", pairs / "config.toml", "--out", pairs / "run", "--minutes", 1)
    assert result.code == 2
    assert "minutes: a time limit is set, and" in result.err


@pytest.mark.parametrize("minutes", ["0", "-3", "0.05", "1e6", "nan", "inf"])
def test_minutes_out_of_range(freerun: Freerun, pairs: Path, minutes: str) -> None:
    result = freerun("train", pairs / "train.tsv", "--out", pairs / "run", "--minutes", minutes)
    assert result.code == 2
    assert "minutes" in result.err and "Traceback" not in result.err
    assert not (pairs / "run").exists()


@pytest.mark.parametrize(("minutes", "error"), [("3", TypeError), (True, TypeError), (0, library.ConfigError)])
def test_minutes_of_the_library(pairs: Path, minutes: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^minutes: "):
        library.train(pairs / "train.tsv", out=pairs / "run", minutes=minutes)  # type: ignore[arg-type]
