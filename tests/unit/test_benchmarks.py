"""The benchmark scripts run, and print what they promise."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from freerun.forcing.registry import STRATEGIES
from freerun.runtime.compiled import library
from tests.exported import graph_files, write_model
from tests.networks import architecture, training_batch
from tests.unit.test_export import put

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "forcing_cost.py"


@pytest.fixture(autouse=True)
def its_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python puts a script's directory first on the path; runpy does not."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


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


def test_the_parts_of_an_update(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--pairs", str(pairs), "--rounds", "1", "--updates", "2", "--hidden", "8", "--batch", "4", "--json"]
    monkeypatch.setattr(sys, "argv", ["update_cost.py", *options])
    runpy.run_path(str(BENCHMARKS / "update_cost.py"), run_name="__main__")
    found = json.loads(capsys.readouterr().out)
    assert found["ms_per_update"].keys() == found["parts_ms"].keys() >= {"fused fp32", "auto fp32"}
    assert all(parts["matmuls"] > 0 and parts["optimizer"] > 0 for parts in found["parts_ms"].values())


def test_operations_are_counted_as_by_hand() -> None:
    """A layer of 2 units, embeddings of 3, five source and four target ids; two rows of 3 tokens, and of 2 and 1."""
    operations = runpy.run_path(str(BENCHMARKS / "update_cost.py"))["operations"]
    batch = training_batch([[4, 4, 2], [4, 4, 2]], [[3, 2], [2]]).origin
    recurrent, tables, output = 8 * 2 * 2 * (3 + 2), 3 * 8 * (5 + 4), 3 * 2 * 4  # three predictions
    assert operations(architecture(5, 4, embedding_size=3, hidden_size=2), batch) == 6 * (recurrent + tables + output)


def test_the_cost_of_predicting_is_a_line_a_way_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_model(tmp_path / "bundle")
    for name, content in graph_files(bundle, "fp32").items():
        put(bundle.folder, name, content)
    (tmp_path / "pairs.tsv").write_text("a b\tv\nc\tw\n")
    options = ["--model", bundle.folder, "--pairs", tmp_path / "pairs.tsv", "--rounds", 1]
    monkeypatch.setattr(sys, "argv", ["predict_speed.py", *map(str, options)])
    runpy.run_path(str(BENCHMARKS / "predict_speed.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 texts, µs per text")
    assert [line.split()[0] for line in lines[1:]] == ["torch", "onnx", *(["compiled"] if library() else [])]
    assert all(float(figure) >= 0 for line in lines[1:] for figure in line.split()[-3:])


def test_the_cost_of_draws(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = str(BENCHMARKS / "draws.py")
    monkeypatch.setattr(sys, "argv", ["draws.py", "--rounds", "1"])
    runpy.run_path(script, run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert all(re.fullmatch(r"[\w ]+\([\d, ]+\): \d+\.\d µs, torch \d+\.\d µs, \d+\.\d\dx", line) for line in lines)
    monkeypatch.setattr(sys, "argv", ["draws.py", "--rounds", "1", "--json"])
    runpy.run_path(script, run_name="__main__")
    assert len(json.loads(capsys.readouterr().out)) == len(lines) == 8


@pytest.mark.parametrize(
    ("script", "options", "rows"),
    [
        (
            "family_wise.py",
            ["--kinds", "both", "--arms", "1", "2", "--seeds", "2", "--sources", "5", "--studies", "2"],
            2,
        ),
        ("family_wise.py", ["--kinds", "tails", "--arms", "1", "--seeds", "2", "--studies", "2", "--effect", "3"], 1),
        ("error_rates.py", ["--only", "McNemar", "--trials", "3"], 2),
    ],
)
def test_simulated_error_rates_are_a_markdown_table(
    script: str,
    options: list[str],
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [script, *options])
    runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + rows and len({line.count("|") for line in lines}) == 1
    assert all(line.rstrip("| ").endswith("%") for line in lines[2:])


def test_batches_are_described_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.tsv").write_text("".join(f"{'ab' * n}\t{'x ' * n}\n" for n in (1, 2, 3, 4) for _ in range(4)))
    monkeypatch.setattr(sys, "argv", ["batch_composition.py", str(tmp_path / "pairs.tsv"), "--batch-size", "4"])
    runpy.run_path(str(BENCHMARKS / "batch_composition.py"), run_name="__main__")
    # a batch holds the four pairs of one length, so it comes again, unpadded; the shortest fifth has 3 pairs
    expected = (
        "same neighbors 100.0 % (by chance 25.0 %), padded / real source tokens 1.000, target tokens 1.000, "
        "weight of a token in the shortest fifth 1.75, in the longest 0.70\n"
    )
    assert capsys.readouterr().out == expected


def test_variants_of_the_automatic_choice_are_a_markdown_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {f"beam {size}": {"sequence_accuracy.free": 0.9, "bleu.free": 30.0} for size in (1, 5)}
    for name, variant, seed in (("mt-x", "luong", 1), ("g2p", "luong", 1), ("g2p", "luong", 2), ("g2p", "other", 1)):
        run = {"set": name, "variant": variant, "seed": seed, "updates": 1, "core_minutes": 2, "figures": figures}
        (tmp_path / f"{name}.{variant}.{seed}.json").write_text(json.dumps(run))
    monkeypatch.setattr(sys, "argv", ["dev_sets.py", "data", str(tmp_path), "--table"])
    runpy.run_path(str(BENCHMARKS / "dev_sets.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        "| set | luong | other |",
        "|---|---|---|",
        "| g2p | 10.00, 10.00 (greedy 10.00, 10.00); 1 updates, 2.0 min | 10.00 (greedy 10.00); 1 updates, 2.0 min |",
        "| mt-x | BLEU 30.00 (greedy 30.00); 1 updates, 2.0 min |  |",
    ]
