"""``freerun data prepare``: what it prints, what it refuses, and what is left when it is killed; damaged results."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import freerun
from freerun.cli import main
from freerun.commands import data as command
from freerun.data.manifest import read_manifest
from freerun.data.prepared import PreparedPairs, open_prepared
from freerun.errors import DataError
from freerun.lock import inner_lock, only_writer
from freerun.preparation import job
from tests.killed import leftovers
from tests.prepared_pairs import block_lines, write_rows

ROWS = [
    (
        "".join(chr(97 + (n * k) % 23) for k in range(1, 3 + n % 5)),
        " ".join(f"t{n * k % 9}" for k in range(1, 3 + n % 4)),
    )
    for n in range(1, 400)
]
SHORT = [
    *("training.updates=6", "training.batch_size=8", "training.threads=1", "training.precision=fp32"),
    *("training.checkpoint_every=500", "evaluation.every=0", "model.hidden_size=8", "model.embedding_size=8"),
    "model.num_layers=1",
]
DAMAGED = "Expected the file that freerun data prepare wrote. Copy the directory again, or prepare the pairs again."


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block_lines(monkeypatch, 50)
    write_rows(tmp_path / "pairs.tsv", ROWS)
    return tmp_path


@pytest.fixture
def out(pairs, capsys):
    """Prepared pairs of eight shards."""
    assert main(["data", "prepare", "pairs.tsv", "--out", "out"]) == 0
    capsys.readouterr()
    return pairs / "out"


@pytest.fixture
def refused(capsys):
    """Run a command that fails, and return its message."""

    def call(*arguments):
        assert main(list(arguments)) == 2
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        assert not printed.out
        return printed.err.splitlines()[-1].removeprefix("error: ")

    return call


def settings(*more):
    return [part for setting in [*SHORT, *more] for part in ("--set", setting)]


def content(folder):
    """The files of prepared data by name, and what is in them."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- what it prints ----------------------------------------------------------------------------------------------------


def test_the_summary_and_the_next_command(pairs, capsys):
    assert main(["data", "prepare", "pairs.tsv", "--out", "out"]) == 0
    printed = capsys.readouterr()
    counts = read_manifest(pairs / "out")[0].counts
    assert printed.out.splitlines() == [
        f"{counts.kept} of {counts.read} pairs kept; dropped: 0 with a long source, 0 with a long target.",
        (
            f"{counts.sources} distinct sources; {counts.source_tokens - counts.kept:,} source tokens (char), "
            f"{counts.target_tokens - counts.kept:,} target tokens (whitespace)."
        ),
        "8 shards, 0.0 MB.",
    ]
    assert "sources are held out for evaluation (chosen by a hash, the same in every run)." in printed.err
    assert printed.err.endswith("\n  freerun train out\n")
    assert main(["data", "prepare", "pairs.tsv", "--out", "out"]) == 0
    again = capsys.readouterr()
    assert again.out == printed.out
    assert "out: these pairs are prepared already.\n" in again.err


def test_a_configuration_names_the_pairs(pairs, capsys):
    config = (
        '[data]\ntrain = "pairs.tsv"\nsource_tokens = "char"\ntarget_tokens = "whitespace"\n[model]\ncell = "gru"\n'
    )
    (pairs / "inner").mkdir()
    (pairs / "inner" / "config.toml").write_text(config.replace("pairs.tsv", "../pairs.tsv"))
    assert main(["data", "prepare", "inner/config.toml", "--out", "out", "--set", "data.minimum_count=2"]) == 0
    data = read_manifest(pairs / "out")[0].data
    assert (data["minimum_count"], data["normalisation"], data["source_tokens"]) == (2, "NFC", "char")
    assert "train" not in data
    assert str(pairs) not in (pairs / "out" / "manifest.json").read_text()
    assert "unknown" not in capsys.readouterr().err


def test_a_configuration_names_the_model_whose_vocabularies_are_taken(pairs, capsys):
    assert main(["train", "pairs.tsv", "--out", "first", *settings()]) == 0
    text = '[data]\ntrain = "pairs.tsv"\n[training]\ninit = "first"\nupdates = 2\n'
    (pairs / "config.toml").write_text(text)
    assert main(["data", "prepare", "config.toml", "--out", "out"]) == 0
    assert capsys.readouterr().err.endswith(f"\n  freerun train out --init {pairs}/first\n")
    assert "init" in json.loads((pairs / "out" / "preparation.json").read_bytes())


