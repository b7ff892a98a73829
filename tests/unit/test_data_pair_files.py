"""Lists of files: what they name, and how they are read."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from freerun.config import absolute_paths
from freerun.data.pair_files import find_files
from freerun.data.readers import (
    Pair,
    PairFiles,
    ParallelFiles,
    content_hash,
    describe,
    each_file,
    files_of,
    kind_of,
    kinds_of,
    label_of,
    parts_of,
    read_pairs,
    read_parts,
)
from freerun.errors import DataError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, content: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return path


def parquet(name: str, **columns) -> Path:
    pa.parquet.write_table(pa.table({"source": ["p"], "target": ["P"], **columns}), name)
    return Path(name)


def found(*entries: str) -> list[str]:
    return [str(file) for file in find_files(entries)]


def message(call, *arguments) -> str:
    with pytest.raises(DataError) as caught:
        list(call(*arguments))
    return str(caught.value)


def files(*names: str) -> PairFiles:
    return PairFiles(tuple(map(Path, names)))


# -- what a list names -------------------------------------------------------------------------------------------------


def test_patterns_are_sorted_and_the_list_keeps_its_order():
    for name in ("b/2.tsv", "b/10.tsv", "b/.hidden.tsv", "b/c/3.tsv", "b/x.txt", "z.tsv"):
        write(name, "a\tb\n")
    Path("b/folder.tsv").mkdir()
    assert found("z.tsv", "b/*.tsv") == ["z.tsv", "b/10.tsv", "b/2.tsv"]
    assert found("b/[0-9].tsv", "b/1?.tsv") == ["b/2.tsv", "b/10.tsv"]
    assert found("b/**/*.tsv") == ["b/10.tsv", "b/2.tsv", "b/c/3.tsv"]
    assert found("missing.tsv") == ["missing.tsv"]


def test_a_file_may_have_the_name_of_a_pattern():
    write("a[1].tsv", "a\tb\n")
    write("a1.tsv", "a\tb\n")
    assert found("a[1].tsv", "a1.tsv") == ["a[1].tsv", "a1.tsv"]


def test_a_pattern_without_files():
    assert message(find_files, ["b/*.tsv"]) == (
        "b/*.tsv: no file matches this pattern. Expected at least one file of pairs. Check the directory and the "
        "pattern, in which *, ? and [...] have a meaning."
    )


def test_a_file_twice():
    write("b/1.tsv", "a\tb\n")
    rest = (
        "Expected each file once in a list, because its pairs would count twice. Remove an entry, or make a pattern "
        "narrower."
    )
    assert message(find_files, ["b/1.tsv", "b/*.tsv"]) == (
        f"b/1.tsv: this file is named by 'b/1.tsv' and 'b/*.tsv'. {rest}"
    )
    assert message(find_files, ["b/1.tsv", "b/1.tsv"]) == f"b/1.tsv: this file is named by 'b/1.tsv' twice. {rest}"
    Path("b/2.tsv").symlink_to("1.tsv")
    assert message(find_files, ["b/*.tsv"]) == (
        f"b/2.tsv: this file is the same file as b/1.tsv (named by 'b/*.tsv' twice). {rest}"
    )


def test_a_pipe_in_a_list():
    os.mkfifo("p.tsv")
    text = (
        "this is a pipe, or an open file of one process, in a list of files. Expected regular files in a list. Write "
        "the pairs to a file first, or name the pipe alone."
    )
    assert message(find_files, ["*.tsv"]) == f"p.tsv: {text}"
    assert message(find_files, ["/dev/fd/63"]) == f"/dev/fd/63: {text}"


# -- paths of configurations -------------------------------------------------------------------------------------------


def test_entries_are_relative_to_the_directory(here):
    raw = {"data": {"train": ["a.tsv", "../b/*.tsv", "/x/**/*.gz"], "dev": ["~"]}}
    data = absolute_paths(raw, here / "configs")["data"]
    assert data["train"] == [str(here / "configs" / "a.tsv"), str(here / "b" / "*.tsv"), "/x/**/*.gz"]
    assert absolute_paths({"data": data}, here / "elsewhere")["data"] == data


def test_the_directory_itself_is_no_pattern(here):
    directory = here / "[x]"
    write("[x]/b/1.tsv", "a\tb\n")
    write("[x]/[y]z.tsv", "a\tb\n")
    data = absolute_paths({"data": {"train": ["b/*.tsv", "[y]z.tsv", "[yz]z.tsv"]}}, directory)["data"]
    assert data["train"][1] == str(directory / "[y]z.tsv")
    assert find_files(data["train"][:2]) == (directory / "b" / "1.tsv", directory / "[y]z.tsv")
    assert absolute_paths({"data": data}, here)["data"] == data
    with pytest.raises(DataError, match="no file matches this pattern"):
        find_files(data["train"][2:])


def test_the_home_directory_of_a_pattern(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "home"))
    data = absolute_paths({"data": {"train": ["~/b/*.tsv", "~no_such_user_here/*.tsv"]}}, here)["data"]
    assert data["train"][0] == str(here / "home" / "b" / "*.tsv")
    with pytest.raises(DataError, match="no file matches this pattern"):
        find_files(data["train"][1:])


# -- reading -----------------------------------------------------------------------------------------------------------


def test_files_are_read_one_after_another():
    write("a.tsv.gz", "a\tA\nb\tB\n")
    write("b.jsonl", json.dumps({"source": "c", "target": ["C", "CC"]}) + "\n")
    parquet("c.parquet")
    location = files("c.parquet", "a.tsv.gz", "b.jsonl")
    pairs = [Pair("p", "P", 1), Pair("a", "A", 1), Pair("b", "B", 2), Pair("c", "C", 1), Pair("c", "CC", 1)]
    assert list(read_pairs(location)) == pairs
    assert [(part.name, len(list(rest))) for part, rest in read_parts(location)] == [
        ("c.parquet", 1),
        ("a.tsv.gz", 2),
        ("b.jsonl", 2),
    ]


def test_errors_name_the_file():
    write("a.tsv", "a\tA\n")
    write("b.tsv", "b\tB\nc\n")
    write("e.tsv", "")
    assert message(read_pairs, files("a.tsv", "b.tsv")).startswith("b.tsv:2: 1 tab-separated column.")
    assert message(read_pairs, files("a.tsv", "e.tsv")).startswith("e.tsv: the file is empty and has no pairs.")
    assert message(read_pairs, files("a.tsv", "f.tsv")).startswith("f.tsv: no such file.")


def test_different_numbers_of_columns():
    write("a.tsv", "a\tA\n")
    write("b.tsv", "b\tB\tx\n")
    parquet("c.parquet", features=["x"])
    for other in ("b.tsv", "c.parquet"):
        assert message(read_pairs, files("a.tsv", other)) == (
            f"{other}: 3 columns, and a.tsv has 2. Expected the same number of columns in all files of the list. "
            "Choose columns that all of them have with --columns or data.columns, or take one file out of the list."
        )
    assert "a.tsv: 2 columns, and c.parquet has 3." in message(read_pairs, files("c.parquet", "a.tsv"))
    write("d.tsv", "d\n")
    assert "d.tsv: 1 column, and a.tsv has 2." in message(read_pairs, files("a.tsv", "d.tsv"))
    assert [pair.target for pair in read_pairs(files("a.tsv", "b.tsv"), (1, 2))] == ["A", "B"]
    assert message(read_pairs, files("b.tsv", "a.tsv"), (1, 3)).startswith(
        "a.tsv:1: 2 tab-separated columns, so there is no column 3."
    )


def test_columns_of_mixed_formats():
    """Numbers are those of TSV files, names those of the others; either says whether features are read."""
    write("a.tsv", "x\ta\tA\n")
    write("b.tsv", "b\tB\n")
    write("c.jsonl", '{"source": "c", "target": "C", "features": "f"}\n')
    parquet("p.parquet", features=["g"], src=["q"], tgt=["Q"])
    numbers = list(read_pairs(files("a.tsv", "c.jsonl", "p.parquet"), (2, 3)))
    assert numbers == [Pair("a", "A", 1), Pair("c", "C", 1), Pair("p", "P", 1)]
    names = list(read_pairs(files("b.tsv", "c.jsonl", "p.parquet"), ("src", "tgt")))
    assert names == [Pair("b", "B", 1), Pair("c", "C", 1), Pair("q", "Q", 1)]
    assert [pair.features for pair in read_pairs(files("a.tsv", "c.jsonl", "p.parquet"), (1, 2, 3))] == ["A", "f", "g"]


def test_columns_that_no_file_of_a_list_has():
    write("a.tsv", "a\tA\n")
    write("b.jsonl", '{"source": "c", "target": "C"}\n')
    parquet("p.parquet")
    assert message(read_pairs, files("a.tsv", "b.jsonl"), ("src", "tgt")) == (
        "a.tsv and b.jsonl: columns src,tgt were chosen by name, but the format is TSV and JSON Lines. Expected "
        "numbers, because the columns of such a file have no names. Choose the columns with, for example, --columns "
        "1,2."
    )
    assert "by number, but the format is Parquet and JSON Lines." in message(
        read_pairs, files("p.parquet", "b.jsonl"), (1, 2)
    )
    assert "columns 1,2 were chosen, but the format is JSON Lines." in message(read_pairs, files("b.jsonl"), (1, 2))


# -- what they are called ----------------------------------------------------------------------------------------------


def test_the_hash_of_a_list():
    a, b = write("a.tsv", "a\tA\n"), write("b.tsv", "b\tB\n")
    both = content_hash(PairFiles((a, b)))
    others = [
        content_hash(PairFiles((b, a))),
        content_hash(PairFiles((a,))),
        content_hash(a),
        content_hash(ParallelFiles(a, b)),
        content_hash(PairFiles((write("c.tsv", "a\tA\nb\tB\n"),))),
    ]
    assert len({both, *others}) == 6
    a.rename("x.tsv")
    assert content_hash(files("x.tsv", "b.tsv")) == both


def test_descriptions():
    assert describe(files("a")) == "a"
    assert describe(files("a", "b")) == "a and b"
    assert describe(files("a", "b", "c")) == "a and 2 other files"
    assert describe(PairFiles((Path("a"),) * 1001)) == "a and 1,000 other files"
    location = files("a", "b")
    assert label_of(Path("b"), location, "x") == "b"
    assert label_of(Path("b"), Path("b"), "x") == "x"


def test_parts_and_kinds():
    location = files("a.tsv", "b.jsonl.zst", "c.tsv")
    assert files_of(location) == list(parts_of(location)) == [Path("a.tsv"), Path("b.jsonl.zst"), Path("c.tsv")]
    assert (kind_of(location), kinds_of(location)) == ("TSV and JSON Lines", {"TSV", "JSON Lines"})
    assert each_file(location, lambda file: Path("x") / file) == files("x/a.tsv", "x/b.jsonl.zst", "x/c.tsv")
    parallel = ParallelFiles(Path("a"), Path("b"))
    assert parts_of(parallel) == (parallel,)
