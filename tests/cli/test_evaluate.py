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
