"""Blocks: some ten thousand lines of files of pairs, cut by one process and parsed by many.

The usual case is parsed with a few operations on the whole block. Whatever is wrong with a block is not explained here:
it is read again by ``readers``, whose messages name the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from freerun.data.columnar import read_columnar
from freerun.data.columns import ColumnNumbers, Columns, as_numbers
from freerun.data.features import Features, contains_separator
from freerun.data.readers import (
    BOM,
    MAX_LINE_BYTES,
    PairsLocation,
    PairsPart,
    files_of,
    is_columnar,
    kind_of,
    open_lines,
    parts_of,
)
from freerun.text import forbidden_character, lone_surrogate

__all__ = ["MAX_BLOCK_BYTES", "MAX_BLOCK_LINES", "BadBlock", "Block", "Texts", "blocks_of", "texts_of"]

MAX_BLOCK_LINES: Final = 100_000
MAX_BLOCK_BYTES: Final = 8_000_000
"""A block has at most so many lines and, unless a single line is longer, bytes: they bound the memory of a process."""
_READ_BYTES: Final = 1 << 20
_ROOM: Final = 8
"""Bytes of a byte order mark and a line end, and a few more."""
_TAB, _LINE_END = 9, 10


class BadBlock(Exception):
    """A block that ``readers`` would reject: they explain why."""


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts of N pairs, and the features of their sources if they have any."""

    sources: list[str]
    targets: list[str]
    features: list[Features] | None = None

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True, eq=False)
class Block:
    """Whole lines of a file of pairs, or of two parallel files; or the pairs of some rows of a columnar file.

    Attributes:
        kind: that of ``kind_of``, or "columns".
        contents: the lines of each file.
        texts: of a columnar file, which are checked already.
        is_first: the first block of its file.
        num_bytes: of the content, decompressed.
    """

    kind: str
    contents: tuple[bytes, ...] = ()
    texts: Texts | None = None
    is_first: bool = False
    num_bytes: int = 0


# -- cutting -----------------------------------------------------------------------------------------------------------


def blocks_of(location: PairsLocation, columns: Columns | None = None) -> Iterator[Block]:
    """Cut pairs into blocks, in their order; where they are cut depends only on the (decompressed) content.

    ``columns`` are those of columnar files.

    Raises:
        DataError: a file cannot be read.
        BadBlock: a file is empty, or parallel files have different numbers of lines.
    """
    for part in parts_of(location):
        is_empty = True
        for block in _part(part, columns):
            is_empty = False
            yield block
        if is_empty:
            raise BadBlock


def _part(part: PairsPart, columns: Columns | None) -> Iterator[Block]:
    if isinstance(part, Path) and is_columnar(part):
        return _columnar_blocks(part, columns)
    return _blocks(files_of(part), kind_of(part))


def _columnar_blocks(path: Path, columns: Columns | None) -> Iterator[Block]:
    sources: list[str] = []
    targets: list[str] = []
    features: list[Features] = []
    size, is_first = 0, True

    def block() -> Block:
        return Block("columns", texts=Texts(sources, targets, features or None), is_first=is_first, num_bytes=size)

    for batch in read_columnar(path, columns):
        sources, targets = sources + batch.sources, targets + batch.targets
        features = features + (batch.features or [])
        size += sum(map(len, batch.sources)) + sum(map(len, batch.targets))
        if len(sources) >= MAX_BLOCK_LINES // 2 or size >= MAX_BLOCK_BYTES // 2:
            yield block()
            sources, targets, features, size, is_first = [], [], [], 0, False
    if sources:
        yield block()


def _blocks(files: Sequence[Path], kind: str) -> Iterator[Block]:
    if len(files) == 1:
        with open_lines(files[0], str(files[0])) as stream:
            yield from _cut([_Lines(stream)], kind)
        return
    with open_lines(files[0], str(files[0])) as left, open_lines(files[1], str(files[1])) as right:
        yield from _cut([_Lines(left), _Lines(right)], kind)


def _cut(streams: Sequence[_Lines], kind: str) -> Iterator[Block]:
    is_first = True
    while lines := min(stream.available() for stream in streams):
        contents = tuple(stream.take(lines) for stream in streams)
        yield Block(kind, contents, is_first=is_first, num_bytes=sum(map(len, contents)))
        is_first = False
    if any(stream.available() for stream in streams):
        raise BadBlock


