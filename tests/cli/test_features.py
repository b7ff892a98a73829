"""The commands on a model with features: what they read, print and reject."""

from __future__ import annotations

import io
import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import freerun as package
from freerun.commands.train import example_argument
from tests.cli.conftest import Freerun

KNOWN = "it has 'V', 'LOW', 'UP'"
NO_FEATURES = f'has no features. Expected features separated by ";", because the model was trained with them; {KNOWN}. '
NO_COLUMN = (
    "Expected source, target and features in columns 1,2,3, because the model was trained with features: "
    f"{KNOWN}. Add the missing column, or choose others with --columns."
)


@pytest.fixture
def run(trained_with_features: Path) -> Path:
    return trained_with_features / "run"


@pytest.fixture
def dev(trained_with_features: Path) -> Path:
    return trained_with_features / "dev.tsv"


@pytest.fixture
def two_columns(dev: Path, tmp_path: Path) -> Path:
    path = tmp_path / "two.tsv"
    path.write_text("".join("\t".join(line.split("\t")[:2]) + "\n" for line in dev.read_text().splitlines()))
    return path


def triples(path: Path) -> list[tuple[str, str, str]]:
    return [tuple(line.split("\t")) for line in path.read_text().splitlines()]


def test_arguments_files_standard_input_and_python_agree(
    freerun: Freerun, run: Path, tmp_path: Path, monkeypatch
) -> None:
    lines = ["abc\tUP;V", "abc\tV;LOW", "ba\t", "gfedcb\tUP"]
    expected = freerun("predict", run, *lines)
    assert (expected.code, expected.err) == (0, "")
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in lines))
    assert freerun("predict", run, "--input", tmp_path / "in").out == expected.out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "in").read_bytes())))
    assert freerun("predict", run).out == expected.out
    model = package.load(run)
    texts = [model.predict(text, features=features).text for text, features in (line.split("\t") for line in lines)]
    assert expected.out.splitlines() == texts
    assert len(set(texts[:2])) == 2


def test_an_empty_line_gives_an_empty_line_and_keeps_the_draws(freerun: Freerun, run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("abc\tUP\n\ngfedcb\tLOW\n")
    (tmp_path / "full").write_text("abc\tUP\nabc\tUP\ngfedcb\tLOW\n")
    drawing = ("--sample", "--temperature", "3", "--seed", "5")
    some = freerun("predict", run, "--input", tmp_path / "in", *drawing).out.split("\n")
    full = freerun("predict", run, "--input", tmp_path / "full", *drawing).out.split("\n")
    assert (some[0], some[1], some[2]) == (full[0], "", full[2])


def test_json_has_the_features_as_given(freerun: Freerun, run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("abc\tUP; V\n\nba\t\n")
    values = list(map(json.loads, freerun("predict", run, "--input", tmp_path / "in", "--json").out.splitlines()))
    assert [(value["source"], value["features"]) for value in values] == [("abc", "UP; V"), ("", ""), ("ba", "")]
    assert values[0].keys() == {"source", "features", "hypotheses"}


def test_unknown_features_are_counted_beside_unknown_tokens(freerun: Freerun, run: Path) -> None:
    result = freerun("predict", run, "abc\tUP;PST", "abG\tPST;X", "ab\tUP+V")
    assert result.code == 0
    assert result.err.splitlines() == [
        (
            "warning: 1 source token is not in the vocabulary and was mapped to UNK: 'G' (1). In lower case it "
            "is in the vocabulary: try that."
        ),
        (
            "warning: 4 features are not in the vocabulary and were mapped to UNK: 'PST' (2), 'X' (1), 'UP+V' (1). "
            f'Features are separated by ";"; the model has {KNOWN[7:]}.'
        ),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abc", f"text 2: \"abc\" {NO_FEATURES}Add a tab and the features; in bash, for example, $'source\\tone;two'."),
        ("abc;UP", 'text 2: "abc;UP" has no features.'),
        ("abc\tA B C\tUP", "text 2: 3 tab-separated fields. Expected 2: a source and its features."),
        ("abc\tUP\n", r"text 2: 'abc\tUP\n' has a line feed in it. Expected one line of plain text."),
    ],
)
def test_arguments_that_are_no_source_with_features(freerun: Freerun, run: Path, text: str, message: str) -> None:
    result = freerun("predict", run, "ba\tUP", text)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {message}")