def test_progress_and_time_left(pairs, capsys, monkeypatch):
    monkeypatch.setattr(command.PrepareProgress, "__init__", _eager(command.PrepareProgress.__init__))
    assert main(["data", "prepare", "pairs.tsv", "--out", "out", "--target-tokens", "whitespace"]) == 0
    shown = [line for line in capsys.readouterr().err.splitlines() if " pairs  " in line]
    for activity in ("reading", "encoding", "grouping"):
        assert any(re.fullmatch(rf"{activity}: \d+ pairs  \d+ %(  .* left)?", line) for line in shown), activity
    assert any(line.startswith("reading: 399 pairs  100 %") for line in shown)


def _eager(init):
    def changed(self):
        init(self)
        self._every = 0.0

    return changed


def test_several_processes_write_the_same_bytes(pairs, out, capsys):
    arguments = [sys.executable, "-c", _IN_SMALL_BLOCKS, "data", "prepare", "pairs.tsv", "--out", "two"]
    done = subprocess.run([*arguments, "--processes", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert content(pairs / "two") == content(out)


_IN_SMALL_BLOCKS = """
import sys
from freerun.preparation import blocks
blocks.MAX_BLOCK_LINES = 50
if __name__ == "__main__":
    from freerun.cli import main
    sys.exit(main(sys.argv[1:]))
"""


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.tsv"], "{here}/nothing.tsv: no such file. Expected a file that exists. Check the path."),
        (
            ["pairs.tsv", "--columns", "1,4"],
            (
                "{here}/pairs.tsv:1: 2 tab-separated columns, so there is no column 4. Expected at least 4, "
                "because columns "
                "1,4 were chosen. Choose other columns with --columns, or fix the line."
            ),
        ),
        (
            ["pairs.tsv", "--source-tokens", "words"],
            (
                'freerun data prepare: data.source_tokens: the value is "words". Expected "auto", "char", '
                '"whitespace" or '
                '"sentencepiece:N" with N subwords, for example "sentencepiece:8000", at most 1,000,000.'
            ),
        ),
        (
            ["pairs.tsv", "--set", "training.updates=3"],
            "freerun data prepare: training: unknown key. Expected one of: data. Remove it.",
        ),
        (
            ["config.toml", "pairs.tsv"],
            (
                "freerun data prepare: the configuration config.toml among 2 files. Expected a configuration "
                "alone, or files "
                "of pairs. Name the configuration alone; it names its data in data.train and data.dev."
            ),
        ),
        (
            ["pairs.tsv", "--set", "data.max_source_length=1"],
            (
                "{here}/pairs.tsv: all 378 pairs are too long (378 sources, 0 targets). Expected at most 1 "
                "source tokens and "
                "1000 target tokens. Raise the limits, or choose tokens that make shorter sequences."
            ),
        ),
        (
            ["pairs.tsv", "--set", "data.minimum_count=9999"],
            (
                "data.minimum_count: no target token occurs 9999 times. Expected at least one token in the target "
                "vocabulary. Set minimum_count = 1."
            ),
        ),
        (
            ["pairs.tsv", "--processes", "0"],
            (
                "freerun data prepare: Invalid value for '--processes': Input should be greater than or equal to "
                "1. See "
                "freerun data prepare --help."
            ),
        ),
    ],
)
def test_mistakes_are_explained_and_nothing_is_left(pairs, refused, arguments, message):
    (pairs / "config.toml").write_text("[data]\n")
    tokens = [] if "--source-tokens" in arguments else ["--source-tokens", "char", "--target-tokens", "whitespace"]
    found = refused("data", "prepare", *arguments, *tokens, "--out", "out")
    assert found == message.format(here=pairs)
    assert not (pairs / "out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"a\tb\tc\n", "3 tab-separated columns. Expected 2: source and target."),
        (b"\n", "the line is blank. Expected a source, a tab and a target. Remove the line."),
        (b"\xff\tb\n", "not UTF-8: byte 0xff at byte offset"),
        (b"a\0\tb\n", "a NUL byte at byte offset"),
    ],
)
def test_a_bad_line_far_down_is_named(pairs, refused, line, message):
    with (pairs / "pairs.tsv").open("ab") as file:
        file.write(line)
    tokens = ["--source-tokens", "char", "--target-tokens", "whitespace", "--set", "data.normalisation=NFC"]
    for more in ([], ["--processes", "2"]):
        assert refused("data", "prepare", "pairs.tsv", *tokens, *more, "--out", "out").startswith(
            f"{pairs / 'pairs.tsv'}:400: {message}"
        )
        assert not (pairs / "out").exists()


