"""Inputs that users of comparable tools reported, about the data that commands read: the right value of each."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sacrebleu

from freerun.config import read_toml
from freerun.training.journal import read_journal

SMALL = [
    argument
    for setting in (
        "model.hidden_size=8",
        "model.embedding_size=8",
        "model.num_layers=1",
        "training.updates=4",
        "training.threads=1",
        "training.learning_rate=1e-2",
        "evaluation.every=2",
    )
    for argument in ("--set", setting)
]
STRATEGIES = '[strategies.a]\nstrategy = "teacher"\n[strategies.b]\nstrategy = "teacher"\n'
LETTERS = [a + b for a in "abcd" for b in "abcd"]
PAIRS = "".join(f"{text}\t{text.upper()}\n" for text in LETTERS)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("p.tsv").write_text(PAIRS)
    Path("t.tsv").write_text(PAIRS.replace("\n", "\tN;SG\n"))
    Path("s.src").write_text("".join(f"{text}\n" for text in LETTERS))
    Path("s.tgt").write_text("".join(f"{text.upper()}\n" for text in LETTERS))
    return tmp_path


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The trained run as a bundle without torch weights."""
    from freerun.cli import main

    out = tmp_path_factory.mktemp("exported") / "x"
    shutil.copytree(trained / "run", out.parent / "run")
    assert main(["export", str(out.parent / "run"), "--out", str(out)]) == 0
    return out


def fifo(name: str, content: str | bytes = PAIRS) -> Path:
    """A named pipe that is written once."""
    os.mkfifo(name)
    raw = content.encode() if isinstance(content, str) else content

    def write() -> None:
        with contextlib.suppress(BrokenPipeError):  # the reader may leave before the end
            Path(name).write_bytes(raw)

    threading.Thread(target=write, daemon=True).start()
    return Path(name)


def line_with(text: str, found: str) -> str:
    (line,) = [line for line in found.splitlines() if text in line]
    return line


# -- case 6: target tokens that the vocabulary lacks ------------------------------------------------------------------


def test_targets_that_nobody_can_write_flatter_no_metric(freerun, here, trained):
    Path("z.tsv").write_text("ab\tz z\nba\ty y\nfg\tx x\n")
    init = trained / "run"
    found = freerun("train", "z.tsv", "--dev", "z.tsv", "--init", init, "--out", "q", "--set", "training.updates=40")
    assert found.code == 0
    warning = line_with("training pairs of", found.err)
    assert "6 of 9 target tokens (66.7 %) are not in the vocabulary of" in warning and str(init) in warning
    assert "'z' (2), 'y' (2), 'x' (2). The model can never write them" in warning
    assert "start without --init" in warning and "minimum_count" not in warning
    assert "start without --init" in line_with("development pairs: 6 of 9", found.err)
    evaluations = [event for event in read_journal(Path("q/journal.jsonl")) if event["event"] == "evaluation"]
    assert len(evaluations) >= 2
    for event in evaluations:
        assert event["unknown_target_tokens"] == pytest.approx(2 / 3)
        assert event["sequence_accuracy.free"] == 0 and event["symbol_error_rate.free"] >= 1
        for name in ("nll.teacher", "perplexity.teacher", "token_accuracy.teacher"):
            assert event[name] is None, name
    said = [line for line in found.err.splitlines() if line.startswith("evaluation at update")]
    assert said and all("unknown_target_tokens 0.6667" in line for line in said)
    metrics = json.loads(freerun("evaluate", "q", "--json").out)
    assert metrics["unknown_target_tokens"] == pytest.approx(2 / 3) and metrics["nll.teacher"] is None


