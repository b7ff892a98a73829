from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import tracemalloc
from pathlib import Path

import pytest

from freerun.data import readers
from freerun.data.readers import (
    Pair,
    ParallelFiles,
    column_count,
    content_hash,
    copy_pairs,
    describe,
    read_pairs,
    read_texts,
)
from freerun.errors import DataError

FEATURES = "Expected a string or a list of strings. Fix the line, or remove the key."


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def message(location, columns=None) -> str:
    """The message of the ``DataError`` that reading ends with."""
    with pytest.raises(DataError) as caught:
        list(read_pairs(location, columns))
    return str(caught.value)


def texts_message(content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        list(read_texts(io.BytesIO(content), "input"))
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ what can be read


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a\tb\nc\td\n", [("a", "b", 1), ("c", "d", 2)]),
        ("a\tb\r\nc\td\r\n", [("a", "b", 1), ("c", "d", 2)]),
        ("a\tb\nc\td", [("a", "b", 1), ("c", "d", 2)]),
        ("\ufeffa\tb\n", [("a", "b", 1)]),
        ("\tb\na\t\n\t\n", [("", "b", 1), ("a", "", 2), ("", "", 3)]),
        ("a\u2028\x0c\x85a\tb\n", [("a\u2028\x0c\x85a", "b", 1)]),
        (" a \t b \n", [(" a ", " b ", 1)]),
        ("a\ufeff\tb\n\ufeffc\td\n", [("a\ufeff", "b", 1), ("\ufeffc", "d", 2)]),
    ],
)
def test_tsv(tmp_path, content, expected):
    assert list(read_pairs(write(tmp_path / "x.tsv", content))) == [Pair(*pair) for pair in expected]


@pytest.mark.parametrize("columns", [(1, 3), (3, 1), (2, 2)])
def test_tsv_columns(tmp_path, columns):
    path = write(tmp_path / "x.tsv", "a\tb\tc\nd\te\tf\tg\n")
    rows = [("a", "b", "c"), ("d", "e", "f")]
    expected = [Pair(row[columns[0] - 1], row[columns[1] - 1], line) for line, row in enumerate(rows, 1)]
    assert list(read_pairs(path, columns)) == expected


def test_chosen_columns_may_be_empty(tmp_path):
    assert list(read_pairs(write(tmp_path / "x.tsv", "\t\t\n"), (1, 3))) == [Pair("", "", 1)]


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_compressed_files(tmp_path, compress):
    suffix = ".gz" if compress is gzip.compress else ".XZ"
    tsv = write(tmp_path / f"x.tsv{suffix}", compress(b"\xef\xbb\xbfa\tb\n"))
    jsonl = write(tmp_path / f"x.jsonl{suffix}", compress(b'{"source": "a", "target": "b"}\n'))
    assert list(read_pairs(tsv)) == list(read_pairs(jsonl)) == [Pair("a", "b", 1)]


def test_json_lines_with_references_and_other_keys(tmp_path):
    path = write(tmp_path / "x.json", '{"source": "ä", "target": ["b", "c"], "id": 7}\n{"target": "", "source": ""}')
    assert list(read_pairs(path)) == [Pair("ä", "b", 1), Pair("ä", "c", 1), Pair("", "", 2)]


def test_features_of_json_lines(tmp_path):
    rows = ['"features": "V;PST"', '"features": ["V", "PST"]', '"features": []', '"features": ""', '"n": 1']
    path = write(tmp_path / "x.jsonl", "".join(f'{{"source": "a", "target": ["b", "c"], {row}}}\n' for row in rows))
    assert [pair.features for pair in read_pairs(path)][::2] == ["V;PST", ("V", "PST"), (), "", None]
    assert len(list(read_pairs(path))) == 10