def test_parallel_files_of_different_lengths(pairs, refused):
    (pairs / "a.txt").write_text("a\n" * 120)
    (pairs / "b.txt").write_text("b\n" * 119)
    config = '[data]\ntrain = { source = "a.txt", target = "b.txt" }\nsource_tokens = "char"\ntarget_tokens = "char"\n'
    (pairs / "config.toml").write_text(config)
    message = refused("data", "prepare", "config.toml", "--dev", "pairs.tsv", "--out", "out")
    assert message.startswith(f"{pairs}/a.txt and {pairs}/b.txt: 120 lines and 119 lines.")


def test_a_directory_with_something_else(pairs, out, refused):
    assert refused("data", "prepare", "pairs.tsv", "--out", ".") == (
        ".: this directory is not empty: it holds out, pairs.tsv. Expected a new or empty directory. Choose "
        "another with "
        "--out."
    )
    same = "Expected the same pairs and settings, to continue. Choose another directory with --out, or remove this one."
    before = content(out)
    assert refused("data", "prepare", "pairs.tsv", "--out", "out", "--source-tokens", "whitespace") == (
        f'out: this directory has prepared pairs, but data.source_tokens was "char", and is "whitespace" now. {same}'
    )
    write_rows(pairs / "pairs.tsv", ROWS[:200])
    assert refused("data", "prepare", "pairs.tsv", "--out", "out") == (
        f"out: this directory has prepared pairs, but the pairs are others. {same}"
    )
    (out / "preparation.json").write_text("[]")
    assert "preparation.json was" in refused("data", "prepare", "pairs.tsv", "--out", "out")
    (out / "preparation.json").write_bytes(before["preparation.json"])
    assert content(out) == before


def test_what_looks_like_a_leftover_is_left_alone(pairs, refused):
    """A directory in which there is something else may be the user's own."""
    names = [".bashrc.old", ".notes.abcd1234.tmp", "text"]
    for name in names:
        (pairs / "home" / name).parent.mkdir(exist_ok=True)
        (pairs / "home" / name).write_text(name)
    assert "this directory is not empty" in refused("data", "prepare", "pairs.tsv", "--out", "home")
    assert sorted(path.name for path in (pairs / "home").iterdir()) == names


def test_a_file_that_cannot_be_read_halfway_costs_nothing(pairs, refused, monkeypatch, capsys):
    real, written = job.encode_block, []

    def fail(number, *arguments):
        if number == 5:
            raise DataError("pairs.tsv", "the file cannot be read: Input/output error")
        written.append(number)
        return real(number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(job, "encode_block", fail)
        assert "Input/output error" in refused("data", "prepare", "pairs.tsv", "--out", "out")
        assert written == [0, 1, 2, 3, 4]
    monkeypatch.setattr(job, "encode_block", lambda number, *rest: (written.append(number), real(number, *rest))[1])
    assert main(["data", "prepare", "pairs.tsv", "--out", "out"]) == 0
    assert written == list(range(8))
    capsys.readouterr()


def test_pairs_that_change_while_they_are_read(pairs, refused, monkeypatch):
    real = job.learn_codecs

    def change(*arguments):
        with (pairs / "pairs.tsv").open("a") as file:
            file.write("more\tt1\n")
        return real(*arguments)

    monkeypatch.setattr(job, "learn_codecs", change)
    assert refused("data", "prepare", "pairs.tsv", "--out", "out") == (
        f"{pairs}/pairs.tsv: the pairs changed while they were being prepared. Expected files that nothing else writes "
        "to. Run the command again when they are complete."
    )
    assert not (pairs / "out").exists()


@pytest.mark.parametrize("name", ["dev.tsv", "source_vocabulary.json", "scratch/counted.json", "scratch/shards.jsonl"])
def test_intermediate_files_that_have_changed_are_not_trusted(pairs, out, monkeypatch, capsys, name):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "group_sources", stop)
        assert main(["data", "prepare", "pairs.tsv", "--out", "again"]) == 130
    changed = pairs / "again" / name
    changed.write_bytes(changed.read_bytes()[:-9] + b"xx\n")
    assert main(["data", "prepare", "pairs.tsv", "--out", "again"]) == 0, capsys.readouterr().err
    assert content(pairs / "again") == content(out)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("shard-00001.npy", "flip"),
        ("groups.npy", "flip"),
        ("group_members.npy", "cut"),
        ("dev.tsv", "cut"),
        ("manifest.json", "cut"),
        ("target_vocabulary.json", "remove"),
    ],
)
def test_the_same_command_repairs_damage(pairs, out, capsys, name, change):
    before = content(out)
    {"flip": _flip, "cut": _cut, "remove": Path.unlink}[change](out / name)
    assert main(["data", "prepare", "pairs.tsv", "--out", "out"]) == 0
    assert "The pairs are prepared again." in capsys.readouterr().err
    assert content(out) == before