class _Lines:
    """The lines of a stream, some ten thousand at a time."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._lines = 0
        self._is_over = False

    def available(self) -> int:
        """Return how many lines can be taken: 0 at the end of the stream."""
        while self._lines < MAX_BLOCK_LINES and not self._is_over:
            if self._lines and len(self._buffer) >= MAX_BLOCK_BYTES:
                break
            content = self._stream.read(_READ_BYTES)
            self._is_over = not content
            self._buffer += content
            self._lines += content.count(b"\n")
            if not self._lines and len(self._buffer) > max(MAX_BLOCK_BYTES, MAX_LINE_BYTES + _ROOM):
                raise BadBlock  # no line may be as long
        unfinished = self._is_over and len(self._buffer) and not self._buffer.endswith(b"\n")
        return min(self._lines + bool(unfinished), MAX_BLOCK_LINES)

    def take(self, lines: int) -> bytes:
        """Return so many lines, with their ends."""
        size = len(self._buffer)
        if lines < self._lines or (lines == self._lines and not self._buffer.endswith(b"\n")):
            ends = np.flatnonzero(np.frombuffer(self._buffer, np.uint8) == _LINE_END)
            size = int(ends[lines - 1]) + 1
            del ends
        content = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._lines -= content.count(b"\n")
        return content


# -- parsing -----------------------------------------------------------------------------------------------------------


def texts_of(block: Block, columns: Columns | None = None, separator: str | None = None) -> Texts:
    """Return the texts of a block.

    Args:
        block: the block.
        columns: as for ``read_pairs``.
        separator: of features; None if the pairs have none.

    Raises:
        BadBlock: ``read_pairs``, or the checks of features, would reject a line.
    """
    lines = [_text(content, block.is_first) for content in block.contents]
    if block.texts is not None:
        texts = block.texts
    elif block.kind == "parallel files":
        texts = _parallel(lines)
    elif block.kind == "JSON Lines":
        texts = _json(lines[0])
        if columns is not None and len(columns) == 2:  # of other files in the list: no file's features are read
            texts = Texts(texts.sources, texts.targets)
    else:
        texts = _tsv(lines[0], as_numbers(columns))
    if (texts.features is None) != (separator is None):
        raise BadBlock
    if separator is not None and any(_is_split(each, separator) for each in texts.features or ()):
        raise BadBlock
    return texts


def _is_split(features: Features, separator: str) -> bool:
    return not isinstance(features, str) and any(contains_separator(each, separator) for each in features)


def _text(content: bytes, is_first: bool) -> str:
    """Return the text of lines that all end with a line feed, without the last one."""
    if is_first and content.startswith(BOM):
        content = content[len(BOM) :]
    ends_with_line_feed = content.endswith(b"\n")
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n")
    if ends_with_line_feed:
        content = content[:-1]
    if b"\0" in content or _has_long_line(content):
        raise BadBlock
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadBlock from None


def _has_long_line(content: bytes) -> bool:
    if len(content) <= MAX_LINE_BYTES:
        return False
    ends = np.flatnonzero(np.frombuffer(content, np.uint8) == _LINE_END)
    return bool(np.diff(ends, prepend=-1, append=len(content)).max() > MAX_LINE_BYTES + 1)


def _parallel(lines: Sequence[str]) -> Texts:
    if any("\t" in text for text in lines):
        raise BadBlock
    return Texts(lines[0].split("\n"), lines[1].split("\n"))


def _tsv(text: str, columns: ColumnNumbers | None) -> Texts:
    source, target, *features = columns or (1, 2)
    width = _width(text)
    if width == 0 or (columns is None and width != 2):
        return _ragged(text, columns)
    if width < max(source, target, *features):
        raise BadBlock
    fields = text.replace("\n", "\t").split("\t")
    return _columns([fields[number - 1 :: width] for number in (source, target, *features)])


def _width(text: str) -> int:
    """Return the number of columns if all lines have the same, and else, or if there is only one, 0."""
    width = text.partition("\n")[0].count("\t") + 1
    # ASCII bytes occur in UTF-8 only as themselves
    codes = np.frombuffer(text.encode(), np.uint8)
    separators = np.append(codes[(codes == _TAB) | (codes == _LINE_END)], _LINE_END)
    if width < 2 or len(separators) % width:
        return 0
    lines = separators.reshape(-1, width)
    return width if (lines[:, -1] == _LINE_END).all() and (lines[:, :-1] == _TAB).all() else 0


def _ragged(text: str, columns: ColumnNumbers | None) -> Texts:
    """Return the chosen columns of lines that have different numbers of them."""
    if columns is None:
        raise BadBlock
    rows = [line.split("\t") for line in text.split("\n")]
    if any(len(row) < max(columns) or (len(row) == 1 and not row[0].strip(" \r")) for row in rows):
        raise BadBlock
    return _columns([[row[number - 1] for row in rows] for number in columns])


def _columns(columns: Sequence[list[str]]) -> Texts:
    features: list[Features] | None = [*columns[2]] if len(columns) > 2 else None
    return Texts(columns[0], columns[1], features)


def _json(text: str) -> Texts:
    sources: list[str] = []
    targets: list[str] = []
    features: list[Any] = []
    for line in text.split("\n"):
        try:
            content = json.loads(line)
            source, target = content["source"], content["target"]
            found = content.get("features")
        except (ValueError, RecursionError, KeyError, TypeError):
            raise BadBlock from None
        each = target if isinstance(target, list) else [target]
        if not each or ("features" in content and not isinstance(found, str | list)):
            raise BadBlock
        sources += [source] * len(each)
        targets += each
        features += [tuple(found) if isinstance(found, list) else found] * len(each)
    _check_fields([*sources, *targets])
    missing = features.count(None)
    if missing == len(features):
        return Texts(sources, targets)
    if missing:
        raise BadBlock
    _check_fields(list(chain.from_iterable([each] if isinstance(each, str) else each for each in features)))
    return Texts(sources, targets, features)


def _check_fields(fields: Sequence[object]) -> None:
    """Check that all fields are strings that a line of a TSV file could hold."""
    if not all(isinstance(field, str) for field in fields):
        raise BadBlock
    text = " ".join(fields)  # type: ignore[arg-type]
    if forbidden_character(text) or lone_surrogate(text):
        raise BadBlock
