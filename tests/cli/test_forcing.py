"""Strategies as a user meets them: by their names, by a page of the documentation, and by messages."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from freerun.commands.train_progress import ConsoleProgress
from freerun.config import read_toml
from freerun.forcing.registry import STRATEGIES as REGISTERED
from tests.cli.conftest import Freerun

PAGE = Path(__file__).parents[2] / "docs" / "forcing" / "your-own.md"
STRATEGIES = {
    "scheduled_sampling": ('forcing.schedule={kind="linear", c=0.1}', ["teacher_prob", "effective_rate"]),
    "free_running": ('forcing.draw="argmax"', ["nll.free_running", "effective_rate"]),
    "optimal_completion": ("forcing.teacher_prob=0.2", ["kl.optimal_completion", "rollout_edits"]),
    "minimum_risk": ('forcing.cost="bleu"', ["nll.teacher", "risk", "distinct", "gradient_cosine"]),
    "self_critical": ('forcing.cost="sequence_error"', ["nll.teacher", "cost.sample", "cost.greedy"]),
    "input_corruption": ("forcing.rate=0.3", ["nll.corrupted", "effective_rate"]),
    "professor": ("forcing.model_gate=0.0", ["nll.teacher", "discriminator_accuracy.free", "gradient_cosine"]),
}


def updates_of(run: Path) -> list[dict[str, float]]:
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "update"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_one_setting_away(freerun: Freerun, pairs: Path, name: str) -> None:
    setting, figures = STRATEGIES[name]
    sets = [f"forcing.strategy={name}", setting, "training.updates=6", "training.journal_every=3"]
    result = freerun("train", pairs / "config.toml", "--out", pairs / "run", *(f"--set={text}" for text in sets))
    assert result.code == 0
    assert f"forcing: {name}" in result.err
    assert read_toml(pairs / "run" / "config.toml")["forcing"]["strategy"] == name
    assert all(figure in updates_of(pairs / "run")[-1] for figure in figures)
    assert f"Forcing strategy: {name}." in (pairs / "run" / "best" / "README.md").read_text()
    assert freerun("predict", pairs / "run", "abc").code == 0


SMALL = ("model.hidden_size=8", "model.embedding_size=8", "training.updates=2", "training.threads=1")


@pytest.mark.parametrize(
    ("settings", "attention"),
    [
        *(([f"forcing.strategy={name}"], "bahdanau") for name in REGISTERED),
        (["model.input_feeding=true"], "luong"),
        (["model.attention_score=concat"], "luong"),
        (["model.attention_score=dot", "model.bidirectional=false"], "luong"),
        (["model.attention_score=dot"], "luong"),
        (["model.attention=none"], "none"),
    ],
)
def test_pairs_alone_train_with_an_attention_that_suits_what_was_set(
    freerun: Freerun, pairs: Path, settings: list[str], attention: str
) -> None:
    sets = [f"--set={text}" for text in (*settings, *SMALL)]
    result = freerun("train", pairs / "train.tsv", "--dev", pairs / "dev.tsv", "--out", pairs / "run", *sets)
    assert result.code == 0
    assert read_toml(pairs / "run" / "config.toml")["model"]["attention"] == attention
    assert ("Luong attention, although Bahdanau attention is more accurate" in result.err) == (attention == "luong")


@pytest.mark.parametrize(
    "settings", [["model.attention=bahdanau"], ["model.attention=luong", "model.input_feeding=true"]]
)
def test_every_attention_trains_under_professor_forcing(freerun: Freerun, pairs: Path, settings: list[str]) -> None:
    sets = [f"--set={text}" for text in ("forcing.strategy=professor", "training.journal_every=1", *settings, *SMALL)]
    result = freerun("train", pairs / "train.tsv", "--dev", pairs / "dev.tsv", "--out", pairs / "run", *sets)
    assert result.code == 0
    assert all("discriminator_accuracy.free" in update for update in updates_of(pairs / "run"))


def test_a_bundle_is_gone_on_from_under_another_strategy(freerun: Freerun, trained: Path, tmp_path: Path) -> None:
    config = tmp_path / "more.toml"
    data = f'[data]\ntrain = "{trained / "train.tsv"}"\ndev = "{trained / "dev.tsv"}"\n'
    config.write_text(data + '[training]\nupdates = 2\n[forcing]\nstrategy = "free_running"\n')
    result = freerun("train", config, "--init", trained / "run", "--out", tmp_path / "run")
    assert result.code == 0
    assert (
        json.loads((tmp_path / "run/best/config.json").read_text())["training"]["forcing"]["strategy"] == "free_running"
    )


def test_bad_settings_are_told_before_anything_is_read(freerun: Freerun, pairs: Path) -> None:
    sets = ["forcing.strategy=professor", "forcing.weight=-1"]
    result = freerun("train", pairs / "config.toml", "--out", pairs / "run", *(f"--set={text}" for text in sets))
    assert result.code == 2 and "Traceback" not in result.err
    assert "--set forcing.weight=-1: the value is -1. Expected a number from 0 to 1e+38." in result.err
    assert not (pairs / "run").exists()


def test_a_phase_that_would_never_begin_is_told(freerun: Freerun, pairs: Path) -> None:
    phases = '[{strategy="teacher", until=6}, {strategy="free_running"}]'
    sets = [f"forcing.phases={phases}", "training.updates=6"]
    result = freerun("train", pairs / "config.toml", "--out", pairs / "run", *(f"--set={text}" for text in sets))
    assert result.code == 2
    message = "forcing.phases[1].until: the value is 6, and training ends at update 6, so the next phase never begins"
    assert message in result.err
    assert not (pairs / "run").exists()
    sets[1] = "training.updates=7"
    result = freerun("train", pairs / "config.toml", "--out", pairs / "again", *(f"--set={text}" for text in sets))
    assert result.code == 0
    assert "From update 7 on: phase 2, free_running." in result.err
    assert "forcing: teacher, then free_running;" in result.err


@pytest.fixture
def own(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module and the configuration of the page."""
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    (pairs / "my_forcing.py").write_text(blocks["python"])
    (pairs / "own.toml").write_text(blocks["toml"].replace("pairs.tsv", "train.tsv"))
    monkeypatch.chdir(pairs)
    monkeypatch.delitem(sys.modules, "my_forcing", raising=False)
    return pairs


