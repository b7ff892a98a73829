r"""Readers of pairs and texts: TSV, two parallel files and JSON Lines, plain or compressed; Parquet and Arrow.

Everything is streamed: at most one line is in memory, or one batch of rows (``columnar``). ``decompression`` opens and
decompresses files of lines, ``opening`` decides which files can be opened and how to wait for a pipe; a pipe is read
once, so code that needs several passes copies it first (``copy_pairs``). Lines end with ``\n`` or ``\r\n``; other line
ends of Unicode (U+2028, form feed) are ordinary text. Every error is a ``DataError`` with file, line and, for an
invalid byte, its offset from the start of the (decompressed) file.

The file has more than 350 lines because a third of them are the error messages of all formats, kept in one place.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, count, zip_longest
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from freerun.data.arrow_files import COLUMNAR_SUFFIXES
from freerun.data.columnar import columnar_column_count, read_columnar
from freerun.data.columns import COLUMNS_WITH_FEATURES, ColumnNumbers, Columns, are_names, as_numbers, listed
from freerun.data.decompression import COMPRESSED, as_data_error, open_lines
from freerun.data.features import Features
from freerun.data.json_pairs import json_fields
from freerun.data.manifest import is_prepared, read_manifest
from freerun.data.opening import Say, open_file, reject_read_once
from freerun.errors import DataError

__all__ = [
    "BOM",
    "COLUMNS_WITH_FEATURES",
    "MAX_LINE_BYTES",
    "Columns",
    "MissingColumnError",
    "Pair",
    "PairFiles",
    "PairsLocation",
    "PairsPart",
    "ParallelFiles",
    "check_column_counts",
    "column_count",
    "content_hash",
    "copy_pairs",
    "describe",
    "each_file",
    "files_of",
    "has_columns",
    "is_columnar",
    "kind_of",
    "kinds_of",
    "label_of",
    "open_lines",
    "parts_of",
    "read_pairs",
    "read_parts",
    "read_texts",
]

MAX_LINE_BYTES = 1_000_000
"""Longer lines are rejected before all of them is read."""

# Some editors put it before the first line to mark UTF-8; it is not part of the text.
BOM = b"\xef\xbb\xbf"
_JSON_SUFFIXES = (".jsonl", ".json")


class Pair(NamedTuple):
    """A source, one of its targets, the number of its line or row (from 1), and the source's features if it has any."""

    source: str
    target: str
    line: int
    features: Features | None = None


@dataclass(frozen=True)
class ParallelFiles:
    """Two files with corresponding lines: line n of ``target`` is the target of line n of ``source``."""

    source: Path
    target: Path


@dataclass(frozen=True)
class PairFiles:
    """Files of pairs that are read one after another, possibly of different formats."""

    files: tuple[Path, ...]


PairsLocation = Path | ParallelFiles | PairFiles
"""The location of pairs: one file of pairs, two parallel files, or a list of files of pairs."""
PairsPart = Path | ParallelFiles
"""Pairs that a command line can name, and each part of a list."""


class MissingColumnError(DataError):
    """A line of a TSV file without one of the chosen columns."""


class _Line(NamedTuple):
    number: int
    text: str


Sink = Callable[[bytes], object]
"""Receives the decompressed bytes of each line before they are parsed."""


def read_pairs(location: PairsLocation, columns: Columns | None = None, on_wait: Say | None = None) -> Iterator[Pair]:
    """Stream the pairs of a file, of two parallel files, or of a list of files, in order.

    Args:
        location: a TSV file; a JSON Lines file (``.jsonl`` or ``.json``, objects ``{"source": str, "target": str}``; a
            list of strings as target holds several references and yields several pairs; the key ``features``, a string
            or a list of strings, is optional); a Parquet or Arrow file with such columns (``.parquet``, ``.arrow``,
            ``.feather``); two parallel files; or a list of files.
        columns: numbers of columns for TSV files, or names for Parquet and Arrow files; the other files of a list are
            read by default: a TSV file must have two columns. A third column is that of the features.
        on_wait: called with a sentence if a pipe has no data for a while.

    Raises:
        DataError: anything else, or a file without any pair.
        MissingExtraError: the package that reads the format is not installed.
    """
    return chain.from_iterable(pairs for _, pairs in read_parts(location, columns, on_wait))


