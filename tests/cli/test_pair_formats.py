"""The commands on lists of files, and on compressed, Parquet and Arrow files."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

import freerun as package
from freerun.config import read_toml
from tests.cli.conftest import Freerun

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ONE = ("--set", "training.updates=3")


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def as_parquet(path: Path, names: tuple[str, ...] = ("source", "target", "features")) -> Path:
    columns = zip(names, zip(*rows(path), strict=True), strict=False)
    pa.parquet.write_table(pa.table(dict(columns)), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def weights(run: Path) -> bytes:
    return (run / "best" / "model.safetensors").read_bytes()


@pytest.fixture
def parts(pairs: Path) -> Path:
    """The directory of ``pairs``; the training pairs are also in parts of several formats, in alphabetical order."""
    lines = (pairs / "train.tsv").read_text().splitlines(keepends=True)
    (pairs / "parts").mkdir()
    (pairs / "parts" / "1.tsv").write_text("".join(lines[:20]))
    (pairs / "parts" / "2.tsv.gz").write_bytes(gzip.compress("".join(lines[20:40]).encode()))
    (pairs / "parts" / "3.tsv.zst").write_bytes(zstd.compress("".join(lines[40:60]).encode()))
    objects = [dict(zip(("source", "target"), line.strip("\n").split("\t"), strict=True)) for line in lines[60:80]]
    (pairs / "parts" / "4.jsonl").write_text("".join(json.dumps(each) + "\n" for each in objects))
    (pairs / "parts" / "5.tsv").write_text("".join(lines[80:]))
    as_parquet(pairs / "parts" / "5.tsv")
    (pairs / "parts" / "5.tsv").unlink()
    return pairs


def test_a_list_trains_what_one_file_does(freerun: Freerun, parts: Path) -> None:
    config = (parts / "config.toml").read_text()
    (parts / "list.toml").write_text(config.replace('"train.tsv"', '["parts/1.tsv", "parts/[2-5].*"]'))
    assert freerun("train", parts / "config.toml", "--out", parts / "one", *ONE).code == 0
    result = freerun("train", parts / "list.toml", "--out", parts / "run", *ONE)
    assert result.code == 0
    assert weights(parts / "run") == weights(parts / "one")
    assert read_toml(parts / "run" / "config.toml")["data"]["train"] == [
        str(parts / "parts" / "1.tsv"),
        str(parts / "parts" / "[2-5].*"),
    ]
    # resumed from its own configuration, and with the same command
    for again in (
        ("--resume", "--out", parts / "run"),
        (parts / "list.toml", "--resume", "--out", parts / "run", *ONE),
    ):
        assert "complete" in freerun("train", *again).err
    # another file that matches is other data
    shutil.copy(parts / "dev.tsv", parts / "parts" / "3.more.tsv")
    result = freerun("train", "--resume", "--out", parts / "run", "--set", "training.updates=4")
    assert result.code == 2
    assert "the data of this run has changed since it was started: the training pairs" in result.err


def test_development_pairs_may_be_a_list(freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pairs)
    lines = (pairs / "dev.tsv").read_text().splitlines(keepends=True)
    for name, part in (("dev1.tsv", lines[:10]), ("dev2.tsv", lines[10:])):
        Path(name).write_text("".join(part))
    dev = 'data.dev=["dev?.tsv"]'
    result = freerun("train", "config.toml", "--out", "run", *ONE, "--set", dev)
    assert result.code == 0
    assert "  freerun evaluate run\n" in result.err
    assert read_toml(Path("run/config.toml"))["data"]["dev"] == [str(pairs / "dev?.tsv")]
    assert freerun("evaluate", "run", "--json").out == freerun("evaluate", "run", "dev.tsv", "--json").out
    assert freerun("diagnose", "run", "--json").code == 0


def test_every_file_of_a_list_may_have_a_header(freerun: Freerun, pairs: Path) -> None:
    lines = (pairs / "train.tsv").read_text()
    (pairs / "one.tsv").write_text("source\ttarget\n" + lines)
    (pairs / "two.tsv").write_text("lemma\tform\n" + lines)
    result = freerun(
        *("train", pairs / "config.toml", "--out", pairs / "run", *ONE),
        *("--set", f'data.train=["{pairs / "one.tsv"}", "{pairs / "two.tsv"}"]'),
    )
    assert result.code == 0
    for name in ("one", "two"):
        assert f"{pairs / f'{name}.tsv'}: the first line looks like a header" in result.err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('["none/*.tsv"]', "none/*.tsv: no file matches this pattern. Expected at least one file of pairs."),
        ('["train.tsv", "tr*.tsv"]', "train.tsv: this file is named by "),
        ('["train.tsv", "/dev/stdin"]', "this is a pipe, or an open file of one process, in a list of files."),
        ('["train.tsv", "wide.tsv"]', "wide.tsv: 3 columns, and "),
        ("[]", "--set data.train=[]: the value is []. Expected a path, { source"),
        ('["train.tsv", "gone.tsv"]', "gone.tsv: no such file."),
    ],
)
def test_lists_that_cannot_be_read(
    freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.chdir(pairs)
    Path("wide.tsv").write_text("a\tb\tc\n")
    result = freerun("train", "config.toml", "--out", "run", "--set", f"data.train={value}")
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err
    assert not Path("run", "config.toml").exists()


@pytest.mark.parametrize("value", ['["none/*.tsv"]', '["train.tsv", "train.tsv"]', '["train.tsv", "/dev/stdin"]'])
def test_lists_are_checked_before_processes_start(freerun: Freerun, pairs: Path, value: str) -> None:
    options = ("--out", pairs / "run", "--set", f"data.train={value}", "--processes", "2")
    result = freerun("train", pairs / "config.toml", *options)
    assert result.code == 2
    assert "Starting" not in result.err


@pytest.mark.parametrize("name", ["train.parquet", "train.arrow", "train.feather", "train.tsv.zst", "train.tsv.gz"])
def test_formats_train_the_same_model(freerun: Freerun, pairs: Path, name: str) -> None:
    content = (pairs / "train.tsv").read_bytes()
    table = pa.table(dict(zip(("source", "target"), zip(*rows(pairs / "train.tsv"), strict=True), strict=True)))
    if name.endswith((".zst", ".gz")):
        (pairs / name).write_bytes((zstd if name.endswith("zst") else gzip).compress(content))
    elif name.endswith(".parquet"):
        pa.parquet.write_table(table, pairs / name)
    else:
        pa.feather.write_feather(table, pairs / name)
    arguments = ("--dev", pairs / "dev.tsv", *ONE, "--set", "training.batch_size=16", "--set", "model.hidden_size=16")
    for file, run in (("train.tsv", "one"), (name, "run")):
        assert freerun("train", pairs / file, "--out", pairs / run, *arguments).code == 0
    assert weights(pairs / "run") == weights(pairs / "one")


def test_all_commands_read_parquet(freerun: Freerun, trained: Path, tmp_path: Path) -> None:
    run, dev = trained / "run", trained / "dev.tsv"
    shutil.copy(dev, tmp_path / "dev.tsv")
    shutil.copytree(run / "best", tmp_path / "model")
    plain = as_parquet(tmp_path / "dev.tsv")
    named = shutil.copy(as_parquet(tmp_path / "dev.tsv", ("src", "tgt")), tmp_path / "named.parquet")
    as_parquet(tmp_path / "dev.tsv")
    columns = ("--columns", "src,tgt")
    for command in ("evaluate", "score", "diagnose"):
        expected = freerun(command, run, dev, "--json")
        assert expected.code == 0
        for arguments in ((plain,), (named, *columns)):
            assert freerun(command, run, *arguments, "--json").out == expected.out
    assert freerun("compare", run, run, named, *columns).code == 0
    assert freerun("export", tmp_path / "model", "--quantize", "int8", "--max-loss", 99, "--dev", plain).code == 0
    found = package.evaluate(run, named, columns=("src", "tgt")).metrics
    assert found == package.evaluate(run, dev).metrics


def test_columns_of_the_other_kind(freerun: Freerun, trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "dev.tsv", tmp_path / "dev.tsv")
    file = as_parquet(tmp_path / "dev.tsv")
    result = freerun("evaluate", trained / "run", file, "--columns", "1,2")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"{file}: columns 1,2 were chosen by number, but the format is Parquet. Expected names" in result.err
    result = freerun("evaluate", trained / "run", trained / "dev.tsv", "--columns", "source,target")
    assert result.code == 2
    assert "columns source,target were chosen by name, but the format is TSV. Expected numbers" in result.err


def test_a_model_with_features_reads_them_from_parquet(
    freerun: Freerun, trained_with_features: Path, tmp_path: Path
) -> None:
    run, dev = trained_with_features / "run", trained_with_features / "dev.tsv"
    shutil.copy(dev, tmp_path / "dev.tsv")
    file = as_parquet(tmp_path / "dev.tsv")
    assert freerun("evaluate", run, file, "--json").out == freerun("evaluate", run, dev, "--json").out
    result = freerun("evaluate", run, as_parquet(tmp_path / "dev.tsv", ("source", "target")))
    assert result.code == 2
    assert f"{file}:1: " in result.err and "has no features." in result.err
    assert "Add the column features, or choose another with --columns source,target,NAME." in result.err
    result = freerun("evaluate", run, file, "--columns", "source,target")
    assert "Choose them with, for example, --columns source,target,features." in result.err


def test_features_of_a_list(freerun: Freerun, trained_with_features: Path, tmp_path: Path) -> None:
    for name in ("config.toml", "train.tsv", "dev.tsv"):
        shutil.copy(trained_with_features / name, tmp_path / name)
    shutil.copy(tmp_path / "dev.tsv", tmp_path / "more.tsv")
    as_parquet(tmp_path / "more.tsv")
    (tmp_path / "config.toml").write_text(
        (tmp_path / "config.toml").read_text().replace('"dev.tsv"', '["dev.tsv", "more.parquet"]')
    )
    result = freerun("train", tmp_path / "config.toml", "--out", tmp_path / "run", *ONE)
    assert result.code == 0
    assert freerun("evaluate", tmp_path / "run").code == 0
    with (tmp_path / "dev.tsv").open("a") as file:
        file.write("a\tb\n")
    result = freerun("evaluate", tmp_path / "run")
    assert result.code == 2
    assert f"{tmp_path / 'dev.tsv'}:41: " in result.err