def test_sources_that_the_model_to_start_from_cannot_read_are_reported(freerun, here, trained):
    Path("z.tsv").write_text("zz\tA B\nyy\tB A\nab\tA\n")
    arguments = ("train", "z.tsv", "--init", trained / "run", "--out", "q", "--set", "training.updates=1")
    found = freerun(*arguments, "--dev", "z.tsv")
    assert found.code == 0
    warning = line_with("source tokens", found.err)
    assert "4 of 9 source tokens (44.4 %) are not in the vocabulary of" in warning
    assert "'z' (2), 'y' (2). The model reads all of them as one unknown token." in warning
    # "zz" and "yy" are one source to this model
    Path("z.tsv").write_text("zz\tA B\nyy\tB A\n")
    refused = freerun(*arguments[:-3], "q2")
    assert refused.code == 2 and "leave out --init if its model lacks these tokens" in refused.err


# -- case 12: --columns -----------------------------------------------------------------------------------------------


@pytest.fixture
def three_columns(freerun, here):
    """A run that was trained on columns 1 and 2 of three."""
    assert freerun("train", "t.tsv", "--columns", "1,2", "--dev", "t.tsv", "--out", "q", *SMALL).code == 0
    return Path("q")


def test_every_command_takes_the_columns_of_the_run(freerun, three_columns):
    note = "t.tsv: source and target are columns 1,2, as in q; see --columns."
    found = {
        command: freerun(command, three_columns, *more)
        for command, more in {
            "evaluate": ["t.tsv", "--json"],
            "score": ["t.tsv"],
            "compare": [three_columns, "t.tsv", "--json"],
            "diagnose": ["t.tsv", "--json"],
            "export": ["--quantize", "int8", "--dev", "t.tsv", "--max-loss", "100", "--json"],
        }.items()
    }
    for command, each in found.items():
        assert each.code == 0, (command, each.err)
        assert note in each.err.splitlines(), command
    assert json.loads(found["evaluate"].out)["sources"] == len(LETTERS)
    assert len(found["score"].out.splitlines()) == len(LETTERS)
    assert json.loads(found["compare"].out)["sources"] == json.loads(found["export"].out)["sources"] == len(LETTERS)
    assert json.loads(found["diagnose"].out)["sources"] == len(LETTERS)


def test_every_command_takes_other_columns(freerun, three_columns):
    bundle = three_columns / "best"
    Path("r.tsv").write_text("".join(f"x\t{text.upper()}\t{text}\n" for text in LETTERS))
    expected = json.loads(freerun("evaluate", bundle, "p.tsv", "--json").out)
    asked = ["--columns", "3,2"]
    assert json.loads(freerun("evaluate", bundle, "r.tsv", *asked, "--json").out) == expected
    scores = freerun("score", bundle, "p.tsv").out
    assert freerun("score", bundle, "r.tsv", *asked).out == scores != ""
    compared = freerun("compare", bundle, bundle, "p.tsv", "--json").out
    assert freerun("compare", bundle, bundle, "r.tsv", *asked, "--json").out == compared != ""
    diagnosed = freerun("diagnose", bundle, "p.tsv", "--json").out
    assert freerun("diagnose", bundle, "r.tsv", *asked, "--json").out == diagnosed != ""
    quantised = ["--quantize", "int8", "--max-loss", "100", "--json", "--dev"]
    exported = [
        json.loads(freerun("export", bundle, "--out", out, *quantised, *pairs).out)["int8"]
        for out, pairs in (("x1", ["p.tsv"]), ("x2", ["r.tsv", *asked]))
    ]
    assert exported[0] == exported[1]


def test_the_advice_can_be_followed(freerun, three_columns):
    bundle = three_columns / "best"
    refused = freerun("evaluate", bundle, "t.tsv")
    assert refused.code == 2 and "choose the columns with --columns" in refused.err
    assert freerun("evaluate", bundle, "t.tsv", "--columns", "1,2").code == 0
    too_far = freerun("score", three_columns, "t.tsv", "--columns", "1,4")
    assert too_far.code == 2 and "so there is no column 4" in too_far.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "q", "--columns", "1,2"],
        ["diagnose", "q", "--columns", "1,2"],
        ["export", "q", "--columns", "1,2"],
        ["export", "q", "--quantize", "int8", "--columns", "1,2"],
        ["evaluate", "q", "t.tsv", "--columns", ""],
        ["score", "q", "t.tsv", "--columns", "1"],
    ],
)
def test_columns_that_would_be_ignored_are_refused(freerun, here, arguments):
    found = freerun(*arguments)
    assert found.code == 2 and "--columns" in found.err and found.out == ""