def read_parts(
    location: PairsLocation, columns: Columns | None = None, on_wait: Say | None = None
) -> Iterator[tuple[PairsPart, Iterator[Pair]]]:
    """Yield each file of a list (any other location as a whole) with the stream of its pairs, as ``read_pairs`` does.

    The line of a pair is counted in its own file, which messages therefore name (``label_of``).
    """
    return _parts(location, columns, _Opener(on_wait, {}))


def copy_pairs(
    location: PairsLocation, copies: dict[Path, Sink], columns: Columns | None = None, on_wait: Say | None = None
) -> None:
    """Read pairs once, as ``read_pairs`` does, and pass every line of each file in ``copies`` to its sink.

    A sink receives the decompressed bytes of the file unchanged. Each line is checked before the next one is read, so a
    stream without line ends or with other content ends after one line. Without ``columns``, a TSV file may also have
    three, because training recognizes features when it reads the copy. Raises as ``read_pairs`` does otherwise.
    """
    for _, pairs in _parts(location, columns, _Opener(on_wait, copies)):
        for _ in pairs:
            pass


def _parts(
    location: PairsLocation, columns: Columns | None, opened: _Opener
) -> Iterator[tuple[PairsPart, Iterator[Pair]]]:
    if columns is not None:
        _check_columns(location, columns)
    elif isinstance(location, PairFiles):
        check_column_counts(location)
    for part in parts_of(location):
        yield part, _pairs(part, columns, opened)


def _pairs(part: PairsPart, columns: Columns | None, opened: _Opener) -> Iterator[Pair]:
    pairs = _pairs_of(part, columns, opened)
    # Reported here for all formats: a pass over no pairs would look successful.
    first = next(pairs, None)
    if first is None:
        raise DataError(
            describe(part),
            "the file is empty and has no pairs",
            "Expected at least one pair of source and target",
            "Check the path, or the program that wrote the file",
        )
    yield first
    yield from pairs


def read_texts(path: Path | BinaryIO, name: str, on_wait: Say | None = None, *, tabs: bool = False) -> Iterator[str]:
    """Stream the lines of a file of texts, or of an open binary stream; an empty line is an empty text.

    Messages call the file ``name``. An empty file yields nothing. ``on_wait`` is that of ``read_pairs``. Raises
    ``DataError`` for a tab in a line, unless ``tabs`` allows them, and for all bytes that ``read_pairs`` rejects.
    """
    if isinstance(path, Path):
        with _Opener(on_wait, {})(path, name) as stream:
            yield from _texts(stream, name, "input", tabs)
    else:  # the owner closes a stream
        yield from _texts(path, name, "input", tabs)


def column_count(path: Path) -> int:
    """Return the number of tab-separated columns on the first line of a TSV file, 0 if the file is empty.

    Of a Parquet or Arrow file, it is the number of columns that are read by default: 3 if there are features, else 2.

    Raises ``DataError`` as ``read_pairs`` does for a file or a line that cannot be read.
    """
    if is_columnar(path):
        return columnar_column_count(path)
    name = str(path)
    with _Opener(None, {})(path, name) as stream:
        return next((len(line.text.split("\t")) for line in _lines(stream, name)), 0)


def check_column_counts(location: PairFiles) -> None:
    """Check that all files of a list that have columns have the same number of them.

    Raises:
        DataError: two have different numbers, or a file cannot be read.
    """
    first: tuple[Path, int] | None = None
    for file in location.files:
        count = column_count(file) if has_columns(file) else 0
        if not count:  # an empty file is reported as it is read
            continue
        first = first or (file, count)
        if count != first[1]:
            plural = "" if count == 1 else "s"
            raise DataError(
                file,
                f"{count} column{plural}, and {first[0]} has {first[1]}",
                "Expected the same number of columns in all files of the list",
                "Choose columns that all of them have with --columns or data.columns, or take one file out of the list",
            )


