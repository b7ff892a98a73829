from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from freerun.data.arrow_files import BATCH_ROWS, COLUMNAR_SUFFIXES
from freerun.data.columnar import columnar_column_count, read_columnar
from freerun.data.readers import Pair, PairFiles, column_count, copy_pairs, kind_of, read_pairs
from freerun.errors import DataError, MissingExtraError

NAMES = ["x.parquet", "x.arrow", "stream.arrow", "x.feather"]
FIX = "Choose the columns by name, for example with --columns source,target."


def write(path: Path, table: pa.Table) -> Path:
    """Write a table in the format of the name; "stream" in it is Arrow's other format."""
    if path.suffix.lower() == ".parquet":
        pa.parquet.write_table(table, path)
    elif path.suffix == ".feather":
        pa.feather.write_feather(table, path)
    else:
        new = pa.ipc.new_stream if "stream" in path.name else pa.ipc.new_file
        with new(path, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.fixture(params=NAMES)
def path(request, tmp_path) -> Path:
    return tmp_path / request.param


def table(**columns) -> pa.Table:
    return pa.table({"source": ["a", "b"], "target": ["A", "B"], **columns})


def message(path: Path, columns=None) -> str:
    with pytest.raises(DataError) as caught:
        list(read_pairs(path, columns))
    return str(caught.value)


# -- what can be read --------------------------------------------------------------------------------------------------


def test_pairs(path):
    write(path, table(n=[1, 2]))
    assert list(read_pairs(path)) == [Pair("a", "A", 1), Pair("b", "B", 2)]
    assert column_count(path) == columnar_column_count(path) == 2
    assert kind_of(path) == ("Parquet" if path.suffix == ".parquet" else "Arrow")


def test_names_of_columns(path):
    write(path, pa.table({"tgt": ["A"], "a.b": ["x"], "src": ["a"], "a": ["y"]}))
    assert list(read_pairs(path, ("src", "tgt"))) == [Pair("a", "A", 1)]
    assert list(read_pairs(path, ("src", "src", "tgt"))) == [Pair("a", "a", 1, "A")]
    assert list(read_pairs(path, ("a", "a.b"))) == [Pair("y", "x", 1)]


def test_features_and_references(path):
    write(path, table(target=[["A", "AA"], ["B"]], features=[["V", "PST"], []]))
    assert list(read_pairs(path)) == [
        Pair("a", "A", 1, ("V", "PST")),
        Pair("a", "AA", 1, ("V", "PST")),
        Pair("b", "B", 2, ()),
    ]
    assert [pair.features for pair in read_pairs(path, ("source", "target"))] == [None] * 3
    assert column_count(path) == 3
    write(path, table(features=["V;PST", ""]))
    assert [pair.features for pair in read_pairs(path)] == ["V;PST", ""]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)
def test_types_of_strings(path, kind):
    texts = pa.array(["ä", "", "a long text that is in no view", "ä"])
    strings = texts.dictionary_encode() if pa.types.is_dictionary(kind) else texts.cast(kind)
    write(path, pa.table({"source": strings, "target": strings, "features": strings}))
    assert list(read_pairs(path)) == [Pair(text, text, n, text) for n, text in enumerate(texts.to_pylist(), 1)]


@pytest.mark.parametrize("make", [pa.list_, pa.large_list, pa.list_view, lambda kind: pa.list_(kind, 2)])
def test_types_of_lists(tmp_path, make):
    lists = pa.array([["A", "B"], ["C", "D"]], make(pa.string()))
    path = write(tmp_path / "x.arrow", table(target=lists, features=lists))
    assert [pair.target for pair in read_pairs(path)] == ["A", "B", "C", "D"]
    assert [pair.features for pair in read_pairs(path)][::2] == [("A", "B"), ("C", "D")]


def test_batches(path):
    count = 2 * BATCH_ROWS + 7
    texts = [str(number) for number in range(count)]
    write(path, pa.table({"source": texts, "target": texts, "features": texts}))
    batches = list(read_columnar(path))
    assert [batch.first_row for batch in batches] == [1, BATCH_ROWS + 1, 2 * BATCH_ROWS + 1]
    assert [text for batch in batches for text in batch.sources] == texts
    assert [text for batch in batches for text in batch.targets] == texts
    assert [text for batch in batches for text in batch.features or ()] == texts
    assert [row for batch in batches for row in batch.rows] == list(range(1, count + 1))
    assert {batch.features for batch in read_columnar(path, (1, 2))} == {None}


def test_rows_are_counted_over_the_batches_of_a_file(tmp_path):
    path = tmp_path / "x.arrow"
    with pa.ipc.new_file(path, table().schema) as writer:
        for batch in table().to_batches() * 3:
            writer.write_batch(batch)
            writer.write_batch(batch.slice(0, 0))
    assert [pair.line for pair in read_pairs(path)] == [1, 2, 3, 4, 5, 6]


