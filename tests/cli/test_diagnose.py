"""``freerun diagnose`` as it is used."""

from __future__ import annotations

import json
import re

import pytest


def test_the_runs_own_pairs_are_the_default(freerun, trained):
    result = freerun("diagnose", trained / "run")
    assert result.code == 0
    assert re.search(r"outputs? equal a reference", result.out)
    named = freerun("diagnose", trained / "run", trained / "dev.tsv")
    assert named.out == result.out


def test_python_gives_the_same(freerun, trained):
    import freerun as package

    # A command uses all cores unless told otherwise, a program what torch has: sums are rounded differently.
    values = json.loads(freerun("diagnose", trained / "run", "--threads", "1", "--json").out)
    assert json.loads(json.dumps(package.diagnose(trained / "run", threads=1).as_json())) == values


def test_the_page_is_written_beside_the_figures(freerun, trained, tmp_path):
    result = freerun("diagnose", trained / "run", "--html", tmp_path / "page.html", "--json")
    text = (tmp_path / "page.html").read_text()
    assert json.loads(result.out)["summary"][0].split(":")[0] in text
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert "page.html: open it in a browser" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written_is_told_before_the_work(freerun, trained, tmp_path):
    result = freerun("diagnose", trained / "run", "--html", tmp_path / "none" / "page.html")
    assert (result.code, result.out) == (2, "")
    assert "page.html: cannot be written (No such file or directory)" in result.err


def test_json_is_one_object_and_nothing_else(freerun, trained):
    result = freerun("diagnose", trained / "run", "--json")
    values = json.loads(result.out)
    assert result.err == ""
    assert values["sources"] == len((trained / "dev.tsv").read_text().splitlines())
    evaluated = json.loads(freerun("evaluate", trained / "run", "--json").out)
    right = values["identity"]["right_free"] / values["sources"]
    assert right == pytest.approx(evaluated["sequence_accuracy.free"])
    assert values["identity"]["agree"] == values["sources"]
    nll = sum(each["nll_teacher"]["value"] * each["nll_teacher"]["n"] for each in values["by_position"])
    tokens = sum(each["nll_teacher"]["n"] for each in values["by_position"])
    assert nll / tokens == pytest.approx(evaluated["nll.teacher"], rel=1e-3)


@pytest.mark.parametrize(("line", "side", "count"), [("1234\tA B\n", "source", 4), ("ab\t1 2\nba\t3\n", "target", 3)])
def test_pairs_that_share_nothing_with_the_vocabulary_are_refused(freerun, trained, tmp_path, line, side, count):
    (tmp_path / "foreign.tsv").write_text(line)
    result = freerun("diagnose", trained / "run", tmp_path / "foreign.tsv")
    assert (result.code, result.out) == (2, "")
    assert f"foreign.tsv: none of the {count} {side} tokens is in the model's vocabulary" in result.err


def test_an_empty_reference_and_an_empty_source_are_pairs(freerun, trained, tmp_path):
    (tmp_path / "few.tsv").write_text("ab\tA B\nba\t\n\tA\n")
    result = freerun("diagnose", trained / "run", tmp_path / "few.tsv", "--json")
    assert result.code == 0
    assert json.loads(result.out)["sources"] == 3


@pytest.mark.parametrize("text", ["", "no tab\n"])
def test_pairs_that_cannot_be_read_are_refused(freerun, trained, tmp_path, text):
    (tmp_path / "bad.tsv").write_text(text)
    result = freerun("diagnose", trained / "run", tmp_path / "bad.tsv")
    assert (result.code, result.out) == (2, "")
    assert "bad.tsv" in result.err


def test_a_bundle_without_pairs_asks_for_them(freerun, trained):
    result = freerun("diagnose", trained / "run" / "best")
    assert result.code == 2
    assert "no pairs were named" in result.err and "diagnose" not in result.out


def test_a_model_with_features_is_diagnosed_with_them(freerun, tmp_path):
    lines = [f"{name}\t{name.upper()}\tV\n{name}\t{name}\tV;PST\n{name}\t\t\n" for name in ("ab", "ba", "abc", "cab")]
    (tmp_path / "pairs.tsv").write_text("".join(lines))
    settings = ["training.updates=3", "training.threads=1", "model.hidden_size=8", "model.attention=luong"]
    options = [part for each in settings for part in ("--set", each)]
    files = [tmp_path / "pairs.tsv", "--dev", tmp_path / "pairs.tsv", "--columns", "1,2,3", "--out", tmp_path / "run"]
    assert freerun("train", *files, *options).code == 0
    result = freerun("diagnose", tmp_path / "run", "--json", "--html", tmp_path / "page.html")
    values = json.loads(result.out)
    assert (values["sources"], values["identity"]["agree"]) == (12, 12)
    evaluated = json.loads(freerun("evaluate", tmp_path / "run", "--json").out)
    assert values["identity"]["right_free"] / 12 == pytest.approx(evaluated["sequence_accuracy.free"])
    examples = json.loads(re.search(r'id="examples">(.*?)</script>', (tmp_path / "page.html").read_text())[1])
    assert sorted({each["features"] for each in examples}) == ["", "V", "V;PST"]