def content_hash(location: PairsLocation) -> str:
    """Return the SHA-256 (hex) of a file's raw bytes; of several files, that of their hashes in their order.

    Names do not matter; prepared pairs have the hash of their manifest. Raises ``DataError`` for a file that cannot be
    read, and for a pipe, because a file with a hash is read again.
    """
    if isinstance(location, Path):
        if is_prepared(location):
            return read_manifest(location)[1]
        reject_read_once(location)
        with as_data_error(str(location)):
            with open_file(location, str(location)) as handle:
                return hashlib.file_digest(cast(io.BufferedReader, handle), "sha256").hexdigest()
    # A hash of hashes distinguishes files with equal concatenations, and the word a list from parallel files.
    hashes = "".join(map(content_hash, files_of(location)))
    return hashlib.sha256((hashes if isinstance(location, ParallelFiles) else f"list {hashes}").encode()).hexdigest()


def describe(location: PairsLocation) -> str:
    """Return the path or paths, as error messages name them; of a long list, the first one and their number."""
    files = files_of(location)
    if len(files) > 2:
        return f"{files[0]} and {len(files) - 1:,} other files"
    return " and ".join(map(str, files))


def label_of(part: PairsPart, location: PairsLocation, label: str) -> str:
    """Return what messages call a part of ``location``, whose own name is ``label``."""
    return describe(part) if isinstance(location, PairFiles) else label


def parts_of(location: PairsLocation) -> tuple[PairsPart, ...]:
    """Return the files of a list; any other location as a whole."""
    return location.files if isinstance(location, PairFiles) else (location,)


def files_of(location: PairsLocation) -> list[Path]:
    """Return the file, or all files in order."""
    match location:
        case Path():
            return [location]
        case ParallelFiles():
            return [location.source, location.target]
    return list(location.files)


def each_file(location: PairsLocation, change: Callable[[Path], Path]) -> PairsLocation:
    """Apply ``change`` to each file of ``location``."""
    match location:
        case Path():
            return change(location)
        case ParallelFiles():
            return ParallelFiles(change(location.source), change(location.target))
    return PairFiles(tuple(map(change, location.files)))


@dataclass(frozen=True)
class _Opener:
    """Opens files for one pass; the lines of those in ``copies`` are also passed to their sinks."""

    on_wait: Say | None
    copies: dict[Path, Sink]

    @contextlib.contextmanager
    def __call__(self, path: Path, name: str) -> Iterator[BinaryIO]:
        with open_lines(path, name, self.on_wait) as stream:
            sink = self.copies.get(path)
            yield stream if sink is None else cast(BinaryIO, _Tee(stream, sink))


class _Tee:
    """A stream of lines that also passes each line to a sink."""

    def __init__(self, stream: BinaryIO, sink: Sink) -> None:
        self._stream, self._sink = stream, sink

    def readline(self, limit: int) -> bytes:
        """Return the next line, at most ``limit`` bytes of it: a stream without line ends is not copied as a whole."""
        line = self._stream.readline(limit)
        self._sink(line)
        return line


def _pairs_of(part: PairsPart, columns: Columns | None, opened: _Opener) -> Iterator[Pair]:
    if isinstance(part, ParallelFiles):
        return _parallel_pairs(part, opened)
    if is_columnar(part):
        return _columnar_pairs(part, columns)
    if kind_of(part) == "JSON Lines":
        return _json_pairs(part, opened, columns is None or len(columns) > 2)
    return _tsv_pairs(part, as_numbers(columns), opened)


