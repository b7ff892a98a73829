from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Freerun

FREE = ("sequence_accuracy.free", "symbol_error_rate.free", "bleu.free", "chrf.free", "hit_length_bound.free")
TEACHER = ("nll.teacher", "perplexity.teacher", "token_accuracy.teacher")


def test_json_is_one_flat_object_with_intervals(freerun: Freerun, trained: Path) -> None:
    figures = json.loads(freerun("evaluate", trained / "run", trained / "dev.tsv", "--json").out)
    for name in FREE + TEACHER:
        assert figures[f"{name}.low"] <= figures[name] <= figures[f"{name}.high"]
    assert figures["sources"] == 20 and figures["beam_size"] == 1
    assert all(isinstance(value, int | float) for value in figures.values())


def test_without_pairs_the_runs_own_development_pairs(freerun: Freerun, trained: Path) -> None:
    named = freerun("evaluate", trained / "run", trained / "dev.tsv", "--json").out
    assert freerun("evaluate", trained / "run", "--json").out == named


def test_the_bundle_tells_the_figures_that_evaluate_finds(freerun: Freerun, trained: Path) -> None:
    told = json.loads((trained / "run" / "best" / "metrics.json").read_text())
    found = json.loads(freerun("evaluate", trained / "run", "--json").out)
    assert found == pytest.approx(told, abs=1e-5)


def test_the_table_has_baselines_and_examples_where_asked(freerun: Freerun, trained: Path) -> None:
    out = freerun("evaluate", trained / "run", "--examples", 4, "--worst", 2).out
    assert "copy" in out and "majority" in out
    assert "20 sources, beam size 1" in out
    assert out.index("Random examples") < out.index("Worst examples")
    assert len(out[out.index("Random examples") :].strip().splitlines()) == 2 + 4 + 1 + 2 + 2


def test_figures_by_source_length_add_up(freerun: Freerun, trained: Path) -> None:
    figures = json.loads(freerun("evaluate", trained / "run", "--by-length", "--json").out)
    bands = [name.removeprefix("sources.") for name in figures if name.startswith("sources.length_")]
    sizes = [figures[f"sources.{band}"] for band in bands]
    rights = [figures[f"sequence_accuracy.free.{band}"] * size for band, size in zip(bands, sizes, strict=True)]
    assert len(bands) > 1 and sum(sizes) == figures["sources"] == 20
    assert sum(rights) == pytest.approx(20 * figures["sequence_accuracy.free"])
    out = freerun("evaluate", trained / "run", "--by-length").out
    table = out[out.index("source tokens") :].strip().splitlines()
    assert len(table) == 2 + len(bands)
    assert [int(row.replace(" to ", "-").split()[1]) for row in table[2:]] == sizes


def test_comparing_a_model_with_itself_finds_nothing(freerun: Freerun, trained: Path) -> None:
    run = trained / "run"
    values = json.loads(freerun("compare", run, run, trained / "dev.tsv", "--json").out)
    assert values["mcnemar"] == {"only_a": 0, "only_b": 0, "p_value": 1.0}
    assert values["symbol_error_rate.free"]["difference"] == 0.0
    assert values["sources"] == 20


def test_comparing_prints_a_table(freerun: Freerun, trained: Path) -> None:
    out = freerun("compare", trained / "run", trained / "run/last", trained / "dev.tsv").out
    assert "B - A" in out and "McNemar" in out


def test_inspect_shows_sizes_and_figures(freerun: Freerun, trained: Path) -> None:
    out = freerun("inspect", trained / "run").out
    assert "hidden_size" in out and "24" in out and "symbol error rate" in out
    values = json.loads(freerun("inspect", trained / "run", "--json").out)
    assert values["model"]["hidden_size"] == 24


@pytest.fixture
def partly_unknown(tmp_path: Path) -> Path:
    """Pairs of which 3 of 10 target tokens (ends counted) are unknown; one target has no other."""
    path = tmp_path / "pairs.tsv"
    path.write_text("bcd\tB C q\nce\tC E\nad\tq x\n")
    return path


def test_unknown_target_tokens_are_counted_apart_and_told(
    freerun: Freerun, trained: Path, partly_unknown: Path
) -> None:
    result = freerun("evaluate", trained / "run", partly_unknown, "--json")
    figures = json.loads(result.out)
    assert figures["unknown_target_tokens"] == pytest.approx(3 / 10)
    assert figures["unknown_target_tokens.low"] <= 0.3 <= figures["unknown_target_tokens.high"]
    assert result.err.count("warning") == 1
    assert (
        f"warning: {partly_unknown}: 3 of 10 target tokens (30.0 %) are not in the vocabulary of {trained / 'run'}: "
        "'q' (2), 'x' (1). The model can never write them"
    ) in result.err
    table = freerun("evaluate", trained / "run", partly_unknown).out.splitlines()
    (row,) = [line for line in table if line.startswith("unknown target tokens")]
    assert row.split() == ["unknown", "target", "tokens", "0.3000", *row.split()[4:]]
    assert "its own predictions" not in row and "reference tokens" not in row
    of_known = freerun("evaluate", trained / "run", trained / "dev.tsv")
    assert json.loads(freerun("evaluate", trained / "run", "--json").out)["unknown_target_tokens"] == 0
    assert "warning" not in of_known.err


def test_figures_are_null_where_every_target_token_is_unknown(freerun: Freerun, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("bcd\tq q\nce\tx\n")
    figures = json.loads(freerun("evaluate", trained / "run", path, "--json").out)
    for name in TEACHER:
        assert figures[name] is figures[f"{name}.low"] is figures[f"{name}.high"] is None
    assert figures["unknown_target_tokens"] == pytest.approx(3 / 5)
    assert figures["sequence_accuracy.free"] == 0
    assert "undefined" in freerun("evaluate", trained / "run", path).out


def test_comparing_says_why_models_have_no_common_teacher_forced_figures(
    freerun: Freerun, trained: Path, pairs: Path
) -> None:
    few = "".join(line for line in (pairs / "train.tsv").read_text().splitlines(keepends=True) if "g" not in line)
    (pairs / "train.tsv").write_text(few)
    trains = freerun("train", pairs / "config.toml", "--out", pairs / "run", "--set", "training.updates=2")
    assert trains.code == 0 and "warning: development pairs: " in trains.err and "'G' (" in trains.err
    other = freerun("compare", trained / "run", pairs / "run", trained / "dev.tsv")
    note = "Teacher-forced metrics are not compared: A and B leave out different unknown target tokens."
    assert note in other.out and "nll.teacher" not in other.out and "unknown_target_tokens" in other.out
    same = freerun("compare", trained / "run", trained / "run", trained / "dev.tsv")
    assert note not in same.out and "nll.teacher" in same.out
    card = (pairs / "run" / "best" / "README.md").read_text()
    assert "| unknown_target_tokens | 0." in card
    metrics = json.loads((pairs / "run" / "best" / "metrics.json").read_text())
    assert 0 < metrics["unknown_target_tokens"] < 1


def test_a_comparison_without_known_tokens_shows_what_is_undefined(
    freerun: Freerun, trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("bcd\tq q\nce\tx\n")
    run = trained / "run"
    values = json.loads(freerun("compare", run, run, path, "--json").out)["nll.teacher"]
    assert set(values.values()) == {None}
    (row,) = [line for line in freerun("compare", run, run, path).out.splitlines() if line.startswith("nll.teacher")]
    assert row.split() == ["nll.teacher", *["undefined"] * 4]