def test_features_of_a_column(tmp_path):
    path = write(tmp_path / "x.tsv", "a\tV;PST\tb\tx\nc\t\td\n")
    assert list(read_pairs(path, (1, 3, 2))) == [Pair("a", "b", 1, "V;PST"), Pair("c", "d", 2, "")]
    assert [pair.features for pair in read_pairs(path, (1, 3))] == [None, None]
    assert message(path, (1, 2, 4)) == (
        f"{path}:2: 3 tab-separated columns, so there is no column 4 of features. Expected at least 4, because columns "
        "1,2,4 were chosen. Choose other columns with --columns, or fix the line."
    )
    assert f"{path}:2: 3 tab-separated columns, so there is no column 4. " in message(path, (4, 2, 1))
    for columns, which in (((1, 2, 2), "target"), ((1, 2, 1), "source"), ((2, 2, 2), "target")):
        assert message(path, columns) == (
            f"{path}: columns {','.join(map(str, columns))} were chosen, so the features are the {which}. Expected a "
            "separate column of features. Choose the columns with, for example, --columns 1,2,3."
        )


@pytest.mark.parametrize(("content", "count"), [("", 0), ("a", 1), ("a\tb\tc\nd\te\n", 3), ("\ufeffa\tb\r\n", 2)])
def test_the_columns_of_the_first_line(tmp_path, content, count):
    assert column_count(write(tmp_path / "x.tsv", content)) == count
    assert column_count(write(tmp_path / "x.tsv.gz", gzip.compress(content.encode()))) == count


def test_what_is_copied_may_have_features(tmp_path):
    path, lines = write(tmp_path / "x.tsv", "a\tb\tc\nd\te\tf\n"), []
    copy_pairs(path, {path: lines.append})
    assert b"".join(lines) == path.read_bytes()
    for content, wrong in (
        ("a\tb\nc\td\te\n", "2: 3 tab-"),
        ("a\tb\tc\nd\te\n", "2: 2 tab-"),
        ("a\tb\tc\td\n", "1: 4"),
    ):
        with pytest.raises(DataError, match=f"x.tsv:{wrong}"):
            copy_pairs(write(path, content), {path: lines.append})


def test_parallel_files(tmp_path):
    files = ParallelFiles(write(tmp_path / "x.en", "a b\r\n\nc"), write(tmp_path / "x.fr", "\ufeffA\n\nC\n"))
    assert list(read_pairs(files)) == [Pair("a b", "A", 1), Pair("", "", 2), Pair("c", "C", 3)]


def test_texts_from_a_stream_and_a_file(tmp_path):
    content = b"\xef\xbb\xbfone\r\n\ntwo\xc2\x85"
    assert list(read_texts(io.BytesIO(content), "input")) == ["one", "", "two\x85"]
    assert list(read_texts(write(tmp_path / "x.gz", gzip.compress(content)), "x")) == ["one", "", "two\x85"]
    assert list(read_texts(io.BytesIO(b""), "input")) == []