def test_references_of_a_batch_are_expanded(path):
    write(path, table(target=[["A", "AA"], ["B"]], features=["x", "y"]))
    (batch,) = read_columnar(path)
    assert (batch.sources, batch.targets, batch.features) == (["a", "a", "b"], ["A", "AA", "B"], ["x", "x", "y"])
    assert (batch.first_row, batch.rows) == (1, [1, 1, 2])


def test_one_batch_is_in_memory(path):
    count = 50_000
    write(path, pa.table({"source": ["some text of a source"] * count, "target": [str(n) for n in range(count)]}))
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    most = 0
    for number, _ in enumerate(read_pairs(path)):
        if number % 1000 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2**20
    assert most < 3 * 2**20


def test_the_suffix_decides_in_any_case(tmp_path):
    assert list(read_pairs(write(tmp_path / "x.PARQUET", table()))) == [Pair("a", "A", 1), Pair("b", "B", 2)]


def test_pyarrow_is_imported_only_for_its_files(tmp_path):
    (tmp_path / "x.tsv").write_text("a\tb\n")
    code = (
        "import sys; from pathlib import Path; from freerun.data.readers import read_pairs; "
        f"list(read_pairs(Path({str(tmp_path / 'x.tsv')!r}))); sys.exit('pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- what cannot be read -----------------------------------------------------------------------------------------------


def test_a_missing_column(path):
    write(path, pa.table({"src": ["a"], "tgt": ["A"]}))
    assert message(path) == (
        f"{path}: no column 'source'; the columns are 'src', 'tgt'. Expected a column of this name. {FIX}"
    )
    assert f"{path}: no column 'x'; the columns are 'src', 'tgt'." in message(path, ("src", "tgt", "x"))


def test_a_column_twice(tmp_path):
    twice = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["source", "target", "source"])
    path = write(tmp_path / "x.arrow", twice)
    assert message(path) == (f"{path}: 2 columns 'source'. Expected one column of this name. Rename the others.")


@pytest.mark.parametrize(
    ("field", "values", "kind", "expected"),
    [
        ("source", [1, 2], "int64", "strings"),
        ("source", [["a"], ["b"]], "list<element: string>", "strings"),
        ("target", [b"A", b"B"], "binary", "strings, or lists of strings for several references"),
        ("target", [None, None], "null", "strings, or lists of strings for several references"),
        ("features", [[1], [2]], "list<element: int64>", "strings, or lists of strings"),
        ("features", [{"a": "V"}] * 2, "struct<a: string>", "strings, or lists of strings"),
    ],
)
def test_other_types(path, field, values, kind, expected):
    write(path, table(**{field: values}))
    text = message(path)
    if path.suffix != ".parquet":  # only Parquet names the items of lists so
        kind = kind.replace("element", "item")
    assert text == (
        f"{path}: the column {field!r} has the type {kind}. Expected {expected}. Convert the column, or choose others "
        "with --columns."
    )


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        (
            {"source": ["a", None]},
            ":2: the value of 'source' is null. Expected a text in every row. Remove the row, or write",
        ),
        ({"target": [["A"], None]}, ":2: the value of 'target' is null."),
        ({"target": [["A"], ["B", None]]}, ":2: an item of 'target' is null."),
        ({"features": [None, "x"]}, ":1: the value of 'features' is null."),
        ({"target": [["A"], []]}, ":2: the value of 'target' is an empty list. Expected at least one reference. Add a"),
        ({"source": ["a", "b\tc"]}, ":2: the value of 'source' contains a tab. Expected text that fits"),
        ({"target": [["A"], ["B", "C\n"]]}, ":2: the value of 'target' contains a line feed."),
        ({"features": [["V"], ["\r"]]}, ":2: the value of 'features' contains a carriage return."),
        ({"source": ["a", "\0"]}, ":2: the value of 'source' contains a NUL character."),
        ({"source": ["a", "x" * 1_000_001]}, ":2: the value of 'source' is longer than 1,000,000 bytes. Expected one"),
    ],
)
def test_rows_that_are_no_pairs(path, columns, part):
    assert f"{path}{part}" in message(write(path, table(**columns)))


def test_a_row_of_a_later_batch_is_named(path):
    texts = ["a"] * (BATCH_ROWS + 5)
    write(path, pa.table({"source": texts, "target": [*texts[:-1], "b\tc"]}))
    assert f"{path}:{BATCH_ROWS + 5}: the value of 'target' contains a tab." in message(path)


def not_utf8(*values: bytes) -> pa.Array:
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values).buffers())