def test_the_page_on_your_own_strategy(freerun: Freerun, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("--set", "training.threads=1", "--dev", "dev.tsv")
    assert freerun("train", "own.toml", "--out", "whole", *sets).code == 0
    on_update = ConsoleProgress.on_update

    def stop_at_25(self: ConsoleProgress, update: int, metrics: Mapping[str, float]) -> None:
        if update == 25:
            os.kill(os.getpid(), signal.SIGINT)
        on_update(self, update, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(ConsoleProgress, "on_update", stop_at_25)
        assert freerun("train", "own.toml", "--out", "run", *sets).code == 130
    assert freerun("train", "own.toml", "--resume", "--out", "run", *sets).code == 0
    weights = [(own / run / "best" / "model.safetensors").read_bytes() for run in ("whole", "run")]
    assert weights[0] == weights[1]
    # to use the model, its strategy is not needed any more
    monkeypatch.chdir(own.parent)
    monkeypatch.delitem(sys.modules, "my_forcing")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert freerun("evaluate", own / "run").code == 0
    assert freerun("inspect", own / "run").code == 0


def test_a_strategy_that_is_not_there(freerun: Freerun, own: Path) -> None:
    result = freerun("train", "own.toml", "--set", "forcing.strategy=my_forcing:Wurd")
    assert result.code == 2
    assert "'my_forcing:Wurd' cannot be imported (AttributeError" in result.err
