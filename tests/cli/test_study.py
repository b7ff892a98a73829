"""``freerun study`` as it is used: begun, gone on with, changed, stopped."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import SHARED

RECORDED = Path(__file__).parents[2] / "docs" / "studies" / "german-inflection"
BASE = """
[data]
train = "train.tsv"
dev = "dev.tsv"
source_tokens = "char"
target_tokens = "whitespace"
[model]
hidden_size = 8
embedding_size = 8
num_layers = 1
[training]
updates = {updates}
batch_size = 8
threads = 1
[evaluation]
every = 2
"""
STUDY = """
base = "base.toml"
control = "teacher"
seeds = [1, 2]
target_error = 0.99
[strategies.teacher]
strategy = "teacher"
[strategies.free]
strategy = "free_running"
"""


@pytest.fixture
def folder(pairs):
    (pairs / "base.toml").write_text(BASE.format(updates=4))
    (pairs / "study.toml").write_text(STUDY)
    return pairs


@pytest.mark.slow
def test_a_study_is_begun_gone_on_with_and_kept(freerun, folder):
    out = folder / "out"
    first = freerun("study", folder / "study.toml", "--out", out)
    assert first.code == 0
    assert first.err.count(": training, see") == 4
    assert "Fewer than 5 seeds" in first.out and "updates to 0.99" in first.out
    assert "also chose each run's best model" in first.out
    assert {path.stem for path in (out / "results").iterdir()} == {"teacher-1", "teacher-2", "free-1", "free-2"}
    assert (out / "report.html").read_text().startswith("<!doctype html>")

    # what is finished is not run again, even when the runs are gone; seeds and arms may be added
    kept = (out / "results" / "free-1.json").read_bytes()
    (out / "results" / "free-2.json").unlink()
    more = STUDY.replace("[1, 2]", "[2, 1]").replace("seeds", "processes = 2\nseeds")
    (folder / "study.toml").write_text(more + "[variants.wide]\nmodel = { hidden_size = 12 }\n")
    again = freerun("study", folder / "study.toml", "--out", out, "--json")
    assert again.code == 0
    assert again.err.count(": training, see") == 1 + 2
    assert (out / "results" / "free-1.json").read_bytes() == kept
    values = json.loads(again.out)
    assert {arm["name"]: len(arm["seeds"]) for arm in values["arms"]} == {"teacher": 2, "free": 2, "wide": 2}
    assert [each["name"] for each in values["comparisons"]] == ["free", "wide"]
    assert values == json.loads((out / "analysis.json").read_text())

    # the same command once more only reads
    third = freerun("study", folder / "study.toml", "--out", out, "--json")
    assert third.err.count("training, see") == 0 and third.out == again.out

    # figures are those of evaluate
    evaluated = json.loads(freerun("evaluate", out / "runs" / "free-1", "--json").out)
    errors, lengths = json.loads(kept)["ratios"]["symbol_error_rate.free"]
    assert sum(errors) / sum(lengths) == pytest.approx(evaluated["symbol_error_rate.free"])

    # what is kept names no place of this machine
    for kept_file in ("study.json", "analysis.json", "results/free-1.json"):
        assert str(folder) not in (out / kept_file).read_text()

    # other data and another configuration are refused, by name
    train = (folder / "train.tsv").read_text()
    (folder / "train.tsv").write_text(train + "ab\tA A\n")
    other = freerun("study", folder / "study.toml", "--out", out)
    assert other.code == 2 and "free.data.train_sha256 was" in other.err
    (folder / "train.tsv").write_text(train)
    (folder / "base.toml").write_text(BASE.format(updates=5))
    other = freerun("study", folder / "study.toml", "--out", out)
    assert other.code == 2
    assert "free.training.updates was 4, now 5" in other.err and "seeds and arms may be added" in other.err


@pytest.mark.slow
def test_runs_of_a_version_with_other_random_numbers_are_not_mixed_with_new_ones(freerun, folder):
    out = folder / "out"
    command = ("study", folder / "study.toml", "--out", out, "--json")
    first = freerun(*command)
    assert first.code == 0, first.err
    version = json.loads((out / "results" / "free-1.json").read_text())["freerun"]
    assert version == freerun("--version").out.split()[1]

    # results that are all there are analysed, whoever wrote them: those of 0.1.0 name no version
    for path in (out / "results").iterdir():
        values = json.loads(path.read_text())
        del values["freerun"]
        path.write_text(json.dumps(values))
    assert freerun(*command).out == first.out

    # one that is missing was begun by another version, and so was a run that is missing
    kept, study = (out / "results" / "free-2.json").read_bytes(), (out / "study.json").read_bytes()
    (out / "results" / "free-2.json").unlink()
    (folder / "study.toml").write_text(STUDY.replace("[1, 2]", "[1, 2, 3]"))
    result = freerun(*command)
    assert (result.code, result.out) == (2, "")
    assert "this study was started with freerun 0.1.0 (teacher-1, teacher-2, free-1), which has other" in result.err
    assert "was not finished with it (teacher-3, free-2, free-3). Expected" in result.err
    assert "Finish the study with freerun 0.1.0, or start again in another directory with --out." in result.err
    assert (out / "study.json").read_bytes() == study and not (out / "runs" / "free-3").exists()

    # a run of that version that ended needs only its evaluation; one that did not end cannot go on
    (folder / "study.toml").write_text(STUDY)
    journal = out / "runs" / "free-2" / "journal.jsonl"
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    events[0]["freerun"] = "0.1.0"
    journal.write_text("".join(json.dumps(event) + "\n" for event in events[:-1]))
    result = freerun(*command)
    assert result.code == 2 and "was not finished with it (free-2)" in result.err
    journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert freerun(*command).out == first.out
    again = json.loads((out / "results" / "free-2.json").read_text())
    assert again.pop("freerun") == "0.1.0" and again == json.loads(kept)


@pytest.mark.slow
def test_a_run_that_diverges_is_a_result(freerun, folder):
    text = (
        STUDY.replace("[1, 2]", "[1]")
        + '[variants.wild]\ntraining = { optimizer = "sgd", learning_rate = 1e38, clip_norm = 0.0 }\n'
    )
    (folder / "study.toml").write_text(text)
    result = freerun("study", folder / "study.toml", "--out", folder / "out")
    assert result.code == 0
    assert re.search(r"wild, seed 1: failed \(update \d+: loss \S+, gradient norm \S+\)\.", result.out)
    assert "wild-1: failed: update" in result.err
    assert "free: one seed: no test is possible." in result.out


@pytest.mark.slow
def test_phases_a_bundle_to_start_from_columns_and_the_search_are_taken_over(freerun, folder, trained, searches):
    lines = [line.split("\t") for line in (folder / "train.tsv").read_text().splitlines()]
    (folder / "train.tsv").write_text("".join(f"{target}\tx\t{source}\n" for source, target in lines))
    (folder / "dev.tsv").write_text("".join(f"{target}\tx\t{source}\n" for source, target in lines[:9]))
    (folder / "base.toml").write_text(
        f'[data]\ntrain = "train.tsv"\ndev = "dev.tsv"\ncolumns = [3, 1]\n[training]\nupdates = 4\nthreads = 1\n'
        f'init = "{trained / "run"}"\n[evaluation]\nbeam_size = 2\nlength_penalty = 1.5\nearly_stop = true\n'
    )
    phases = '[[strategies.chain.phases]]\nstrategy = "teacher"\nuntil = 2\n[[strategies.chain.phases]]\n'
    text = STUDY.replace("[1, 2]", '[1]\npairs = "dev.tsv"').replace("[strategies.free]\n", "")
    text = text.replace('strategy = "free_running"\n', "") + phases + 'strategy = "free_running"\n'
    (folder / "study.toml").write_text(text)
    result = freerun("study", folder / "study.toml", "--out", folder / "out", "--json")
    assert result.code == 0, result.err
    assert {(each["beam_size"], each["length_penalty"], each["early_stop"]) for each in searches} == {(2, 1.5, True)}
    (arm,) = [each for each in json.loads(result.out)["arms"] if each["name"] == "chain"]
    evaluated = freerun(
        "evaluate",
        folder / "out" / "runs" / "chain-1",
        "--beam-size",
        2,
        "--length-penalty",
        1.5,
        "--early-stop",
        "--json",
    )
    expected = json.loads(evaluated.out)["symbol_error_rate.free"]
    assert arm["figures"]["symbol_error_rate.free"]["value"] == pytest.approx(expected)


def test_a_failure_leaves_no_training_behind(freerun, folder):
    (folder / "base.toml").write_text(BASE.format(updates=100000).replace("every = 2", "every = 0"))
    broken = '[variants.broken]\ntraining = { precision = "bf16", updates = 1 }\ndata = { minimum_count = 10000 }\n'
    text = STUDY.replace("[1, 2]", "[1]\nprocesses = 3") + broken
    (folder / "study.toml").write_text(text)
    out = folder / "out"
    result = freerun("study", folder / "study.toml", "--out", out)
    assert result.code == 2
    assert "broken-1 could not be trained (exit code 2)" in result.err and "broken-1.log" in result.err
    running = subprocess.run(["pgrep", "-f", str(out)], capture_output=True, text=True).stdout
    assert running == ""


@pytest.mark.parametrize("content", ["{", "{}", '{"arms": [], "settings": {}}'])
def test_a_damaged_study_is_told(freerun, folder, content):
    (folder / "out").mkdir()
    (folder / "out" / "study.json").write_text(content)
    result = freerun("study", folder / "study.toml", "--out", folder / "out")
    assert result.code == 2 and "study.json: this file cannot be read" in result.err


def test_bad_pairs_are_told_before_anything_is_trained(freerun, folder):
    (folder / "bad.tsv").write_text("a\tb\nno tab\n")
    (folder / "study.toml").write_text(STUDY.replace("target_error", 'pairs = "bad.tsv"\ntarget_error'))
    result = freerun("study", folder / "study.toml", "--out", folder / "out")
    assert result.code == 2 and "bad.tsv:2" in result.err and not (folder / "out").exists()


def test_all_faults_are_told_before_anything_starts(freerun, folder):
    (folder / "study.toml").write_text(
        'base = "base.toml"\ncontrol = "none"\nseeds = [1, 1]\n[strategies.a]\nstrategy = "teacher"\n'
        '[strategies."b/c"]\nstrategy = "teacher"\n'
    )
    result = freerun("study", folder / "study.toml", "--out", folder / "out")
    assert result.code == 2 and not (folder / "out").exists()
    for part in ('control: the value is "none"', "contains a seed twice", "'b/c': this cannot be the name of a file"):
        assert part in result.err
    (folder / "study.toml").write_text(STUDY + '[strategies.x]\nstrategy = "profesor"\n[variants.y]\nmodle = {}\n')
    result = freerun("study", folder / "study.toml", "--out", folder / "out")
    assert result.code == 2
    assert "arm x" in result.err and "'professor'" in result.err.replace('"', "'")
    assert "arm y" in result.err and "modle" in result.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('control = "a"\n', "base: this key is missing"),
        ('base = "base.toml"\ncontrol = "a"\n[strategies.a]\nstrategy = "teacher"\n', "one arm"),
        ('base = "none.toml"\ncontrol = "a"\n[strategies.a]\n[strategies.b]\n', "none.toml: no such file"),
        (STUDY.replace("[1, 2]", "[]"), "seeds"),
        (STUDY.replace("seeds", "seed"), "seed"),
    ],
)
def test_a_study_that_cannot_be_is_refused(freerun, folder, text, message):
    (folder / "study.toml").write_text(text)
    result = freerun("study", folder / "study.toml", "--out", folder / "out")
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_a_folder_of_something_else_is_left_alone(freerun, folder):
    result = freerun("study", folder / "study.toml", "--out", folder)
    assert result.code == 2
    assert "this directory is not empty and contains no study" in result.err


@pytest.mark.slow
def test_a_stopped_study_goes_on_where_it_was(freerun, folder):
    (folder / "base.toml").write_text(BASE.format(updates=400).replace("every = 2", "every = 0"))
    (folder / "study.toml").write_text(STUDY.replace("[1, 2]", "[1]"))
    out = folder / "out"
    command = [sys.executable, "-m", "freerun", "study", str(folder / "study.toml"), "--out", str(out)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = out / "runs" / "teacher-1" / "journal.jsonl"
    while not (journal.exists() and '"update"' in journal.read_text()):
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    started.communicate()
    assert started.returncode == 143
    assert '"reason": "signal"' in journal.read_text().splitlines()[-1]
    result = freerun("study", folder / "study.toml", "--out", out)
    assert result.code == 0
    assert '"event": "resume"' in journal.read_text()


@pytest.mark.slow
@pytest.mark.shared_data
def test_a_recorded_study_prints_what_was_recorded(freerun, tmp_path):
    folder, data = tmp_path / "study", SHARED / "data" / "inflection-2016" / "german"
    shutil.copytree(RECORDED, folder)
    lines = (data / "dev.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    shutil.copy(data / "train.tsv", folder / "train.tsv")
    (folder / "dev.tsv").write_text("".join(lines[::2]), encoding="utf-8")
    (folder / "held.tsv").write_text("".join(lines[1::2]), encoding="utf-8")
    result = freerun("study", folder / "study.toml", "--out", folder)
    assert result.code == 0
    assert "40 runs, 40 of them finished before" in result.err
    for name in ("analysis.json", "study.json"):
        assert (folder / name).read_bytes() == (RECORDED / name).read_bytes()