def test_a_line_without_features_is_named_with_its_file(freerun: Freerun, run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("ba\tUP\n\nabc\n")
    result = freerun("predict", run, "--input", tmp_path / "in")
    fix = "Add a tab and the features; after the tab, there may be none."
    assert (result.code, result.out, result.err) == (2, "", f'error: {tmp_path / "in"}:3: "abc" {NO_FEATURES}{fix}\n')


def test_for_any_other_model_a_tab_stays_an_error(freerun: Freerun, trained: Path, tmp_path: Path) -> None:
    result = freerun("predict", trained / "run", "abc\tUP")
    assert result.code == 2
    assert (
        result.err
        == "error: text 1: 'abc\\tUP' has a tab in it. Expected one line of plain text. Replace it by a space.\n"
    )
    (tmp_path / "in").write_text("abc\tUP\n")
    assert (
        "in:1: a tab at character 4 of the line." in freerun("predict", trained / "run", "--input", tmp_path / "in").err
    )
    assert "features" not in freerun("predict", trained / "run", "abc", "--json").out


def test_score_reads_and_shows_features(freerun: Freerun, run: Path, dev: Path) -> None:
    values = list(map(json.loads, freerun("score", run, dev, "--json").out.splitlines()))
    assert [(value["source"], value["target"], value["features"]) for value in values] == triples(dev)
    assert [f"{value['score']:.6f}" for value in values] == freerun("score", run, dev).out.splitlines()
    model = package.load(run)
    pairs = [SimpleNamespace(source=a, target=b, features=c) for a, b, c in triples(dev)]
    assert [each.score for each in model.score_stream(pairs)] == pytest.approx([value["score"] for value in values])


def test_score_counts_unknown_features(freerun: Freerun, run: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("abc\tA B C\tUP;X\n")
    assert (
        "warning: 1 feature is not in the vocabulary and was mapped to UNK: 'X' (1)."
        in freerun("score", run, tmp_path / "pairs.tsv").err
    )


def test_evaluate_shows_features_in_examples_and_not_in_lengths(freerun: Freerun, run: Path, dev: Path) -> None:
    result = freerun("evaluate", run, dev, "--worst", 2, "--by-length")
    assert result.code == 0 and "warning" not in result.err
    assert "source" in result.out and "features" in result.out.split("Worst examples\n")[1].splitlines()[0]
    metrics = json.loads(freerun("evaluate", run, "--json", "--by-length").out)
    longest = max(len(source) for source, _, _ in triples(dev))
    assert metrics["sources"] == 40
    assert max(int(name.split("_")[-1]) for name in metrics if name.startswith("sources.length")) == longest


def test_a_bundle_alone_reads_the_first_three_columns(freerun: Freerun, run: Path, dev: Path) -> None:
    assert freerun("evaluate", run / "best", dev, "--json").out == freerun("evaluate", run, dev, "--json").out
    model = package.load(run)
    result = package.evaluate(model, dev)
    assert result.features == [features for _, _, features in triples(dev)]
    assert result.sources == [source for source, _, _ in triples(dev)]


@pytest.mark.parametrize("command", ["score", "evaluate", "diagnose"])
def test_a_file_of_two_columns_lacks_features(freerun: Freerun, run: Path, two_columns: Path, command: str) -> None:
    for model in (run, run / "best"):
        result = freerun(command, model, two_columns)
        assert (result.code, result.out) == (2, "")
        assert f"error: {two_columns}:1: 2 tab-separated columns, so there is no column 3" in result.err
        assert result.err.endswith(f"{NO_COLUMN}\n")


def test_columns_have_to_suit_the_model(freerun: Freerun, run: Path, trained: Path, dev: Path) -> None:
    result = freerun("evaluate", run, dev, "--columns", "1,2")
    assert result.code == 2
    assert result.err == (
        f"error: {dev}: columns 1,2 were chosen, but the model also reads features. Expected three columns: source, "
        "target and features. Choose them with, for example, --columns 1,2,3.\n"
    )
    result = freerun("score", trained / "run", dev, "--columns", "1,2,3")
    assert result.code == 2
    assert result.err == (
        f"error: {dev}: columns 1,2,3 were chosen, but the model has no features. Expected two columns: source and "
        "target. Choose them with --columns 1,2.\n"
    )


def test_other_formats_need_features_too(freerun: Freerun, run: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"source": "ab", "target": "A B"}\n')
    result = freerun("evaluate", run, tmp_path / "pairs.jsonl")
    fix = 'Add the key "features", with "" for none.'
    assert (result.code, result.err) == (2, f'error: {tmp_path}/pairs.jsonl:1: "ab" {NO_FEATURES}{fix}\n')
    (tmp_path / "source").write_text("ab\n")
    result = freerun("evaluate", run, tmp_path / "source", tmp_path / "source")
    assert "Join the files into one with lines of source<TAB>target<TAB>features." in result.err
    with pytest.raises(package.UserError) as caught:
        package.evaluate(run, [("ab", "A B")])
    assert str(caught.value) == f'pair 1: "ab" {NO_FEATURES}Pass (source, target, features), with "" for none.'


def test_unknown_features_of_pairs_are_warned_of(freerun: Freerun, run: Path, dev: Path, tmp_path: Path) -> None:
    path = tmp_path / "plus.tsv"
    path.write_text(dev.read_text().replace(";", "+"))
    for command in ("evaluate", "diagnose"):
        err = freerun(command, run, path).err
        assert (
            f"warning: {path}: 40 of 40 features (100.0 %) are not in the vocabulary and were mapped to UNK: "
            f"'UP+V' (20), 'LOW+V' (20). Features are separated by \";\"; the model has {KNOWN[7:]}."
        ) in err


def test_models_with_and_without_features_are_compared_where_sources_are_the_same(
    freerun: Freerun, run: Path, trained: Path, dev: Path, tmp_path: Path
) -> None:
    same = freerun("compare", run, run, dev)
    assert (same.code, "40 sources" in same.out) == (0, True)
    (tmp_path / "once.tsv").write_text("".join("\t".join(row) + "\n" for row in triples(dev)[::2]))
    other = freerun("compare", run, trained / "run", tmp_path / "once.tsv", "--columns", "1,2,3")
    assert (other.code, "20 sources" in other.out) == (0, True)
    result = freerun("compare", run, trained / "run", dev, "--columns", "1,2,3")
    assert result.code == 2
    assert "error: compare: the models distinguish different sources: 40 and 20 of them. Expected models that read" in (
        result.err
    )


def test_an_ensemble_has_the_same_features(freerun: Freerun, run: Path, trained: Path) -> None:
    assert freerun("predict", run, "abc\tUP", "--ensemble", run).out == freerun("predict", run, "abc\tUP").out
    result = freerun("predict", run, "abc\tUP", "--ensemble", trained / "run")
    assert result.code == 2
    assert "features '" in result.err and "separated by ;' and 'none'" in result.err


@pytest.mark.parametrize(
    ("label", "example"),
    [
        ("abc\tUP;V", r"$'abc\tUP;V'"),
        ("l'été\\\tV", r"$'l\'été\\\tV'"),
        ("a b\t", r"$'a b\t'"),
        (f"{'long ' * 9}\tV", r"$'some text\tV'"),
        ("\tV", r"$'some text\tV'"),
        ("abc", "'some text'"),
    ],
)
def test_an_example_of_a_text_is_an_argument_of_bash(tmp_path: Path, label: str, example: str) -> None:
    event = {"event": "evaluation", "update": 1, "examples": [{"source": label, "reference": "x", "free_run": "x"}]}
    (tmp_path / "journal.jsonl").write_text(json.dumps(event) + "\n")
    assert example_argument(tmp_path) == example
    printed = subprocess.run(["bash", "-c", f"printf %s {example}"], capture_output=True, check=True).stdout.decode()
    assert printed == label or printed.startswith("some text")


def test_the_next_step_after_training_is_a_text_with_features(freerun: Freerun, run: Path, dev: Path) -> None:
    result = freerun("train", "--resume", "--out", run)
    assert result.code == 0
    (line,) = (line for line in result.err.splitlines() if line.startswith("  freerun predict "))
    (text,) = re.findall(r" [$]'(.*)'$", line)
    assert text.split(r"\t") in [[source, features] for source, _, features in triples(dev)]
    assert freerun("predict", run, text.replace(r"\t", "\t")).err == ""