@pytest.mark.slow
def test_few_open_files(pairs, out):
    """A process may open fewer files than there are shards, while it prepares and while it trains."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60)){_IN_SMALL_BLOCKS}"
    limited = limited.replace("MAX_BLOCK_LINES = 50", "MAX_BLOCK_LINES = 4")
    arguments = [["data", "prepare", "pairs.tsv", "--out", "small"], ["train", "small", "--out", "run", *settings()]]
    for each in arguments:
        done = subprocess.run([sys.executable, "-c", limited, *each], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(list((pairs / "small").glob("shard-*"))) == 100
    assert read_manifest(pairs / "small")[0].tokens_sha256 == read_manifest(out)[0].tokens_sha256


def test_too_few_open_files_are_not_called_damage(out, refused, monkeypatch):
    def fail(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("mmap.mmap", fail)
    assert refused("train", "out", "--out", "run", *settings()).endswith(
        "this process may not open more files. Expected as many as a window has shards, and some hundred more. Raise "
        "the limit (ulimit -n), or lower data.window."
    )


def test_two_preparations_into_one_directory(pairs, out, refused):
    before = content(out)
    with only_writer(inner_lock(out)):
        assert re.fullmatch(
            r"out: process \d+ on .* is writing here\. Expected one writer at a time\. Wait until that process "
            r"ends, stop "
            r"it, or choose another directory\.",
            refused("data", "prepare", "pairs.tsv", "--out", "out"),
        )
    assert content(out) == before


def test_a_disk_that_fills_up(pairs, refused, monkeypatch, capsys):
    """What is finished is kept, and the same command continues with it."""
    written = []
    real = job.encode_block

    def full(number, *arguments):
        if number == 5:
            raise OSError(28, "No space left on device")
        written.append(number)
        return real(number, *arguments)

    monkeypatch.setattr(job, "encode_block", full)
    assert refused("data", "prepare", "pairs.tsv", "--out", "out") == (
        "out: the prepared pairs could not be written (No space left on device); what is finished is kept. Expected "
        "enough disk space and permission to write. Free disk space, and run the same command again, which continues."
    )
    assert refused("train", "out", *settings()) == (
        f"{pairs}/out: the preparation of these pairs is not complete. Expected a manifest.json. Run the same freerun "
        "data prepare command again, which continues it."
    )
    monkeypatch.setattr(job, "encode_block", lambda number, *rest: (written.append(number), real(number, *rest))[1])
    assert main(["data", "prepare", "pairs.tsv", "--out", "out"]) == 0
    assert written == [0, 1, 2, 3, 4, 5, 6, 7]
    assert main(["data", "prepare", "pairs.tsv", "--out", "whole"]) == 0
    assert content(pairs / "out") == content(pairs / "whole")
    capsys.readouterr()


def test_a_shard_without_its_file_is_written_again(pairs, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "group_sources", stop)
        assert main(["data", "prepare", "pairs.tsv", "--out", "out"]) == 130
    assert "Run the same command again to continue.\n" in capsys.readouterr().err
    (pairs / "out" / "shard-00002.npy").unlink()
    with (pairs / "out" / "scratch" / "shards.jsonl").open("a") as journal:
        journal.write('{"number": 8, "sha')  # cut off by a kill
    assert main(["data", "prepare", "pairs.tsv", "--out", "out"]) == 0
    assert main(["data", "prepare", "pairs.tsv", "--out", "whole"]) == 0
    assert content(pairs / "out") == content(pairs / "whole")


def test_a_killed_worker_is_reported(pairs, refused, monkeypatch):
    monkeypatch.setattr(job, "count_block", _kill_this_process)
    assert refused("data", "prepare", "pairs.tsv", "--out", "out", "--processes", "2") == (
        "freerun data prepare: one of its processes was killed, perhaps for lack of memory. Expected all of them to "
        "finish. Run the same command again, which continues; fewer --processes need less memory."
    )


def _kill_this_process(*_):
    os.kill(os.getpid(), signal.SIGKILL)


# -- damaged results ---------------------------------------------------------------------------------------------------


def _cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("shard-00003.npy", _cut, "this file is damaged: it has {less} bytes, and had {size} when it was written."),
        (
            "shard-00003.npy",
            _flip,
            "this file is damaged: its content has changed since it was written (another SHA-256).",
        ),
        ("shard-00003.npy", Path.unlink, "this file is damaged: it cannot be read (No such file or directory)."),
        ("dev.tsv", _cut, "this file is damaged: its content has changed since it was written (another SHA-256)."),
        (
            "target_vocabulary.json",
            _flip,
            "this file is damaged: its content has changed since it was written (another",
        ),
        ("source_vocabulary.json", Path.unlink, "this file is damaged: it cannot be read (No such file or directory)."),
    ],
)
def test_damaged_files_are_rejected(pairs, out, refused, name, change, message):
    size = (out / name).stat().st_size
    change(out / name)
    found = refused("train", "out", "--out", "run", *settings())
    assert found.startswith(f"{out / name}: {message.format(less=f'{size - 3:,}', size=f'{size:,}')}")
    assert found.endswith(DAMAGED)
    assert not (pairs / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: values.update(version=2),
            (
                "version 2 of prepared data is too new. Expected at most version 1, which this freerun reads. "
                "Update freerun, "
                "or prepare the pairs again."
            ),
        ),
        (lambda values: values.update(format="x"), "damaged: this is not the manifest of freerun prepared data."),
        (lambda values: values.update(more=1), "damaged: more is 1."),
        (lambda values: values["counts"].update(kept=-1), "damaged: counts.kept is -1."),
        (lambda values: values["counts"].update(kept=5), "the manifest's shards do not have the pairs that it counts."),
        (lambda values: values["shards"].clear(), "damaged: shards is []."),
        (lambda values: values["data"].update(minimum_count="x"), 'damaged: data: minimum_count: the value is "x".'),
        (lambda values: values["data"].update(more=1), "damaged: data: more: unknown key."),
        (lambda values: values["data"].update(dev="/etc/passwd"), 'damaged: data has the key "dev".'),
        (lambda values: values["codecs"].pop("source"), "damaged: codecs.source is"),
        (lambda values: values["codecs"]["target"].pop("tokens"), "damaged: codecs.target.tokens is"),
        (lambda values: values["codecs"]["target"].update(tokens="words"), 'damaged: codecs.target.tokens is "words".'),
        (lambda values: values["shards"][0].update(sha256="x"), 'damaged: shards.0.sha256 is "x".'),
        (lambda values: values["files"].update({"../x.json": "0" * 64}), "damaged: files."),
    ],
)
def test_damaged_manifests_are_rejected(out, refused, change, message):
    values = json.loads((out / "manifest.json").read_bytes())
    change(values)
    (out / "manifest.json").write_text(json.dumps(values))
    assert message in refused("train", "out", "--out", "run", *settings())


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 1000, b"null", b'{"format": NaN}'])
def test_a_manifest_that_is_no_json_object(out, refused, text):
    (out / "manifest.json").write_bytes(text)
    message = refused("train", "out", "--out", "run", *settings())
    assert message.startswith(f"{out}/manifest.json: damaged: ")
    assert message.endswith("Expected the manifest that freerun data prepare wrote. Prepare the pairs again.")


def test_damage_in_a_later_window_stops_training_with_a_checkpoint(pairs, out, refused, capsys):
    """It is noticed before anything in the shard is trained on."""
    arguments = ["train", "out", "--out", "run", *settings("data.window=50", "training.updates=60")]
    assert main(["train", "out", "--out", "whole", *arguments[4:]]) == 0
    prepared = open_prepared(out)
    later = PreparedPairs(prepared, *prepared.codecs(reverse_source=False), 50).window(1, 0, 5)
    shard = out / f"shard-{next(n for n, first in enumerate(_firsts(prepared)) if first == later.pairs[0]):05d}.npy"
    _flip(shard)
    capsys.readouterr()
    message = refused(*arguments)
    assert message.startswith(f"{shard}: this file is damaged: ")
    events = [json.loads(line) for line in (pairs / "run" / "journal.jsonl").read_text().splitlines()]
    assert (events[-1]["event"], events[-1]["reason"]) == ("stop", "data")
    _flip(shard)
    assert main([*arguments, "--resume"]) == 0
    weights = [(pairs / name / "last" / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]
    capsys.readouterr()


def _firsts(prepared):
    """The number of each shard's first pair."""
    return np.cumsum([0, *(entry.pairs for entry in prepared.manifest.shards)]).tolist()