def kind_of(location: PairsLocation) -> str:
    """Return the format: "TSV", "JSON Lines", "Parquet", "Arrow" or "parallel files"; of a list, all its formats."""
    match location:
        case ParallelFiles():
            return "parallel files"
        case PairFiles():
            return " and ".join(dict.fromkeys(map(kind_of, location.files)))
    # The name decides, not the content: a TSV line may begin with a brace.
    suffixes = [suffix.lower() for suffix in location.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    return COLUMNAR_SUFFIXES.get(suffix, "JSON Lines" if suffix in _JSON_SUFFIXES else "TSV")


def kinds_of(location: PairsLocation) -> set[str]:
    """Return the formats of all parts."""
    return set(map(kind_of, parts_of(location)))


def is_columnar(location: PairsLocation) -> bool:
    """Return True if one of the files is a Parquet or Arrow file, whose columns have names."""
    return not kinds_of(location).isdisjoint(COLUMNAR_SUFFIXES.values())


def has_columns(location: PairsLocation, by_name: bool | None = None) -> bool:
    """Return True if columns of one of the files can be chosen: by name, by number, or (None) in either way."""
    is_tsv, is_named = "TSV" in kinds_of(location), is_columnar(location)
    return is_tsv or is_named if by_name is None else is_named if by_name else is_tsv


def _check_columns(location: PairsLocation, columns: Columns) -> None:
    chosen = f"columns {listed(columns)} were chosen"
    if not has_columns(location):
        raise DataError(
            describe(location),
            f"{chosen}, but the format is {kind_of(location)}",
            "Expected a TSV, Parquet or Arrow file, because only these have columns",
            "Omit --columns, or data.columns in a configuration",
        )
    if not has_columns(location, are_names(columns)):
        kind = kind_of(location)
        way, other, example = ("name", "numbers", "1,2") if are_names(columns) else ("number", "names", "source,target")
        raise DataError(
            describe(location),
            f"{chosen} by {way}, but the format is {kind}",
            f"Expected {other}, because the columns of such a file have no {way}s",
            f"Choose the columns with, for example, --columns {example}",
        )
    if min(as_numbers(columns) or [1]) < 1:
        raise DataError(
            describe(location),
            f"{chosen}, but the first column is number 1",
            "Expected two numbers, or three with features, counted from 1",
            "Choose the columns with, for example, --columns 1,3",
        )
    # The source's column may be the target's, too: copying is a task. With features equal to either, there is none.
    if len(columns) > 2 and columns[2] in columns[:2]:
        example = "source,target,features" if are_names(columns) else "1,2,3"
        raise DataError(
            describe(location),
            f"{chosen}, so the features are the {'target' if columns[2] == columns[1] else 'source'}",
            "Expected a separate column of features",
            f"Choose the columns with, for example, --columns {example}",
        )


def _columnar_pairs(path: Path, columns: Columns | None) -> Iterator[Pair]:
    for batch in read_columnar(path, columns):
        if batch.features is None:
            yield from map(Pair, batch.sources, batch.targets, batch.rows)
        else:
            yield from map(Pair, batch.sources, batch.targets, batch.rows, batch.features)


def _tsv_pairs(path: Path, columns: ColumnNumbers | None, opened: _Opener) -> Iterator[Pair]:
    name = str(path)
    with opened(path, name) as stream:
        for number, text in _lines(stream, name):
            fields = text.split("\t")
            # The usual case comes first: reading time is spent in this loop.
            if columns is None and len(fields) == 2:
                yield Pair(fields[0], fields[1], number)
            # Tabs are not stripped: a line of tabs is not blank, it has empty columns.
            elif len(fields) == 1 and not text.strip(" \r"):
                raise _blank_line(name, number, "a source, a tab and a target")
            else:
                if columns is None:
                    if number > 1 or len(fields) != 3 or not opened.copies:
                        raise _wrong_columns(name, number, len(fields))
                    columns = COLUMNS_WITH_FEATURES
                if len(fields) < max(columns):
                    raise _column_out_of_range(name, number, len(fields), columns)
                # Two indices and no generator: this is the loop of files with chosen columns.
                features = fields[columns[2] - 1] if len(columns) > 2 else None
                yield Pair(fields[columns[0] - 1], fields[columns[1] - 1], number, features)


def _blank_line(name: str, number: int, expected: str) -> DataError:
    return DataError(f"{name}:{number}", "the line is blank", f"Expected {expected}", "Remove the line")


def _wrong_columns(name: str, number: int, count: int) -> DataError:
    fix = "Remove the extra tab, or choose the columns with --columns" if count > 2 else "Put a tab between the two"
    plural = "" if count == 1 else "s"
    return DataError(f"{name}:{number}", f"{count} tab-separated column{plural}", "Expected 2: source and target", fix)


def _column_out_of_range(name: str, number: int, count: int, columns: ColumnNumbers) -> MissingColumnError:
    plural = "" if count == 1 else "s"
    missing = max(columns)
    content = " of features" if columns[2:] == (missing,) and count >= max(columns[:2]) else ""
    return MissingColumnError(
        f"{name}:{number}",
        f"{count} tab-separated column{plural}, so there is no column {missing}{content}",
        f"Expected at least {missing}, because columns {listed(columns)} were chosen",
        "Choose other columns with --columns, or fix the line",
    )


def _json_pairs(path: Path, opened: _Opener, with_features: bool = True) -> Iterator[Pair]:
    name = str(path)
    with opened(path, name) as stream:
        for number, text in _lines(stream, name):
            if not text.strip():
                raise _blank_line(name, number, "one JSON object")
            source, targets, features = json_fields(text, f"{name}:{number}")
            for target in targets:
                yield Pair(source, target, number, features if with_features else None)


def _parallel_pairs(files: ParallelFiles, opened: _Opener) -> Iterator[Pair]:
    with opened(files.source, str(files.source)) as left, opened(files.target, str(files.target)) as right:
        sources, targets = (_texts(left, str(files.source), "source"), _texts(right, str(files.target), "target"))
        for number, (source, target) in enumerate(zip_longest(sources, targets), start=1):
            if source is None or target is None:
                # Both lengths are reported: they show whether a line or half of a file is missing.
                rest = sum(1 for _ in (targets if source is None else sources))
                raise _unequal_lengths(files, number - 1, number + rest, source is None)
            yield Pair(source, target, number)


def _unequal_lengths(files: ParallelFiles, shorter: int, longer: int, source_is_shorter: bool) -> DataError:
    counts = (shorter, longer) if source_is_shorter else (longer, shorter)
    return DataError(
        describe(files),
        f"{counts[0]} lines and {counts[1]} lines",
        "Expected the same number of lines in both files",
        "Check that both files are from the same data, line by line",
    )


def _texts(stream: BinaryIO, name: str, kind: str, tabs: bool = False) -> Iterator[str]:
    for number, text in _lines(stream, name):
        if not tabs and "\t" in text:
            raise DataError(
                f"{name}:{number}",
                f"a tab at character {text.index(chr(9)) + 1} of the line",
                f"Expected one {kind} text per line",
                "Remove the tab, or the text after it"
                if kind == "input"
                else "Remove the tab; if this file holds pairs (source<TAB>target), give it alone",
            )
        yield text


def _lines(stream: BinaryIO, name: str) -> Iterator[_Line]:
    """Yield the lines without their ends; every byte is checked."""
    start = 0  # byte offset of the line in the file
    with as_data_error(name):  # around the loop, because entering it takes as long as reading a line
        for number in count(1):
            # The limit stops readline, so that a file without line ends is never in memory as a whole.
            raw = stream.readline(MAX_LINE_BYTES + 2)
            if not raw or (number == 1 and raw == BOM):
                return
            # At most one "\r" belongs to the line end; others are text. The last line may have no end.
            content = raw[:-1].removesuffix(b"\r") if raw.endswith(b"\n") else raw
            if len(content) > MAX_LINE_BYTES:
                raise _too_long(name, number)
            skipped = len(BOM) if number == 1 and content.startswith(BOM) else 0
            yield _Line(number, _decode(content[skipped:], name, number, start + skipped))
            start += len(raw)


def _too_long(name: str, number: int) -> DataError:
    return DataError(
        f"{name}:{number}",
        f"the line is longer than {MAX_LINE_BYTES:,} bytes",
        "Expected one text or pair per line",
        "Check that the file is text with line ends, or split the line",
    )


def _decode(content: bytes, name: str, number: int, start: int) -> str:
    # NUL is valid UTF-8, but in a text file it indicates UTF-16 or binary content.
    if b"\0" in content:
        raise DataError(
            f"{name}:{number}",
            f"a NUL byte at byte offset {start + content.index(0)}",
            "Expected UTF-8 text",
            "Check that this is a text file; if it is UTF-16, save it as UTF-8",
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}:{number}",
            f"not UTF-8: byte 0x{content[error.start]:02x} at byte offset {start + error.start}",
            "Expected UTF-8 text",
            "Convert the file, for example with: iconv -f ENCODING -t UTF-8",
        ) from error
