"""Pairs of Parquet and Arrow files, in batches of rows.

Rows are counted from 1, across all batches. Every error is a ``DataError`` with the file and the column or row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from freerun.data.arrow_files import ArrowBatches, is_list_type, is_text_type, plain_array
from freerun.data.columns import COLUMN_NAMES, ColumnNames, Columns, as_names
from freerun.data.features import Features
from freerun.data.field_check import check_field
from freerun.errors import DataError
from freerun.text import cut, forbidden_character, one_line

__all__ = ["ColumnarBatch", "columnar_column_count", "read_columnar"]

MAX_TEXT_BYTES: Final = 1_000_000
"""Longer texts are rejected, as longer lines of text files are."""
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
        self._name, self._columns = str(path), as_names(columns)
        self._file = ArrowBatches(path, self._chosen)

    def column_count(self) -> int:
        with contextlib.closing(self._file.read()) as batches:
            schema = next(batches, None)
        return 0 if schema is None else len(self._chosen(schema))

    def batches(self) -> Iterator[ColumnarBatch]:
        row = 1
        with contextlib.closing(self._file.read()) as batches:
            schema = next(batches, None)
            if schema is None:
                return
            names = self._chosen(schema)
            fields = list(zip(COLUMN_NAMES, names, strict=False))
            for field, name in fields:
                self._check_type(field, name, schema.field(name).type)
            for batch in batches:
                arrays = {field: plain_array(batch.column(name)) for field, name in fields}
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
        inner = kind.value_type if field != "source" and is_list_type(kind) else kind
        if not is_text_type(inner):
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
        if not is_list_type(array.type):
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
        if not is_list_type(array.type):
            return cast(list[Features], self._texts(array, name, row))
        texts, lengths = self._lists(array, name, row)
        items = iter(texts)
        return [tuple(next(items) for _ in range(length)) for length in lengths]

    def _lists(self, array: Any, name: str, row: int) -> tuple[list[str], list[int]]:
        """Return the items of a column of lists, and the length of each list."""
        self._check_nulls(array, f"the value of {name!r}", range(row, row + len(array)))
        lengths = _compute().list_value_length(array).to_pylist()
        rows = _repeated(range(row, row + len(array)), lengths)
        return self._texts(plain_array(array.flatten()), name, row, rows), lengths

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


def _repeated(values: Sequence[Any], repetitions: Sequence[int]) -> list[Any]:
    return [value for value, count in zip(values, repetitions, strict=True) for _ in range(count)]


def _compute() -> Any:
    import pyarrow.compute

    return pyarrow.compute