def test_damaged_groups_are_rejected_when_they_are_needed(out, refused, capsys):
    _flip(out / "groups.npy")
    assert main(["train", "out", "--out", "run", *settings()]) == 0
    capsys.readouterr()
    message = refused("train", "out", "--out", "risk", *settings("forcing.strategy=minimum_risk"))
    assert message.startswith(f"{out}/groups.npy: this file is damaged: its content has changed")


# -- training on the result --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "data.source_tokens=whitespace", "--set", "data.minimum_count=3"],
            (
                "freerun train: the configuration contradicts the prepared pairs in {out}: data.source_tokens is "
                '"whitespace" '
                'here and "char" there; data.minimum_count is 3 here and 1 there. Expected the settings that the '
                "pairs were "
                "prepared with. Leave these keys out, or prepare the pairs again with these settings, into "
                "another directory."
            ),
        ),
        (["--columns", "2,1"], "data.columns is [2, 1] here and not set there."),
    ],
)
def test_other_settings_than_the_preparation(out, refused, arguments, message):
    assert message.format(out=out) in refused("train", "out", "--out", "run", *arguments)


def test_settings_with_the_same_meaning_do_not_contradict(out, capsys):
    same = ["--columns", "1,2", "--set", 'data.normalisation={source="NFC", target="NFC"}']
    assert main(["train", "out", "--out", "run", *same, *settings()]) == 0, capsys.readouterr().err