# -- case 13: pipes and devices ---------------------------------------------------------------------------------------


def test_training_from_pipes_is_training_from_their_copies(freerun, here):
    fifo("ff")
    fifo("dd", PAIRS[:24])
    first = freerun("train", "ff", "--dev", "dd", "--out", "q", *SMALL)
    assert first.code == 0, first.err
    assert Path("q/pairs/train.tsv").read_text() == PAIRS and Path("q/pairs/dev.tsv").read_text() == PAIRS[:24]
    data = read_toml(Path("q/config.toml"))["data"]
    assert (data["train"], data["dev"]) == (f"{here}/q/pairs/train.tsv", f"{here}/q/pairs/dev.tsv")
    # the same as from files
    Path("d.tsv").write_text(PAIRS[:24])
    assert freerun("train", "p.tsv", "--dev", "d.tsv", "--out", "r", *SMALL).code == 0
    weights = [Path(run, "best", "model.safetensors").read_bytes() for run in ("q", "r")]
    assert weights[0] == weights[1]
    # and evaluated, trained again and resumed without the pipes
    assert freerun("evaluate", "q").code == 0
    assert freerun("train", "q/config.toml", "--out", "again").code == 0
    assert Path("again/best/model.safetensors").read_bytes() == weights[0]
    assert freerun("train", "--out", "q", "--resume").code == 0


def test_a_run_from_a_pipe_resumes_with_the_same_pairs_and_no_others(freerun, here):
    fifo("ff")
    assert freerun("train", "ff", "--out", "q", *SMALL).code == 0
    for content, code in ((PAIRS, 0), (PAIRS[:-6], 2)):
        Path("ff").unlink()
        fifo("ff", content)
        found = freerun("train", "ff", "--out", "q", "--resume", *SMALL)
        assert found.code == code
    assert "ff has other pairs than those that this run copied to" in found.err


