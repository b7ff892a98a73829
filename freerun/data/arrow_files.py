"""Parquet and Arrow files as batches of rows, read by pyarrow, which is imported only here and only when needed.

Memory is bounded: of Parquet, the chosen columns of one batch are decoded at a time; Arrow files are mapped. A file may
come from anyone, so each array is validated before it is used.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Final

from freerun.data.decompression import COMPRESSED, as_data_error
from freerun.data.opening import is_read_once, open_file
from freerun.errors import DataError, MissingExtraError
from freerun.text import one_line

__all__ = ["BATCH_ROWS", "COLUMNAR_SUFFIXES", "ArrowBatches", "is_list_type", "is_text_type", "plain_array"]

COLUMNAR_SUFFIXES: Final = {".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow"}
"""The format of each suffix."""
BATCH_ROWS: Final = 4096
"""The maximum number of rows in a batch."""
_ARROW_FILE: Final = b"ARROW1"
_FEATHER_1: Final = b"FEA1"


class ArrowBatches:
    """One pass over the batches of a file; ``choose`` returns the columns to read of a schema."""

    def __init__(self, path: Path, choose: Callable[[Any], Sequence[str]]) -> None:
        self._path, self._name, self._choose = path, str(path), choose
        self._rows_before = 0  # in the batches before the one that is validated

    def read(self) -> Generator[Any, None, None]:
        """Yield the schema, then batches of at most ``BATCH_ROWS`` rows; nothing for a file of 0 bytes.

        Raises:
            DataError: the file cannot be read, is damaged or no regular file, or a text is not UTF-8.
            MissingExtraError: pyarrow is not installed.
        """
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
        """Check that the file is a regular one, and not compressed; return its first bytes."""
        if self._path.suffix.lower() in COMPRESSED:
            raise DataError(
                self._name,
                "this is a compressed Parquet or Arrow file",
                "Expected it without compression, because these formats compress their columns themselves",
                "Decompress the file",
            )
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
            schema = _decoded(file.schema_arrow)
            yield schema
            names = list(self._choose(schema))
            for batch in file.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
                self._validate(batch, names)
                yield batch

    def _arrow_file(self, pyarrow: Any) -> Generator[Any, None, None]:
        with pyarrow.memory_map(str(self._path)) as source, pyarrow.ipc.open_file(source) as reader:
            yield _decoded(reader.schema)
            for number in range(reader.num_record_batches):
                yield from self._slices(reader.get_batch(number))

    def _arrow_stream(self, pyarrow: Any) -> Generator[Any, None, None]:
        with pyarrow.memory_map(str(self._path)) as source, pyarrow.ipc.open_stream(source) as reader:
            yield _decoded(reader.schema)
            for batch in reader:
                yield from self._slices(batch)

    def _slices(self, batch: Any) -> Generator[Any, None, None]:
        self._validate(batch, self._choose(batch.schema))
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
        if index and is_text_type(array.type) and not hasattr(array, "dictionary"):
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


def _decoded(schema: Any) -> Any:
    """Return the schema. Raises ValueError here, not where they are used, if its names are not UTF-8."""
    len(schema.names)
    return schema


def _reason(error: Exception) -> str:
    return one_line(str(error).strip().partition("\n")[0]).rstrip(".")


def plain_array(array: Any) -> Any:
    """Return an array without a dictionary, and with the functions that a view of strings lacks."""
    import pyarrow

    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        array = array.dictionary_decode()
    return array.cast(pyarrow.large_string()) if pyarrow.types.is_string_view(array.type) else array


def is_list_type(kind: Any) -> bool:
    """Return True for any kind of list."""
    from pyarrow import types

    return any(
        test(kind) for test in (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view)
    )


def is_text_type(kind: Any) -> bool:
    """Return True for strings, also as a dictionary."""
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    return any(test(inner) for test in (types.is_string, types.is_large_string, types.is_string_view))


def _pyarrow(name: str) -> Any:
    try:
        import pyarrow.ipc
    except ImportError:
        raise MissingExtraError("pyarrow", "arrow", f"reading {name}") from None
    return pyarrow
