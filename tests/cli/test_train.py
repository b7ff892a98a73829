from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from freerun.config import read_toml
from tests.cli.conftest import Freerun


def test_the_run_folder_is_that_of_the_contract(trained: Path) -> None:
    names = {path.name for path in (trained / "run").iterdir()}
    assert {"config.toml", "journal.jsonl", "checkpoints", "best", "last"} <= names
    bundle = {path.name for path in (trained / "run" / "best").iterdir()}
    assert bundle == {
        "config.json",
        "source_vocabulary.json",
        "target_vocabulary.json",
        "model.safetensors",
        "metrics.json",
        "README.md",
    }


def test_the_written_configuration_is_complete_and_absolute(trained: Path) -> None:
    config = read_toml(trained / "run" / "config.toml")
    assert config["data"]["train"] == str(trained / "train.tsv")
    assert config["model"]["cell"] == "lstm"
    assert config["evaluation"]["select_on"] == "symbol_error_rate.free"


def test_a_bundle_names_no_path(trained: Path) -> None:
    for name in ("config.json", "README.md", "metrics.json"):
        assert str(trained) not in (trained / "run" / "best" / name).read_text()


def test_the_journal_tells_the_run(trained: Path) -> None:
    events = [json.loads(line) for line in (trained / "run" / "journal.jsonl").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "start" and kinds[-1] == "stop"
    assert [event["update"] for event in events if event["event"] == "checkpoint"] == [20, 30, 40, 60]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    assert len(evaluations[0]["examples"]) == 3
    assert evaluations[0]["examples"][0].keys() == {"source", "reference", "free_run"}
    assert {"nll.teacher", "sequence_accuracy.free"} <= evaluations[0].keys()


def test_training_ends_with_figures_and_the_commands_to_go_on_with(freerun: Freerun, pairs: Path) -> None:
    result = freerun("train", pairs / "config.toml", "--out", pairs / "run", "--set", "training.updates=3")
    assert result.code == 0
    assert "its own predictions" in result.out and "reference tokens" in result.out and "majority" in result.out
    assert f"freerun predict {pairs / 'run'}" in result.err
    assert f"freerun evaluate {pairs / 'run'} {pairs / 'dev.tsv'}" in result.err
    assert f"freerun train --resume --out {pairs / 'run'}" in result.err


def test_the_default_run_folder(freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pairs)
    assert freerun("train", "config.toml", "--set", "training.updates=2").code == 0
    assert (pairs / "runs" / "config" / "best" / "config.json").exists()


def test_pairs_alone_are_enough(freerun: Freerun, pairs: Path) -> None:
    result = freerun("train", pairs / "train.tsv", "--out", pairs / "run", "--set", "training.updates=4")
    assert result.code == 0
    config = read_toml(pairs / "run" / "config.toml")
    assert (config["data"]["source_tokens"], config["data"]["target_tokens"]) == ("char", "whitespace")
    assert "5 of 9" in result.err and "held out" in result.err
    held_out = (pairs / "run" / "dev.tsv").read_text().splitlines()
    assert 0 < len(held_out) < 99
    assert json.loads((pairs / "run" / "journal.jsonl").read_text().splitlines()[0])["pairs"] == 99 - len(held_out)


def test_spellings_that_the_model_reads_alike_are_held_out_together(freerun: Freerun, pairs: Path) -> None:
    lines = (pairs / "train.tsv").read_text().splitlines(keepends=True)
    (pairs / "train.tsv").write_text("".join(lines + [line[0].upper() + line[1:] for line in lines]))
    settings = ("--set", "training.updates=2", "--set", "data.source_case=lower", "--set", "data.held_out=0.3")
    assert freerun("train", pairs / "train.tsv", "--out", pairs / "run", *settings).code == 0
    held_out = {line.split("\t")[0] for line in (pairs / "run" / "dev.tsv").read_text().splitlines()}
    assert {source.lower() for source in held_out} == {source for source in held_out if source.islower()}
    assert any(source[0].isupper() for source in held_out)
    assert {source.capitalize() for source in held_out if source.islower()} <= held_out


@pytest.mark.slow
def test_without_a_configuration_the_length_is_chosen_and_announced(freerun: Freerun, pairs: Path) -> None:
    settings = ("--set", "model.hidden_size=8", "--set", "model.embedding_size=8")
    result = freerun("train", pairs / "train.tsv", "--dev", pairs / "dev.tsv", "--out", pairs / "run", *settings)
    assert result.code == 0
    config = read_toml(pairs / "run" / "config.toml")
    assert config["model"]["hidden_size"] == 8
    assert f"{config['training']['updates']:,} updates" in result.err
    assert re.search(r"at most \d+ minutes", result.err)


def test_a_complete_run_says_so(freerun: Freerun, trained: Path) -> None:
    result = freerun("train", trained / "config.toml", "--out", trained / "run", "--resume")
    assert result.code == 0
    assert "complete" in result.err


def test_nothing_to_resume_starts_from_the_beginning(freerun: Freerun, pairs: Path) -> None:
    arguments = ("--out", pairs / "run", "--resume", "--set", "training.updates=2")
    result = freerun("train", pairs / "config.toml", *arguments)
    assert result.code == 0
    assert "starting from the beginning" in result.err


def test_fine_tuning_starts_from_the_weights_of_a_bundle(freerun: Freerun, trained: Path, pairs: Path) -> None:
    arguments = ("--out", pairs / "run", "--init", trained / "run", "--set", "training.updates=1")
    assert freerun("train", pairs / "config.toml", *arguments, "--set", "training.learning_rate=1e-9").code == 0
    before, after = (
        json.loads(freerun("evaluate", run, trained / "dev.tsv", "--json").out)
        for run in (trained / "run", pairs / "run")
    )
    assert after["nll.teacher"] == pytest.approx(before["nll.teacher"], abs=1e-4)


def test_fine_tuning_refuses_other_sizes(freerun: Freerun, trained: Path, pairs: Path) -> None:
    arguments = ("--out", pairs / "run", "--init", trained / "run", "--set", "model.hidden_size=25")
    result = freerun("train", pairs / "config.toml", *arguments)
    assert result.code == 2
    assert "model.hidden_size is 25 here and 24 there" in result.err
    assert not (pairs / "run").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint_and_tells_how_to_go_on(pairs: Path, number: int, code: int) -> None:
    arguments = ["train", "config.toml", "--out", "run", "--set", "training.updates=1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "freerun", *arguments],
        cwd=pairs,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not list(pairs.glob("run/checkpoints/update-*")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code
    assert "Stopped at update" in err and "freerun train --resume --out run" in err
    events = [json.loads(line) for line in (pairs / "run/journal.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "stop" and events[-1]["reason"] == "signal"
    assert (pairs / f"run/checkpoints/update-{events[-1]['update']:08d}/state.json").exists()


def test_without_a_configuration_the_same_sources_are_evaluated_as_when_it_is_repeated(
    freerun: Freerun, tmp_path: Path
) -> None:
    (tmp_path / "dev.tsv").write_text("".join(f"{number}\tx\n" for number in range(1200)))
    (tmp_path / "train.tsv").write_text("".join(f"{number}\tx\n" for number in range(1200, 1240)))
    few = ("training.updates=1", "training.threads=1", "evaluation.every=0", "model.hidden_size=4")
    settings = [part for key in few for part in ("--set", key)]
    first = freerun(
        "train", tmp_path / "train.tsv", "--dev", tmp_path / "dev.tsv", "--out", tmp_path / "run", *settings
    )
    again = freerun("train", tmp_path / "run" / "config.toml", "--out", tmp_path / "again")
    for result in (first, again):
        assert result.code == 0, result.err
        assert "Development sources: 1,200, 1,000 of them during training." in result.err + result.out