def test_reading_streams(tmp_path):
    path = write(tmp_path / "x.tsv", b"some source\tsome target\n" * 20_000)
    tracemalloc.start()
    count = sum(1 for _ in read_pairs(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 300_000


# ---------------------------------------------------------------------------------------------------- what cannot


def test_the_message_of_the_design(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.tsv", "a\tb\n" * 16 + "a\tb\tc\n")
    assert message(Path("train.tsv")) == (
        "train.tsv:17: 3 tab-separated columns. Expected 2: source and target. "
        "Remove the extra tab, or choose the columns with --columns."
    )


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("a\tb\nab\n", [":2: 1 tab-separated column. Expected 2: source and target. Put a tab"]),
        ("a\tb\n\nc\td\n", [":2: the line is blank. Expected a source, a tab and a target. Remove the line."]),
        ("a\tb\n  \n", [":2: the line is blank"]),
        ("a\tb\nc\td\n\n", [":3: the line is blank"]),
        ("", ["x.tsv: the file is empty and has no pairs", "Expected at least one pair"]),
        ("\ufeff", ["x.tsv: the file is empty and has no pairs"]),
        (b"\xef\xbb\xbfa\tb\ncd\xff\te\n", [":2: not UTF-8: byte 0xff at byte offset 9."]),
        (b"\xef\xbb\xbf\xe9\tb\n", [":1: not UTF-8: byte 0xe9 at byte offset 3."]),
        (b"a\tb\r\n\xc3\tb\n", [":2: not UTF-8: byte 0xc3 at byte offset 5."]),
        (b"a\tb\nc\0\td\n", [":2: a NUL byte at byte offset 5.", "UTF-16"]),
    ],
)
def test_faults_of_a_tsv_line(tmp_path, content, parts):
    found = message(write(tmp_path / "x.tsv", content))
    assert found.startswith(str(tmp_path / "x.tsv"))
    assert all(part in found for part in parts), found


def test_pairs_before_a_fault_are_given(tmp_path):
    pairs = read_pairs(write(tmp_path / "x.tsv", "a\tb\nc\n"))
    assert next(pairs) == Pair("a", "b", 1)
    with pytest.raises(DataError):
        next(pairs)


def test_columns_out_of_range(tmp_path):
    path = write(tmp_path / "x.tsv", "a\tb\tc\td\ne\tf\n")
    assert ":2: 2 tab-separated columns, so there is no column 4. Expected at least 4" in message(path, (1, 4))
    assert "columns 0,2 were chosen, but the first column is number 1" in message(path, (0, 2))
    assert ":1: the line is blank" in message(write(tmp_path / "y.tsv", "\n"), (1, 1))


def test_columns_of_what_has_none(tmp_path):
    found = message(write(tmp_path / "x.jsonl", "{}"), (1, 3))
    assert "columns 1,3 were chosen, but the format is JSON Lines" in found
    assert "the format is parallel files" in message(ParallelFiles(tmp_path / "a", tmp_path / "b"), (1, 2))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_the_longest_line_and_one_more_byte(tmp_path, end):
    longest = b"a\t" + b"b" * (readers.MAX_LINE_BYTES - 2)
    assert len(next(read_pairs(write(tmp_path / "x.tsv", longest + end))).target) == readers.MAX_LINE_BYTES - 2
    found = message(write(tmp_path / "x.tsv", b"a\tb\n" + longest + b"b" + end))
    assert ":2: the line is longer than 1,000,000 bytes. Expected one text or pair per line." in found


def test_a_line_of_10_mb_is_not_read_whole(tmp_path):
    path = write(tmp_path / "x.tsv", b"x" * 10_000_000)
    tracemalloc.start()
    assert ":1: the line is longer" in message(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_missing_file_folder_and_bad_path(tmp_path):
    assert message(tmp_path / "no.tsv") == (
        f"{tmp_path / 'no.tsv'}: no such file. Expected a file that exists. Check the path."
    )
    assert f"{tmp_path}: this is a directory. Expected a file." in message(tmp_path)
    assert "the file cannot be read" in message(tmp_path / ("x" * 300))
    assert "the file cannot be read" in message(tmp_path / "a\0b")
    assert "no such file" in message(ParallelFiles(write(tmp_path / "a", "a"), tmp_path / "b"))


def test_no_permission(tmp_path, monkeypatch):
    path = write(tmp_path / "x.tsv", "a\tb\n")
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read everything

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    assert message(path) == f"{path}: no permission to read the file. Expected a readable file. Change its mode."


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_damaged_compressed_files(tmp_path, suffix):
    text = b"".join(f"{number}\t{number * number}\n".encode() for number in range(20_000))
    whole = gzip.compress(text) if suffix == ".gz" else lzma.compress(text)
    path = tmp_path / f"x.tsv{suffix}"
    assert message(write(path, whole[: len(whole) // 2])) == (
        f"{path}: the compressed file is truncated. "
        "Expected a complete .gz, .xz or .zst file. Copy or compress the file again."
    )
    assert "the compressed file is damaged" in message(write(path, whole[:-8] + bytes(8)))
    assert "the compressed file is damaged" in message(write(path, b"a\tb\n"))


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "the line is not JSON: "),
        ("[" * 100_000, "the line is not JSON: "),
        ("[1]", "the line is a list. Expected one JSON object per line"),
        ("true", "the line is true or false."),
        ("", "the line is blank. Expected one JSON object."),
        ("{}", "the object has no key 'source'."),
        ('{"target": "b"}', "the object has no key 'source'."),
        ('{"source": "b"}', "the object has no key 'target'."),
        ('{"source": 1, "target": "b"}', "the value of 'source' is a number."),
        ('{"source": "a", "target": null}', "the value of 'target' is null."),
        ('{"source": "a", "target": []}', "the value of 'target' is an empty list."),
        ('{"source": "a", "target": ["b", {}]}', "an item of 'target' is an object."),
        ('{"source": "a\\tb", "target": "b"}', "the source contains a tab."),
        ('{"source": "a", "target": ["b", "c\\n"]}', "the target contains a line feed."),
        ('{"source": "a\\r", "target": "b"}', "the source contains a carriage return."),
        ('{"source": "a\\u0000", "target": "b"}', "the source contains a NUL character."),
        ('{"source": "a", "target": "\\ud83d"}', "the target contains half a surrogate pair (U+D83D)."),
        ('{"source": "a", "target": "b", "features": null}', f"the value of 'features' is null. {FEATURES}"),
        ('{"source": "a", "target": "b", "features": {"tense": "PST"}}', "the value of 'features' is an object."),
        ('{"source": "a", "target": "b", "features": 3}', "the value of 'features' is a number."),
        ('{"source": "a", "target": "b", "features": ["V", true]}', "an item of 'features' is true or false."),
        ('{"source": "a", "target": "b", "features": [["V"]]}', f"an item of 'features' is a list. {FEATURES}"),
        ('{"source": "a", "target": "b", "features": "V\\tPST"}', "the feature text contains a tab."),
        ('{"source": "a", "target": "b", "features": ["V", "\\n"]}', "the feature text contains a line feed."),
        ('{"source": "a", "target": "b", "features": ["\\ud83d"]}', "the feature text contains half a surrogate pair"),
    ],
)
def test_faults_of_a_json_line(tmp_path, line, part):
    path = write(tmp_path / "x.jsonl", '{"source": "a", "target": "b"}\n' + line + "\n")
    assert f"{path}:2: {part}" in message(path)


@pytest.mark.parametrize(("source", "target", "counts"), [(3, 5, "3 lines and 5 lines"), (4, 0, "4 lines and 0 lines")])
def test_parallel_files_of_different_lengths(tmp_path, source, target, counts):
    files = ParallelFiles(write(tmp_path / "x.en", "a\n" * source), write(tmp_path / "x.fr", "b\n" * target))
    assert message(files) == (
        f"{tmp_path / 'x.en'} and {tmp_path / 'x.fr'}: {counts}. Expected the same number of lines in both files. "
        "Check that both files are from the same data, line by line."
    )


def test_parallel_files_refuse_tabs_and_nothing(tmp_path):
    one, tab = write(tmp_path / "one", "a\n"), write(tmp_path / "tab", "ab\tc\n")
    assert f"{tab}:1: a tab at character 3 of the line. Expected one target text per line." in message(
        ParallelFiles(one, tab)
    )
    empty = write(tmp_path / "empty", "")
    assert "the file is empty and has no pairs" in message(ParallelFiles(empty, empty))


def test_faults_of_texts():
    assert texts_message(b"a\nb\tc\n").startswith("input:2: a tab at character 2 of the line. Expected one input text")
    assert texts_message(b"a\n\xff\n").startswith("input:2: not UTF-8: byte 0xff at byte offset 2.")
    assert texts_message(b"\0").startswith("input:1: a NUL byte at byte offset 0.")
    assert texts_message(b"x" * 1_000_001).startswith("input:1: the line is longer than 1,000,000 bytes.")


# --------------------------------------------------------------------------------------------------------- content


def test_content_hash(tmp_path):
    one, two = write(tmp_path / "1", "a\tb\n"), write(tmp_path / "2", "c\n")
    assert content_hash(one) == hashlib.sha256(b"a\tb\n").hexdigest()
    both = content_hash(ParallelFiles(one, two))
    write(one, "a\tb\nc\n")
    write(two, "")
    assert content_hash(ParallelFiles(one, two)) != both
    assert content_hash(ParallelFiles(two, two)) != content_hash(ParallelFiles(one, two))
    with pytest.raises(DataError, match="no such file"):
        content_hash(tmp_path / "3")


def test_describe():
    assert describe(Path("a.tsv")) == "a.tsv"
    assert describe(ParallelFiles(Path("a.en"), Path("a.fr"))) == "a.en and a.fr"
