"""``freerun tune`` as it is used."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

import freerun as library
from freerun.api import model_tuning
from freerun.config import read_toml
from freerun.experiment.origin import is_finished
from freerun.studies.trials import TrialJournal
from tests.cli.conftest import Freerun

SMALL = [
    part
    for key in (
        "model.hidden_size=4",
        "model.embedding_size=4",
        "model.num_layers=1",
        "training.threads=1",
        "evaluation.max_sources=4",
    )
    for part in ("--set", key)
]


@pytest.mark.slow
def test_a_tuning_from_start_to_end(freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = pairs / "tuning"
    arguments = ("tune", pairs / "train.tsv", "--dev", pairs / "dev.tsv", "--out", out, "--seed", 3, *SMALL)
    # no set key is tuned, a trial ends after 200 epochs, and there are more until 18 seconds are left
    result = freerun(*arguments, "--minutes", 0.6, "--trials", 2)
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines[:3]] == ["start", "trial", "trial"]
    best = min(lines[1:], key=lambda line: (line["value"], line["number"]))
    directory = out / "trials" / f"{best['number']:04d}"
    assert read_toml(out / "best.toml") == read_toml(directory / "config.toml")
    assert f"  freerun evaluate {directory} TEST.tsv" in result.err and f"  freerun train {out}/best.toml" in result.err
    assert "judge it on other pairs" in result.out and "settings that differ from trial 0" in result.out
    assert f"Trial {len(lines) - 2}: symbol_error_rate.free " in result.err
    assert "evaluation at update" not in result.err

    # every trial kept what was set, and tried something else
    configs = [read_toml(path) for path in sorted(out.glob("trials/*/config.toml"))]
    assert len(configs) == len(lines) - 1
    assert all(is_finished(path) for path in out.glob("trials/*"))
    for config in configs:
        assert (config["model"]["hidden_size"], config["model"]["num_layers"]) == (4, 1)
        assert config["training"]["seed"] == 3
    assert len({str(config["model"]) + str(config["training"]) for config in configs}) == len(configs)

    # the best model is a model, and the figure in the journal is its own
    evaluated = freerun("evaluate", directory, pairs / "dev.tsv", "--json")
    assert json.loads(evaluated.out)["symbol_error_rate.free"] == pytest.approx(best["value"])

    page = (out / "report.html").read_text()
    assert page.startswith("<!doctype html>") and f'<td class="number">{best["value"]:.4f}</td>' in page
    assert page.count("<figure>") >= 4

    # the same command again has nothing left to do
    again = freerun(*arguments, "--minutes", 0.6, "--trials", 2, "--json")
    assert again.code == 0
    values = json.loads(again.out)
    assert values["best"] == best["number"] and len(values["trials"]) == len(lines) - 1
    assert Path(values["model"]) == directory and Path(values["config"]) == out / "best.toml"

    other = freerun(*arguments, "--minutes", 2, "--trials", 2)
    assert other.code == 2 and "a tuning with other arguments: minutes was 0.6, now 2.0" in other.err

    monkeypatch.chdir(pairs)
    found = library.tune(
        pairs / "train.tsv",
        dev=pairs / "dev.tsv",
        out="tuning",
        seed=3,
        settings=[part for part in SMALL if part != "--set"],
        minutes=0.6,
        trials=2,
    )
    monkeypatch.chdir("/")
    assert found.best.number == best["number"] and found.metric == "symbol_error_rate.free"
    assert found.model.predict("abc").text is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("config.toml", "--minutes", 5), "Expected pairs: what is tuned are the settings that freerun train PAIRS"),
        (("train.tsv", "--minutes", 0), "--minutes"),
        (("train.tsv",), "Missing option"),
        (("train.tsv", "--minutes", 5, "--trials", 1), "--trials"),
        (("train.tsv", "--minutes", 1, "--trials", 500), "0.12 seconds each"),
        (("nowhere.tsv", "--minutes", 5), "nowhere.tsv"),
        (("train.tsv", "dev.tsv", "--minutes", 5, "--dev", "dev.tsv"), "error: freerun tune: two parallel"),
        (("train.tsv", "--minutes", 5, "--set", "model.hidden=4"), "The closest match is 'hidden_size'"),
        (
            ("train.tsv", "--minutes", 5, "--set", "training.updates=5"),
            "training.updates: the length of a training is set",
        ),
    ],
)
def test_mistakes(freerun: Freerun, pairs: Path, arguments: tuple[object, ...], message: str) -> None:
    name, *options = arguments
    result = freerun("tune", pairs / str(name), "--out", pairs / "tuning", *options)
    assert result.code == 2, result.err
    assert message in result.err and "Traceback" not in result.err
    assert not list(pairs.glob("tuning/trials/*/config.toml"))


def test_stopped_and_continued(freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise library.Interrupted(signal.SIGINT)

    arguments = ("tune", pairs / "train.tsv", "--dev", pairs / "dev.tsv", "--minutes", 0.4, "--trials", 2, *SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(model_tuning, "run_training", stopped)
        first = freerun(*arguments, "--out", pairs / "tuning")
    assert first.code == 128 + signal.SIGINT
    assert first.err.endswith("Run the same command again to continue.\n")
    journal = TrialJournal(pairs / "tuning" / "trials.jsonl")
    journal.add_stop(20.0)  # less than a share is left
    second = freerun(*arguments, "--out", pairs / "tuning")
    assert second.code == 0, second.err
    assert second.out.startswith("Only the first trial fitted into the time: symbol_error_rate.free ")


def test_without_optuna(freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("search_space", "tuner"):
        monkeypatch.delitem(sys.modules, f"freerun.studies.{name}", raising=False)
    result = freerun("tune", pairs / "train.tsv", "--minutes", 5, "--out", pairs / "tuning")
    assert result.code == 2
    assert "optuna: this package is not installed, and freerun tune needs it." in result.err
    assert "pip install 'freerun[tune]'" in result.err


@pytest.mark.parametrize(
    "arguments", [{"minutes": "3"}, {"minutes": 3, "trials": 2.5}, {"minutes": 3, "callbacks": [print]}]
)
def test_arguments_of_the_wrong_type(pairs: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        library.tune(pairs / "train.tsv", out=pairs / "tuning", **arguments)  # type: ignore[arg-type]
    assert not (pairs / "tuning").exists()
