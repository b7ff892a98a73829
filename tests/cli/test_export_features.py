"""Exports of models with features."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from freerun.api import model_export
from freerun.cli import main
from freerun.onnx_export import encoder_nodes, feature_nodes
from freerun.runtime.bundle import GRAPHS, read_bundle
from freerun.symbols import source_length
from tests.cli.conftest import CONFIG, WORDS, Freerun

FEATURES = ("PST;SG", "PL", "", "SG", "PL;PST;NEW")
QUANTIZE = ("--quantize", "int8", "--max-loss", 100)
SETTINGS = {
    "summary": ["model.attention=none", "model.bidirectional=true"],
    "sequence": ["model.attention=luong", "model.feature_encoder=sequence"],
    "both": ["model.attention=bahdanau"],
}


def write_pairs(directory: Path) -> None:
    """Letters, in upper case if one of the features is PL; NEW is a feature of development pairs only."""
    lines = []
    for number, word in enumerate(WORDS):
        features = FEATURES[number % (5 if number < 20 else 4)]
        target = word.upper() if "PL" in features else word
        lines.append(f"{word}\t{' '.join(target)}\t{features}\n")
    (directory / "train.tsv").write_text("".join(lines[20:]))
    (directory / "dev.tsv").write_text("".join(lines[:20]))
    (directory / "config.toml").write_text(CONFIG.replace("[model]", "columns = [1, 2, 3]\n[model]"))


@pytest.fixture(scope="module", params=SETTINGS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("features")
    write_pairs(directory)
    settings = [part for setting in SETTINGS[request.param] for part in ("--set", setting)]
    assert main(["train", str(directory / "config.toml"), "--out", str(directory / "run"), *settings]) == 0
    return directory


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


def metrics(freerun: Freerun, *arguments: object) -> dict[str, float]:
    result = freerun("evaluate", *arguments, "--json")
    assert result.code == 0, result.err
    values: dict[str, float] = json.loads(result.out)
    return values


def test_an_exported_run_is_evaluated_as_before_in_every_precision(freerun: Freerun, run: Path) -> None:
    before = metrics(freerun, run)
    result = freerun("export", run, *QUANTIZE)
    assert result.code == 0, result.err
    files = [line.split()[0] for line in result.out.splitlines()[1:]]
    assert {f"{name}{precision}.onnx" for name in GRAPHS for precision in ("", ".int8")} <= {*files}
    record = json.loads((run / "best" / "export.json").read_text())
    assert record["sources"] == 20
    for options in ((), ("--runtime", "onnx"), ("--runtime", "torch"), ("--beam-size", 3, "--runtime", "onnx")):
        found, expected = metrics(freerun, run, *options), before
        if "--beam-size" in options:
            expected = metrics(freerun, run, "--beam-size", 3, "--runtime", "torch")
        assert found == pytest.approx(expected, abs=1e-4)
    int8 = metrics(freerun, run, "--precision", "int8")
    assert record["int8"]["symbol_error_rate.free"] == pytest.approx(int8["symbol_error_rate.free"])
    assert int8["nll.teacher"] == pytest.approx(before["nll.teacher"], rel=0.1)


def test_a_bundle_of_its_own_has_the_vocabulary_of_features(freerun: Freerun, run: Path, trained: Path) -> None:
    out = run.parent / "small"
    assert freerun("export", run, "--out", out).code == 0
    features = read_bundle(out).source.features
    assert features is not None and [each in features.vocabulary for each in ("PL", "PST", "SG", "NEW")] == [
        True
    ] * 3 + [False]
    assert freerun("export", run, "--out", out).code == 0  # an earlier export may be replaced


def test_int8_is_calibrated_and_measured_with_the_features_of_the_pairs(
    freerun: Freerun, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    calibrate: Callable[..., float] = model_export.first_state_limit
    monkeypatch.setattr(
        model_export, "first_state_limit", lambda new, sources: (seen.extend(sources), calibrate(new, sources))[1]
    )
    assert freerun("export", run, *QUANTIZE).code == 0
    codec = read_bundle(run).source.features
    assert codec is not None and len(seen) == 20
    assert {tuple(source[source_length(source) :]) for source in seen} == {
        tuple(codec.encode(each)) for each in FEATURES
    }


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("dev.tsv", "ab\tA B\n", (), ":1: 2 tab-separated columns, so there is no column 3 of features. Expected "),
        (
            "dev.tsv",
            "ab\tA B\tPL\n",
            ("--columns", "1,2"),
            ": columns 1,2 were chosen, but the model also reads features. Expected ",
        ),
        ("dev.jsonl", '{"source": "ab", "target": "A B"}\n', (), ':1: "ab" has no features. Expected '),
    ],
    ids=["two columns", "two columns chosen", "no key"],
)
def test_pairs_without_features_are_told(
    freerun: Freerun, run: Path, tmp_path: Path, name: str, content: str, columns: tuple[str, ...], message: str
) -> None:
    dev = tmp_path / name
    dev.write_text(content)
    result = freerun("export", run, *QUANTIZE, "--dev", dev, *columns)
    assert (result.code, result.out) == (2, "")
    assert f"error: {dev}{message}" in result.err
    assert not (run / "best" / "greedy.onnx").exists()


def test_graphs_that_read_features_differently_are_not_written(
    freerun: Freerun, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random sources have features, so a graph that leaves them out does not agree with torch."""

    def padding_only(graph: feature_nodes.Graph, features: str) -> str:
        return graph.op("Sub", features, features)

    for name in ("feature_summary", "feature_entries"):
        original = getattr(feature_nodes, name)
        monkeypatch.setattr(
            encoder_nodes, name, lambda g, w, a, f, made=original: made(g, w, a, padding_only(g, f) if f else f)
        )
    result = freerun("export", run)
    assert result.code == 2
    assert "greedy.onnx and torch differ by " in result.err