def test_a_window_of_pairs_that_are_not_prepared(pairs, refused):
    assert refused("train", "pairs.tsv", "--out", "run", "--set", "data.window=100") == (
        f"data.window: the value is 100, but {pairs}/pairs.tsv is not a directory of prepared pairs. Expected no "
        f"window: "
        "pairs from files are shuffled all together. Remove the key, or prepare the pairs with: freerun data prepare."
    )


def test_a_window_of_pairs_that_are_missing(pairs, refused):
    message = "no such file. Expected a file that exists. Check the path."
    assert refused("train", "gone", "--set", "data.window=100") == f"{pairs}/gone: {message}"


def test_a_window_is_left_to_trainings(pairs, capsys):
    assert main(["data", "prepare", "pairs.tsv", "--out", "out", "--set", "data.window=100"]) == 0
    assert "window" not in read_manifest(pairs / "out")[0].data
    capsys.readouterr()


def test_prepared_pairs_are_not_prepared_again(pairs, out, refused):
    assert refused("data", "prepare", "out", "--out", "again") == (
        f"{out}: these pairs are prepared already. Expected files of pairs. Train on them: freerun train {out}."
    )


def test_training_from_python(out):
    result = freerun.train("out", out="run", settings=SHORT)
    assert result.model.predict("bcd").text
    freerun.evaluate("run")


def test_a_directory_that_is_not_prepared(pairs, refused):
    (pairs / "empty").mkdir()
    message = "this is a directory. Expected a file. Name a file in the directory."
    assert refused("train", "empty", *settings()) == f"{pairs}/empty: {message}"