def test_text_that_is_not_utf8(path):
    write(path, table(source=not_utf8(b"a", b"\xff")))
    assert message(path) == (
        f"{path}:2: the value of 'source' is not UTF-8. Expected UTF-8 text. Write the file again from correctly "
        "decoded texts."
    )
    surrogate = not_utf8(b"A", b"\xed\xa0\x80")
    write(path, table(target=pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), surrogate)))
    assert f"{path}: the value of 'target' is not UTF-8 in one of the rows 1 to 2." in message(path)


def test_an_empty_file(path):
    path.write_bytes(b"")
    empty = f"{path}: the file is empty and has no pairs. Expected at least one pair of source and target."
    assert empty in message(path)
    assert column_count(path) == 0
    write(path, table().slice(0, 0))
    assert empty in message(path)


def test_damaged_files(path):
    text = [str(number) for number in range(5_000)]
    whole = write(path, pa.table({"source": text, "target": text})).read_bytes()
    kind = kind_of(path)
    for content in (b"a\tb\n", whole[: len(whole) // 2], whole[:-9], b"PAR1" + whole[20:]):
        path.write_bytes(content)
        if content == whole[:-9] and "stream" in path.name:
            continue  # the mark of the end may be missing
        text = message(path)
        assert text.startswith(f"{path}: the {kind} file cannot be read, or is truncated or damaged: ")
        assert text.endswith(
            f"Expected a complete {kind} file. Copy the file again, or check the program that wrote it."
        )
        assert "\n" not in text


def test_names_that_are_not_utf8(tmp_path):
    path = write(tmp_path / "x.arrow", table())
    path.write_bytes(path.read_bytes().replace(b"target", b"t\xffrget"))
    assert f"{path}: the Arrow file cannot be read, or is truncated or damaged: 'utf-8' codec can't" in message(path)


def test_offsets_that_lead_out_of_the_file(tmp_path):
    path = write(tmp_path / "x.arrow", table())
    right, wild = (b"".join(offset.to_bytes(4, "little") for offset in (0, 1, last)) for last in (2, 10**6))
    path.write_bytes(path.read_bytes().replace(right, wild, 1))
    assert f"{path}: the column 'source' is damaged in one of the rows 1 to 2: " in message(path)


def test_an_old_format(tmp_path):
    path = tmp_path / "x.feather"
    path.write_bytes(b"FEA1" + bytes(20))
    assert message(path) == (
        f"{path}: this is a file of version 1 of Feather. Expected version 2, which is an Arrow file. Write it again "
        "with a recent version of the program."
    )


@pytest.mark.parametrize("name", ["x.parquet.gz", "x.arrow.zst"])
def test_a_compressed_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    expected = (
        f"{tmp_path / name}: this is a compressed Parquet or Arrow file. Expected it without compression, because "
        "these formats compress their columns themselves. Decompress the file."
    )
    assert message(tmp_path / name) == message(PairFiles((tmp_path / name,))) == expected


def test_what_is_no_file(tmp_path):
    assert f"{tmp_path / 'x.parquet'}: no such file." in message(tmp_path / "x.parquet")
    (tmp_path / "y.arrow").mkdir()
    assert f"{tmp_path / 'y.arrow'}: this is a directory." in message(tmp_path / "y.arrow")


def test_a_pipe(tmp_path):
    import os

    path = tmp_path / "x.parquet"
    os.mkfifo(path)
    text = (
        f"{path}: this is a pipe, or an open file of one process, and its name is that of a Parquet or Arrow file. "
        "Expected a regular file, because its parts are read at their positions. Write the pairs to a file first."
    )
    assert message(path) == text
    with pytest.raises(DataError, match="its name is that of a Parquet"):
        copy_pairs(path, {path: lambda line: None})


def test_columns_by_number(path):
    write(path, table())
    kind = kind_of(path)
    assert message(path, (1, 2)) == (
        f"{path}: columns 1,2 were chosen by number, but the format is {kind}. Expected names, because the columns of "
        "such a file have no numbers. Choose the columns with, for example, --columns source,target."
    )
    assert message(path, ("source", "target", "target")) == (
        f"{path}: columns source,target,target were chosen, so the features are the target. Expected a separate column "
        "of features. Choose the columns with, for example, --columns source,target,features."
    )


def test_names_in_a_tsv_file(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\n")
    assert message(path, ("source", "target")) == (
        f"{path}: columns source,target were chosen by name, but the format is TSV. Expected numbers, because the "
        "columns of such a file have no names. Choose the columns with, for example, --columns 1,2."
    )


def test_without_pyarrow(path, monkeypatch):
    write(path, table())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.ipc", None)
    with pytest.raises(MissingExtraError) as caught:
        list(read_pairs(path))
    assert str(caught.value) == (
        f"pyarrow: this package is not installed, and reading {path} needs it. Expected the extra 'arrow'. Install it "
        "with: pip install 'freerun[arrow]'."
    )
    assert COLUMNAR_SUFFIXES[path.suffix]
