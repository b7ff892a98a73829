"""Pairs of Parquet and Arrow files, in batches of rows; both formats are read by pyarrow.

Memory is bounded: of Parquet, the chosen columns of one batch are decoded at a time; of Arrow, files are mapped, and
one batch of rows is converted at a time. A file may come from anyone, so each array is validated before it is used.
Rows are counted from 1, across all batches. Every error is a ``DataError`` with the file and the column or row.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from freerun.data.columns import COLUMN_NAMES, ColumnNames, Columns, as_names
from freerun.data.decompression import as_data_error
from freerun.data.features import Features
from freerun.data.field_check import check_field
from freerun.data.opening import is_read_once, open_file
from freerun.errors import DataError, MissingExtraError
from freerun.text import cut, forbidden_character, one_line

__all__ = ["BATCH_ROWS", "COLUMNAR_SUFFIXES", "ColumnarBatch", "columnar_column_count", "read_columnar"]

COLUMNAR_SUFFIXES: Final = {".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow"}
"""The format of each suffix."""
BATCH_ROWS: Final = 4096
"""The maximum number of rows in a batch."""
MAX_TEXT_BYTES: Final = 1_000_000
"""Longer texts are rejected, as longer lines of text files are."""
_ARROW_FILE: Final = b"ARROW1"
_FEATHER_1: Final = b"FEA1"
_EXPECTED_TYPES: Final = {
    "source": "strings",
    "target": "strings, or lists of strings for several references",
    "features": "strings, or lists of strings",
}


@dataclass(frozen=True)
class ColumnarBatch:
    """Consecutive pairs of a file; a row with several references is one pair per reference.

    Attributes:
        sources: of each pair.
        targets: of each pair, one reference.
        features: of each pair; None if no column of features was read.
        first_row: the number of the first pair's row.
        rows: the number of each pair's row.
    """

    sources: list[str]
    targets: list[str]
    features: list[Features] | None
    first_row: int
    rows: Sequence[int]


def read_columnar(path: Path, columns: Columns | None = None) -> Iterator[ColumnarBatch]:
    """Stream the pairs of a ``.parquet``, ``.arrow`` or ``.feather`` file in batches of at most ``BATCH_ROWS`` rows.

    Args:
        path: a regular file. An Arrow file has the file or the stream format, which its first bytes tell.
        columns: the names of the columns of source and target, and of the features. Default: ``source``, ``target``,
            and ``features`` if there is such a column. Numbers, which are chosen for TSV files, only say whether
            features are read.

    Raises:
        DataError: the file cannot be read, a column is missing or has another type, or a row cannot be a pair.
        MissingExtraError: pyarrow is not installed.
    """
    return _Reader(path, columns).batches()


def columnar_column_count(path: Path) -> int:
    """Return the number of columns that are read by default: 3 if there are features, else 2; 0 for an empty file.

    Raises as ``read_columnar`` does.
    """
    return _Reader(path, None).column_count()


class _Reader:
    """One pass over a file."""

    def __init__(self, path: Path, columns: Columns | None) -> None:
        self._path, self._name = path, str(path)
        self._columns = as_names(columns)
        self._rows_before = 0  # in the batches before the one that is validated

    def column_count(self) -> int:
        with contextlib.closing(self._batches_of_file()) as batches:
            schema = next(batches, None)
        return 0 if schema is None else len(self._chosen(schema))

    def batches(self) -> Iterator[ColumnarBatch]:
        row = 1
        with contextlib.closing(self._batches_of_file()) as batches:
            schema = next(batches, None)
            if schema is None:
                return
            names = self._chosen(schema)
            fields = list(zip(COLUMN_NAMES, names, strict=False))
            for field, name in fields:
                self._check_type(field, name, schema.field(name).type)
            for batch in batches:
                arrays = {field: _plain(batch.column(name)) for field, name in fields}
                if batch.num_rows:
                    yield self._batch(arrays, dict(fields), row)
                row += batch.num_rows

    def _chosen(self, schema: Any) -> ColumnNames:
        """Return the names of the columns to read, which exist, each once."""
        names = self._columns or (COLUMN_NAMES if COLUMN_NAMES[2] in schema.names else COLUMN_NAMES[:2])
        for name in names:
            count = schema.names.count(name)
            if count != 1:
                listed = ", ".join(map(repr, schema.names)) or "none"
                raise DataError(
                    self._name,
                    f"no column {name!r}; the columns are {cut(listed)}" if not count else f"{count} columns {name!r}",
                    f"Expected {'one' if count else 'a'} column of this name",
                    f"Choose the columns by name, for example with --columns {','.join(COLUMN_NAMES[:2])}"
                    if not count
                    else "Rename the others",
                )
        return names

    def _check_type(self, field: str, name: str, kind: Any) -> None:
        """Check that a column has strings, or lists of them where lists have a meaning."""
        inner = kind.value_type if field != "source" and _is_list(kind) else kind
        if not _is_text(inner):
            raise DataError(
                self._name,
                f"the column {name!r} has the type {one_line(str(kind))}",
                f"Expected {_EXPECTED_TYPES[field]}",
                "Convert the column, or choose others with --columns",
            )

    def _batch(self, arrays: dict[str, Any], names: dict[str, str], row: int) -> ColumnarBatch:
        sources = self._texts(arrays["source"], names["source"], row)
        targets, repetitions = self._targets(arrays["target"], names["target"], row)
        features = self._features(arrays["features"], names["features"], row) if "features" in arrays else None
        rows: Sequence[int] = range(row, row + len(sources))
        if repetitions is not None:
            sources, rows = _repeated(sources, repetitions), _repeated(rows, repetitions)
            features = None if features is None else _repeated(features, repetitions)
        return ColumnarBatch(sources, targets, features, row, rows)

    def _targets(self, array: Any, name: str, row: int) -> tuple[list[str], list[int] | None]:
        """Return all references, and how many each row has; None if each has one."""
        if not _is_list(array.type):
            return self._texts(array, name, row), None
        texts, lengths = self._lists(array, name, row)
        if 0 in lengths:
            raise DataError(
                f"{self._name}:{row + lengths.index(0)}",
                f"the value of {name!r} is an empty list",
                "Expected at least one reference",
                "Add a reference, or remove the row",
            )
        return texts, lengths

    def _features(self, array: Any, name: str, row: int) -> list[Features]:
        if not _is_list(array.type):
            return cast(list[Features], self._texts(array, name, row))
        texts, lengths = self._lists(array, name, row)
        items = iter(texts)
        return [tuple(next(items) for _ in range(length)) for length in lengths]

    def _lists(self, array: Any, name: str, row: int) -> tuple[list[str], list[int]]:
        """Return the items of a column of lists, and the length of each list."""
        self._check_nulls(array, f"the value of {name!r}", range(row, row + len(array)))
        lengths = _compute().list_value_length(array).to_pylist()
        rows = _repeated(range(row, row + len(array)), lengths)
        return self._texts(_plain(array.flatten()), name, row, rows), lengths

    def _texts(self, array: Any, name: str, row: int, rows: Sequence[int] | None = None) -> list[str]:
        """Return a column of strings, checked; ``rows`` has the row of each, by default consecutive ones."""
        subject = f"{'the value' if rows is None else 'an item'} of {name!r}"
        rows = range(row, row + len(array)) if rows is None else rows
        self._check_nulls(array, subject, rows)
        lengths = _compute().binary_length(array)
        if len(array) and _compute().max(lengths).as_py() > MAX_TEXT_BYTES:
            place = next(place for place, length in enumerate(lengths.to_pylist()) if length > MAX_TEXT_BYTES)
            raise DataError(
                f"{self._name}:{rows[place]}",
                f"the value of {name!r} is longer than {MAX_TEXT_BYTES:,} bytes",
                "Expected one text or pair per row",
                "Split the text",
            )
        texts = cast(list[str], array.to_pylist())
        # all texts at once, because the search in one long text is far faster; half surrogates are no UTF-8
        if forbidden_character("".join(texts)):
            for text, number in zip(texts, rows, strict=True):
                check_field(text, f"{self._name}:{number}", f"value of {name!r}")
        return texts

    def _check_nulls(self, array: Any, subject: str, rows: Sequence[int]) -> None:
        if array.null_count:
            place = array.is_null().to_pylist().index(True)
            raise DataError(
                f"{self._name}:{rows[place]}",
                f"{subject} is null",
                "Expected a text in every row",
                'Remove the row, or write "" for an empty text',
            )

    # -- the file ------------------------------------------------------------------------------------------------------

    def _batches_of_file(self) -> Generator[Any, None, None]:
        """Yield the schema, then batches of at most ``BATCH_ROWS`` rows; nothing for a file of 0 bytes."""
        start = self._first_bytes()
        if not start:
            return
        pyarrow = _pyarrow(self._name)
        kind = COLUMNAR_SUFFIXES[self._path.suffix.lower()]
        read = self._parquet if kind == "Parquet" else self._arrow_file if start == _ARROW_FILE else self._arrow_stream
        with contextlib.closing(read(pyarrow)) as batches:
            while True:
                try:
                    batch = next(batches, None)
                except (pyarrow.ArrowException, OSError, ValueError, EOFError) as error:
                    raise self._damage_error(kind, error) from error
                if batch is None:
                    return
                yield batch

    def _first_bytes(self) -> bytes:
        """Check that the file is a regular one; return its first bytes."""
        if is_read_once(self._path):
            raise DataError(
                self._name,
                "this is a pipe, or an open file of one process, and its name is that of a Parquet or Arrow file",
                "Expected a regular file, because its parts are read at their positions",
                "Write the pairs to a file first",
            )
        with as_data_error(self._name):
            with open_file(self._path, self._name) as handle:
                start = handle.read(len(_ARROW_FILE))
        if start.startswith(_FEATHER_1):
            raise DataError(
                self._name,
                "this is a file of version 1 of Feather",
                "Expected version 2, which is an Arrow file",
                "Write it again with a recent version of the program",
            )
        return start

    def _parquet(self, _: Any) -> Generator[Any, None, None]:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self._path, memory_map=True) as file:
            schema = file.schema_arrow
            yield schema
            names = list(self._chosen(schema))
            for batch in file.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
                self._validate(batch, names)
                yield batch

    def _arrow_file(self, pyarrow: Any) -> Generator[Any, None, None]:
        with pyarrow.memory_map(str(self._path)) as source, pyarrow.ipc.open_file(source) as reader:
            yield reader.schema
            for number in range(reader.num_record_batches):
                yield from self._slices(reader.get_batch(number))

    def _arrow_stream(self, pyarrow: Any) -> Generator[Any, None, None]:
        with pyarrow.memory_map(str(self._path)) as source, pyarrow.ipc.open_stream(source) as reader:
            yield reader.schema
            for batch in reader:
                yield from self._slices(batch)

    def _slices(self, batch: Any) -> Iterator[Any]:
        self._validate(batch, self._chosen(batch.schema))
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)

    def _validate(self, batch: Any, names: Sequence[str]) -> None:
        """Check offsets, indices and UTF-8, so that no damage of a file leads to memory that is not its own."""
        import pyarrow

        for name in names:
            array = batch.column(name)
            try:
                array.validate(full=True)
            except pyarrow.ArrowInvalid as error:
                raise self._column_error(array, name, error) from error
        self._rows_before += batch.num_rows

    def _column_error(self, array: Any, name: str, error: Exception) -> DataError:
        first = self._rows_before + 1
        index = re.search(r"Invalid UTF8 sequence at string index (\d+)", str(error))
        if index and _is_text(array.type) and not hasattr(array, "dictionary"):
            location, rows = f"{self._name}:{first + int(index[1])}", ""
        else:
            location, rows = self._name, f" in one of the rows {first:,} to {first + len(array) - 1:,}"
        if index:
            fix = "Write the file again from correctly decoded texts"
            return DataError(location, f"the value of {name!r} is not UTF-8{rows}", "Expected UTF-8 text", fix)
        return DataError(
            location,
            f"the column {name!r} is damaged{rows}: {_reason(error)}",
            "Expected a complete file",
            "Copy the file again, or check the program that wrote it",
        )

    def _damage_error(self, kind: str, error: Exception) -> DataError:
        return DataError(
            self._name,
            f"the {kind} file cannot be read, or is truncated or damaged: {_reason(error)}",
            f"Expected a complete {kind} file",
            "Copy the file again, or check the program that wrote it",
        )


def _reason(error: Exception) -> str:
    return one_line(str(error).strip().partition("\n")[0]).rstrip(".")


def _repeated(values: Sequence[Any], repetitions: Sequence[int]) -> list[Any]:
    return [value for value, count in zip(values, repetitions, strict=True) for _ in range(count)]


def _plain(array: Any) -> Any:
    """Return an array without a dictionary, and with the functions that a view of strings lacks."""
    import pyarrow

    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        array = array.dictionary_decode()
    return array.cast(pyarrow.large_string()) if pyarrow.types.is_string_view(array.type) else array


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return any(
        test(kind) for test in (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view)
    )


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    return any(test(inner) for test in (types.is_string, types.is_large_string, types.is_string_view))


def _compute() -> Any:
    import pyarrow.compute

    return pyarrow.compute


def _pyarrow(name: str) -> Any:
    try:
        import pyarrow.ipc
    except ImportError:
        raise MissingExtraError("pyarrow", "arrow", f"reading {name}") from None
    return pyarrow