def test_a_process_substitution(here):
    command = f'exec {sys.executable} -m freerun train <(zcat x.gz) --dev <(head -3 p.tsv) "$@"'
    Path("x.gz").write_bytes(gzip.compress(PAIRS.encode()))
    found = subprocess.run(["bash", "-c", command, "freerun", *SMALL], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "/dev/fd/63: can be read only once, so it is copied to" in found.stderr
    assert Path("runs/pipe/pairs/train.tsv").read_text() == PAIRS


def test_what_is_wrong_with_a_pipe_leaves_nothing(freerun, here):
    fifo("ff", "a\tb\nc\n")
    found = freerun("train", "ff", "--out", "q", *SMALL)
    assert found.code == 2 and f"{here}/ff:2: 1 tab-separated column." in found.err
    fifo("gg", b"y" * 3_000_000)
    found = freerun("train", "gg", "--out", "q", *SMALL)
    assert found.code == 2 and f"{here}/gg:1: the line is longer than 1,000,000 bytes" in found.err
    fifo("hh", "")
    found = freerun("train", "hh", "--out", "q", *SMALL)
    assert found.code == 2 and f"{here}/hh: the file is empty and has no pairs" in found.err
    fifo("ii")
    found = freerun("train", "ii", "--out", "q", "--set", "data.source_tokens=sentencepiece:900", *SMALL)
    assert found.code == 2
    assert not Path("q").exists()


def test_a_stop_while_copying_leaves_nothing_and_no_file_of_the_user_is_touched(freerun, here):
    Path("q/pairs").mkdir(parents=True)
    Path("q/pairs/train.tsv").write_text("mine")
    fifo("ff")
    found = freerun("train", "ff", "--out", "q", *SMALL)
    assert found.code == 2 and "this directory is not empty: it holds pairs" in found.err
    assert Path("q/pairs/train.tsv").read_text() == "mine"
    # what a kill left is no obstacle
    Path("r/.pairs.abcdefgh.tmp").mkdir(parents=True)
    Path("gg").unlink(missing_ok=True)
    fifo("gg")
    assert freerun("train", "gg", "--out", "r", *SMALL).code == 0
    assert not list(Path("r").glob(".pairs*"))


def test_commands_that_read_once_read_pipes(freerun, here, trained):
    run, pairs = trained / "run", (trained / "dev.tsv").read_text()
    for number, (command, more) in enumerate(
        {"evaluate": [], "score": [], "compare": [run], "diagnose": []}.items(), start=1
    ):
        fifo(f"f{number}", pairs)
        found = freerun(command, run, *more, f"f{number}", "--json")
        assert found.code == 0, found.err
        assert found.out == freerun(command, run, *more, trained / "dev.tsv", "--json").out
    sources = "".join(line.split("\t")[0] + "\n" for line in pairs.splitlines())
    fifo("texts", sources)
    Path("file").write_text(sources)
    assert freerun("predict", run, "--input", "texts").out == freerun("predict", run, "--input", "file").out != ""


COMMANDS = {
    "train": ["train", "ODD", "--out", "q"],
    "train --dev": ["train", "p.tsv", "--dev", "ODD", "--out", "q"],
    "train SRC TGT": ["train", "s.src", "ODD", "--out", "q"],
    "evaluate": ["evaluate", "RUN", "ODD"],
    "evaluate SRC TGT": ["evaluate", "RUN", "ODD", "s.tgt"],
    "score": ["score", "RUN", "ODD"],
    "compare": ["compare", "RUN", "RUN", "ODD"],
    "diagnose": ["diagnose", "RUN", "ODD"],
    "export --dev": ["export", "RUN", "--out", "x", "--quantize", "int8", "--dev", "ODD"],
    "predict --input": ["predict", "RUN", "--input", "ODD"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("odd", ["/dev/zero", "/dev/urandom"])
def test_an_endless_device_is_refused_at_once(freerun, here, trained, command, odd):
    arguments = [{"ODD": odd, "RUN": trained / "run"}.get(each, each) for each in COMMANDS[command]]
    found = freerun(*arguments)
    assert found.code == 2 and found.out == ""
    assert found.err.splitlines()[-1] == (
        f"error: {odd}: this is a device, which may have no end. Expected a file or a pipe. Check the path."
    )
    assert not Path("q").exists()


def test_a_study_reads_its_files_several_times(freerun, here):
    Path("base.toml").write_text('[data]\ntrain = "p.tsv"\ndev = "p.tsv"\n')
    study = f'base = "base.toml"\ncontrol = "a"\n{{}}{STRATEGIES}'
    Path("study.toml").write_text(study.format('pairs = "ff"\n'))
    os.mkfifo("ff")
    found = freerun("study", "study.toml", "--out", "q")
    assert found.code == 2 and f"{here}/ff: this is a pipe, which can be read only once" in found.err
    Path("study.toml").write_text(study.format(""))
    Path("base.toml").write_text('[data]\ntrain = "ff"\n')
    found = freerun("study", "study.toml", "--out", "q")
    assert found.code == 2 and f"{here}/ff: this is a pipe, which can be read only once" in found.err
    Path("base.toml").write_text('[data]\ntrain = "t.tsv"\n')
    found = freerun("study", "study.toml", "--out", "q")
    assert (
        found.code == 2
        and "Choose two with data.columns in the configuration of the arms, for example 1,2" in found.err
    )
    assert not list(Path("q").glob("[!.]*"))


def test_a_pipe_that_nobody_writes_into_is_reported_and_can_be_interrupted(here, trained):
    os.mkfifo("ff")
    command = [sys.executable, "-m", "freerun", "evaluate", str(trained / "run"), "ff"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line == "ff: this is a pipe, and nothing has been written into it yet; waiting for its first line.\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


# -- case 14: a bundle without weights --------------------------------------------------------------------------------


def test_training_cannot_start_from_a_bundle_without_weights(freerun, here, exported, trained):
    sentence = (
        f"error: {exported}: this bundle was exported without model.safetensors, so torch cannot run it. Expected a "
        "bundle with weights. Use the run or bundle that it was exported from; to predict, omit --runtime torch."
    )
    # before any pair is read
    assert freerun("train", "p.tsv", "--init", exported, "--out", "q").err == f"{sentence}\n"
    assert freerun("diagnose", exported, trained / "dev.tsv").err.splitlines()[-1] == sentence
    Path("base.toml").write_text(f'[data]\ntrain = "p.tsv"\ndev = "p.tsv"\n[training]\ninit = "{exported}"\n')
    Path("study.toml").write_text(f'base = "base.toml"\ncontrol = "a"\n{STRATEGIES}')
    found = freerun("study", "study.toml", "--out", "s")
    assert (found.code, found.err.splitlines()[-1]) == (2, sentence)
    assert not Path("q").exists()


# -- case 18: pairs that a study was trained on ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_claims_only_what_is_true(freerun, here):
    Path("d.tsv").write_text("".join(f"{text}\t{text.upper()}\n" for text in (*LETTERS[:4], "xx", "yy")))
    small = "[model]\nhidden_size = 8\nembedding_size = 8\nnum_layers = 1\n[training]\nupdates = 1\nthreads = 1\n"
    Path("base.toml").write_text(f'[data]\ntrain = "p.tsv"\ndev = "d.tsv"\n{small}')
    Path("study.toml").write_text(f'base = "base.toml"\ncontrol = "a"\npairs = "p.tsv"\nseeds = [1]\n{STRATEGIES}')
    found = freerun("study", "study.toml", "--out", "s")
    claim = (
        "p.tsv: 16 of its 16 sources (100.0 %) are training sources, and 4 of its 16 sources (25.0 %) are development "
        "sources, which chose each run's best model. Metrics on new sources may be worse."
    )
    assert found.code == 0 and f"Metrics on 16 sources of {claim}" in found.out.splitlines()
    assert f"warning: {claim}" in found.err.splitlines()
    reported = {"pairs": "p.tsv", "sources": 16, "training_sources": 16, "development_sources": 4}
    assert json.loads(Path("s/analysis.json").read_text())["reported_on"] == reported
    page = Path("s/report.html").read_text().replace("&#39;", "'")
    assert claim in page and "no run was" not in found.out + page
    as_json = freerun("study", "study.toml", "--out", "s", "--json")
    assert json.loads(as_json.out)["reported_on"] == reported


# -- case 19: BLEU of short outputs -----------------------------------------------------------------------------------


def test_bleu_of_outputs_under_four_tokens_is_undefined(freerun, here, trained):
    Path("short.tsv").write_text("ab\tA B\nabc\tA B C\n")
    metrics = json.loads(freerun("evaluate", trained / "run", "short.tsv", "--json").out)
    assert all(metrics[name] is None for name in ("bleu.free", "bleu.free.low", "bleu.free.high"))
    assert metrics["chrf.free"] is not None
    text = freerun("evaluate", trained / "run", "short.tsv").out
    assert "undefined to" not in freerun("evaluate", trained / "run", "short.tsv", "--by-length").out
    assert line_with("BLEU    ", text).split() == [
        "BLEU",
        "its",
        "own",
        "predictions",
        "undefined",
        "undefined",
        "undefined",
    ]
    assert "BLEU is undefined because no output and no reference has four tokens; see chrF." in text
    compared = json.loads(freerun("compare", trained / "run", trained / "run", "short.tsv", "--json").out)
    assert compared["bleu.free"] == dict.fromkeys(("a", "b", "difference", "low", "high", "p_value"))
    table = freerun("compare", trained / "run", trained / "run", "short.tsv").out
    assert line_with("bleu.free", table).split()[1:4] == ["undefined"] * 3
    long = freerun("evaluate", trained / "run", trained / "dev.tsv")
    assert "BLEU is undefined" not in long.out


def test_bleu_of_longer_outputs_is_sacrebleus(freerun, here, trained):
    metrics = json.loads(freerun("evaluate", trained / "run", trained / "dev.tsv", "--json").out)
    pairs = [line.split("\t") for line in (trained / "dev.tsv").read_text().splitlines()]
    sources = list(dict.fromkeys(source for source, _ in pairs))
    references = [dict(pairs)[source] for source in sources]
    outputs = freerun("predict", trained / "run", *sources).out.splitlines()
    expected = sacrebleu.corpus_bleu(outputs, [references], tokenize="none", force=True).score
    assert metrics["bleu.free"] == pytest.approx(expected) and not math.isnan(expected)


# -- parallel files ---------------------------------------------------------------------------------------------------


def test_two_files_are_source_and_target(freerun, here):
    assert freerun("train", "s.src", "s.tgt", "--dev", "s.src", "--dev", "s.tgt", *SMALL).code == 0
    data = read_toml(Path("runs/s/config.toml"))["data"]
    assert data["train"] == data["dev"] == {"source": f"{here}/s.src", "target": f"{here}/s.tgt"}
    assert freerun("train", "p.tsv", "--dev", "p.tsv", "--out", "one", *SMALL).code == 0
    weights = [Path(run, "best", "model.safetensors").read_bytes() for run in ("runs/s", "one")]
    assert weights[0] == weights[1]
    again = freerun("train", "s.src", "s.tgt", "--dev", "s.src", "--dev", "s.tgt", "--resume", *SMALL)
    assert again.code == 0 and "this run is complete" in again.err
    swapped = freerun("train", "s.tgt", "s.src", "--out", "runs/s", "--resume")
    assert swapped.code == 2 and "data.train.source was" in swapped.err
    dev = freerun("train", "--dev", "s.tgt", "--dev", "s.tgt", "--out", "runs/s", "--resume")
    assert dev.code == 2 and "data.dev.source was" in dev.err


def test_commands_read_two_files_as_one_file_of_pairs(freerun, here, trained):
    run, lines = trained / "run", (trained / "dev.tsv").read_text().splitlines()
    for side, name in enumerate(("d.src", "d.tgt")):
        Path(name).write_text("".join(line.split("\t")[side] + "\n" for line in lines))
    for command, more in {"evaluate": [], "score": [], "compare": [run], "diagnose": []}.items():
        found = freerun(command, run, *more, "d.src", "d.tgt", "--json")
        assert found.code == 0, found.err
        assert found.out == freerun(command, run, *more, trained / "dev.tsv", "--json").out


def test_a_configuration_among_two_files_is_an_error(freerun, here):
    Path("c.toml").write_text("")
    for files in (["s.src", "c.toml"], ["c.toml", "s.tgt"]):
        found = freerun("train", *files, "--out", "q")
        assert found.code == 2
        assert found.err == (
            "error: freerun train: the configuration c.toml among two files. Expected a configuration alone, or two "
            "parallel files: source and target. Name the configuration alone; it names its data in data.train and "
            "data.dev.\n"
        )


def test_two_files_of_pairs_are_told_from_parallel_files(freerun, here):
    found = freerun("train", "p.tsv", "t.tsv", "--out", "q")
    assert found.code == 2 and "if this file holds pairs (source<TAB>target), give it alone" in found.err
    found = freerun("train", "s.src", "s.tgt", "--dev", "p.tsv", "--out", "q")
    assert found.code == 2 and "--set data.dev=p.tsv" in found.err
    # and that advice can be followed
    assert freerun("train", "s.src", "s.tgt", "--set", "data.dev=p.tsv", "--out", "q", *SMALL).code == 0
    assert freerun("score", "q").code == 2