def test_a_run_knows_its_prepared_pairs_by_the_manifest(pairs, out, refused, capsys):
    config = "[data]\ntrain = 'out'\nwindow = 100\n[training]\nupdates = 6\n"
    (pairs / "config.toml").write_text(config)
    arguments = ["train", "config.toml", "--out", "run", *settings()]
    assert main(arguments) == 0
    assert main([*arguments, "--resume"]) == 0
    assert "run: this run is complete" in capsys.readouterr().err
    longer = [*arguments, "--resume", "--set", "training.updates=9"]
    assert "data.window was 100, now 200" in refused(*longer, "--set", "data.window=200")
    manifest = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(manifest + "\n")
    assert "the training pairs (SHA-256 was " in refused(*longer)
    (out / "manifest.json").write_text(manifest)
    shutil.move(out, pairs / "elsewhere")
    (pairs / "config.toml").write_text(config.replace("'out'", "'elsewhere'"))
    assert "data.train was " in refused(*longer)
    shutil.move(pairs / "elsewhere", out)
    (pairs / "config.toml").write_text(config)
    assert main(longer) == 0
    assert main(["evaluate", "run"]) == 0


def test_resuming_reads_no_shard_but_those_of_the_window(pairs, out, monkeypatch, capsys):
    from freerun.data import prepared

    arguments = ["train", "out", "--out", "run", *settings("data.window=50", "training.updates=3")]
    assert main(arguments) == 0
    opened = []
    real = prepared.open_shard
    monkeypatch.setattr(
        prepared, "open_shard", lambda path, *rest, **more: (opened.append(path.name), real(path, *rest, **more))[1]
    )
    assert main([*arguments, "--resume", "--set", "training.updates=4"]) == 0
    assert 1 <= len(set(opened)) <= 2  # that of the first window, by which the batches per epoch are estimated, too
    capsys.readouterr()


@pytest.mark.slow
def test_several_trainings_compare_a_study(pairs, out, capsys):
    (pairs / "base.toml").write_text(
        "[data]\ntrain = 'out'\n[model]\nhidden_size = 8\nembedding_size = 8\nnum_layers = 1\n"
        "[training]\nupdates = 4\nbatch_size = 8\nthreads = 1\nprecision = 'fp32'\n[evaluation]\nevery = 0\n"
    )
    (pairs / "study.toml").write_text(
        "base = 'base.toml'\ncontrol = 'a'\nseeds = [1]\n[strategies.a]\nstrategy = 'teacher'\n"
        "[strategies.b]\nstrategy = 'free_running'\n"
    )
    assert main(["study", "study.toml", "--out", "studied"]) == 0, capsys.readouterr().err
    capsys.readouterr()


@pytest.mark.slow
def test_two_processes_share_the_updates_of_windows(pairs, out):
    """As one process with two batches per update, to the byte."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    common = settings("data.window=120", "training.updates=40")
    for name, more in (("one", ["--set", "training.accumulate=2"]), ("two", ["--processes", "2"])):
        arguments = [sys.executable, "-m", "freerun", "train", "out", "--out", name, *common, *more]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    weights = [(pairs / name / "best" / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


# -- kills -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kills_at_random_moments_lead_to_the_same_bytes(pairs, out, capsys):
    """Fifty kills, of the whole command in one process or two, at moments from its start to its end."""
    choose = random.Random(20)
    before, kills = content(out), 0
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    while kills < 50:
        folder = pairs / f"killed-{kills}"
        processes = choose.choice(["1", "2"])
        arguments = ["data", "prepare", "pairs.tsv", "--out", str(folder), "--processes", processes]
        for attempt in range(20):
            process = subprocess.Popen(
                [sys.executable, "-c", _IN_SMALL_BLOCKS, *arguments],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
                stdout=subprocess.DEVNULL,
            )
            try:
                _, errors = process.communicate(timeout=choose.uniform(0.2, 2.5) if attempt < 3 else 60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
                continue
            assert process.returncode == 0, errors
            break
        assert content(folder) == before
        assert not leftovers(folder)
        shutil.rmtree(folder)
    time.sleep(1.0)
    assert not _workers(), "no process outlives the one that started it"


def _workers():
    """The processes that a preparation started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--multiprocessing-fork" in words or any(b"spawn_main" in word for word in words):
            found.append(words)
    return found
