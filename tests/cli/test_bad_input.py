"""Every mistake a user can make with files: exit code 2, a message with its values, and nothing lost."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Freerun
from tests.networks import CELLS, one_of

ROW = "abc\tA B C\n"


def train(freerun: Freerun, folder: Path, *arguments: object) -> str:
    """Train on what is in ``folder``, see it refused without a trace, and return the message."""
    result = freerun("train", folder / "config.toml", "--out", folder / "run", *arguments)
    assert result.code == 2, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert not (folder / "run").exists()
    return result.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "train.tsv: the file is empty and has no pairs."),
        (b"abc\n", "train.tsv:1: 1 tab-separated column. Expected 2: source and target."),
        (
            f"{ROW}a\tA\tB\n".encode(),
            "train.tsv:2: 3 tab-separated columns. Expected 2: source and target. Remove the extra tab",
        ),
        (
            "".join(f"w{n}\tA B\tid{n}\n" for n in range(40)).encode(),
            "train.tsv: 3 tab-separated columns, and column 3 does not look like features: it has 40 different values",
        ),
        (
            "".join(f"w{n}\tV;P{n % 3}\tform{n}\n" for n in range(40)).encode(),
            "train.tsv: column 2 of 3 looks like features, and column 3 does not: it has 40 different values",
        ),
        (f"{ROW}\n{ROW}".encode(), "train.tsv:2: "),
        (ROW.encode() + b"ab\xffc\tA\n", "train.tsv:2: not UTF-8: byte 0xff at byte offset 12"),
        (ROW.encode() + b"a\0b\tA\n", "train.tsv:2: "),
        (ROW.encode() + b"a" * 10_000_000 + b"\tA\n", "train.tsv:2: "),
    ],
    ids=["empty", "one column", "three columns", "ids", "other order", "blank line", "not UTF-8", "NUL", "10 MB line"],
)
def test_bad_pairs(freerun: Freerun, pairs: Path, content: bytes, message: str) -> None:
    (pairs / "train.tsv").write_bytes(content)
    assert message in train(freerun, pairs)


def test_the_messages_about_bytes_name_what_they_saw(freerun: Freerun, pairs: Path) -> None:
    (pairs / "train.tsv").write_bytes(ROW.encode() + b"a\0b\tA\n")
    assert "NUL" in train(freerun, pairs)
    (pairs / "train.tsv").write_bytes(ROW.encode() + b"a" * 10_000_000 + b"\tA\n")
    assert "1,000,000 bytes" in train(freerun, pairs)


def test_files_that_are_not_there(freerun: Freerun, pairs: Path) -> None:
    (pairs / "train.tsv").unlink()
    assert f"{pairs / 'train.tsv'}: no such file" in train(freerun, pairs)
    (pairs / "train.tsv").mkdir()
    assert f"{pairs / 'train.tsv'}: this is a directory" in train(freerun, pairs)


def test_a_development_file_that_does_not_exist(freerun: Freerun, pairs: Path) -> None:
    (pairs / "dev.tsv").unlink()
    assert f"{pairs / 'dev.tsv'}: no such file" in train(freerun, pairs)


def test_a_configuration_that_does_not_exist(freerun: Freerun, pairs: Path) -> None:
    (pairs / "config.toml").unlink()
    assert f"{pairs / 'config.toml'}: no such file" in train(freerun, pairs)


def test_a_configuration_that_is_not_toml(freerun: Freerun, pairs: Path) -> None:
    (pairs / "config.toml").write_text("[data\n")
    assert (
        "config.toml: this is not TOML: Expected ']' at the end of a table declaration (at line 1, column 6)"
        in train(freerun, pairs)
    )


def test_a_truncated_gzip_file(freerun: Freerun, pairs: Path) -> None:
    whole = gzip.compress((pairs / "train.tsv").read_bytes())
    (pairs / "train.tsv.gz").write_bytes(whole[: len(whole) // 2])
    err = train(freerun, pairs, "--set", f"data.train={pairs / 'train.tsv.gz'}")
    assert "train.tsv.gz: the compressed file is truncated" in err


def test_parallel_files_of_different_lengths(freerun: Freerun, pairs: Path) -> None:
    (pairs / "a").write_text("x\ny\nz\n")
    (pairs / "b").write_text("X\nY\n")
    sides = f'data.train={{source="{pairs / "a"}", target="{pairs / "b"}"}}'
    err = train(freerun, pairs, "--set", sides)
    assert "3 lines" in err and "2" in err


def test_all_mistakes_in_a_configuration_at_once(freerun: Freerun, pairs: Path) -> None:
    settings = [
        "model.hiden_size=8",
        "model.num_layers=0",
        "training.batch_size=-1",
        "model.cell=lsmt",
        "training.seed=x",
    ]
    err = train(freerun, pairs, *(part for setting in settings for part in ("--set", setting)))
    assert "model.hiden_size" in err and "'hidden_size'" in err
    assert "model.num_layers=0: the value is 0. Expected a whole number from 1 to 1,000." in err
    assert "training.batch_size=-1: the value is -1. Expected a whole number from 1 to 1,000,000." in err
    assert f'model.cell=lsmt: the value is "lsmt". Expected {one_of(CELLS)}' in err
    assert 'training.seed=x: the value is "x". Expected a whole number' in err
    assert err.count("\n") == 5


def test_an_unknown_strategy(freerun: Freerun, pairs: Path) -> None:
    err = train(freerun, pairs, "--set", "forcing.strategy=techer")
    assert "unknown strategy 'techer'" in err and "'teacher'" in err


def test_a_size_larger_than_sentencepiece_can_make(freerun: Freerun, pairs: Path) -> None:
    err = train(freerun, pairs, "--set", "data.target_tokens=sentencepiece:5000")
    assert "5000" in err or "5,000" in err


def test_a_run_folder_in_use(freerun: Freerun, trained: Path) -> None:
    before = (trained / "run" / "journal.jsonl").read_bytes()
    result = freerun("train", trained / "config.toml", "--out", trained / "run")
    assert result.code == 2
    assert "holds another run" in result.err and "--resume" in result.err
    assert (trained / "run" / "journal.jsonl").read_bytes() == before


def test_a_folder_with_other_files(freerun: Freerun, pairs: Path) -> None:
    (pairs / "other").mkdir()
    (pairs / "other" / "letter.txt").write_text("dear")
    result = freerun("train", pairs / "config.toml", "--out", pairs / "other")
    assert result.code == 2
    assert "other: " in result.err and "Expected a new or empty directory" in result.err
    assert [path.name for path in (pairs / "other").iterdir()] == ["letter.txt"]


def test_resuming_with_a_changed_configuration_names_the_keys(freerun: Freerun, trained: Path) -> None:
    settings = ("--set", "model.hidden_size=32", "--set", "training.seed=9")
    result = freerun("train", trained / "config.toml", "--out", trained / "run", "--resume", *settings)
    assert result.code == 2
    assert "model.hidden_size was 24, now 32" in result.err
    assert "training.seed was 1, now 9" in result.err


def test_resuming_with_changed_data(freerun: Freerun, pairs: Path) -> None:
    command = ("train", pairs / "config.toml", "--out", pairs / "run", "--resume")
    assert freerun(*command, "--set", "training.updates=2").code == 0
    journal = (pairs / "run" / "journal.jsonl").read_text().splitlines()
    (pairs / "run" / "journal.jsonl").write_text("\n".join(journal[:-1]) + "\n")  # as if killed before its end
    with (pairs / "train.tsv").open("a") as file:
        file.write(ROW)
    result = freerun(*command, "--set", "training.updates=2")
    assert result.code == 2
    assert "the data of this run has changed" in result.err


Damage = Callable[[Path], object]


def _edit(name: str, change: Callable[[dict[str, object]], object]) -> Damage:
    def damage(bundle: Path) -> None:
        value = json.loads((bundle / name).read_text())
        change(value)
        (bundle / name).write_text(json.dumps(value))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: (b / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda b: (b / "target_vocabulary.json").unlink(), "target_vocabulary.json is missing"),
        (lambda b: (b / "config.json").unlink(), "no config.json"),
        (lambda b: os.truncate(b / "model.safetensors", 1000), "model.safetensors: the SHA-256"),
        (lambda b: os.truncate(b / "config.json", 100), "config.json: damaged: not JSON"),
        (
            lambda b: (b / "source_vocabulary.json").write_text('{"version": 1, "tokens": ["a"]}'),
            "source_vocabulary.json: the SHA-256",
        ),
        (_edit("config.json", lambda c: c.update(version=99)), "has version 99. Expected 1"),
        (_edit("config.json", lambda c: c.update(format="other")), "not the config.json of a freerun bundle"),
        (_edit("config.json", lambda c: c.pop("length_bound")), "config.json: damaged"),
        (shutil.rmtree, "no such directory"),
    ],
    ids=[
        "weights gone",
        "vocabulary gone",
        "config gone",
        "weights cut",
        "config cut",
        "foreign",
        "newer",
        "other",
        "hole",
        "none",
    ],
)
def test_a_damaged_bundle(freerun: Freerun, trained: Path, tmp_path: Path, damage: Damage, message: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(trained / "run" / "best", bundle)
    damage(bundle)
    result = freerun("predict", bundle, "abc")
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_a_full_disk_while_writing_a_checkpoint_keeps_the_last_good_one(
    freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from freerun.training import checkpoint

    real = checkpoint.write_atomic

    def full(path: Path, data: bytes | str) -> None:
        if "update-00000030" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    result = freerun("train", pairs / "config.toml", "--out", pairs / "run")
    assert result.code == 2
    assert "No space left on device" in result.err
    assert "update 20 is unchanged" in result.err
    monkeypatch.undo()
    resumed = freerun("train", pairs / "config.toml", "--out", pairs / "run", "--resume")
    assert resumed.code == 0
    assert "Resuming from update 20" in resumed.err


@pytest.mark.parametrize("command", [("train", "config.toml", "--out"), ("inspect",)], ids=lambda command: command[0])
def test_a_name_that_is_too_long(
    freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(pairs)
    result = freerun(*command, "x" * 300)
    assert result.code == 2
    assert result.err.startswith(f"error: {'x' * 300}") and "File name too long" in result.err


def test_evaluating_on_pairs_with_three_columns(freerun: Freerun, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("a\tA\tB\n")
    result = freerun("evaluate", trained / "run", tmp_path / "x.tsv")
    assert result.code == 2
    assert "x.tsv:1: 3 tab-separated columns" in result.err
