"""Search options of commands and configurations: each reaches the search (those of a study: ``test_study.py``)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Freerun, Searches

SET = {"beam_size": 3, "length_penalty": 1.5, "early_stop": True}
OPTIONS = ("--beam-size", 3, "--length-penalty", 1.5, "--early-stop")
SECTION = "beam_size = 3\nlength_penalty = 1.5\nearly_stop = true\n"


def test_those_of_predict(freerun: Freerun, trained: Path, searches: Searches) -> None:
    assert freerun("predict", trained / "run", "abc", *OPTIONS, "--max-length", 7, "--num-hypotheses", 2).code == 0
    (only,) = searches
    assert only.pop("max_lengths").tolist() == [7]
    assert only == SET | {"num_hypotheses": 2}


def test_those_of_evaluate(freerun: Freerun, trained: Path, searches: Searches) -> None:
    assert freerun("evaluate", trained / "run", *OPTIONS, "--max-length", 7).code == 0
    assert searches
    for each in searches:
        assert set(each["max_lengths"].tolist()) == {7}
        assert {name: each[name] for name in SET} == SET


def test_those_of_training(freerun: Freerun, pairs: Path, searches: Searches) -> None:
    config = pairs / "config.toml"
    config.write_text(config.read_text() + SECTION)
    assert freerun("train", config, "--out", pairs / "run", "--set", "training.updates=2").code == 0
    assert searches and all({name: each[name] for name in SET} == SET for each in searches)


@pytest.mark.parametrize("command", [("predict", "abc"), ("evaluate",)])
def test_stopping_early_needs_a_length_penalty(freerun: Freerun, trained: Path, command: tuple[str, ...]) -> None:
    result = freerun(command[0], trained / "run", *command[1:], "--beam-size", 3, "--early-stop")
    assert result.code == 2
    assert "--early-stop without --length-penalty" in result.err


@pytest.mark.parametrize("penalty", ["nan", "inf", "-0.1", "10.1"])
def test_a_length_penalty_without_meaning(freerun: Freerun, trained: Path, penalty: str) -> None:
    result = freerun("predict", trained / "run", "abc", "--length-penalty", penalty)
    assert result.code == 2
    assert re.search(r"--length-penalty.*equal to (10|0)\.", result.err)
    assert "Traceback" not in result.err
