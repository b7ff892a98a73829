"""Shards: files of some ten thousand pairs as ids, which are mapped into memory and not read as a whole.

A shard is one array, in NumPy's format: the lengths of all sources, of all targets and, if there are features, of all
features; then the ids of all sources, of all targets and of all features. EOS is not stored, and sources are in reading
order: whether a model reads them in reverse is its own choice.
"""

from __future__ import annotations

import errno
import hashlib
import io
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from freerun.data.manifest import ShardEntry
from freerun.data.training_pairs import IntArray
from freerun.errors import DataError
from freerun.symbols import UNK

__all__ = ["FEATURES", "SOURCE", "TARGET", "Shard", "dtype_for", "open_shard", "shard_bytes", "shard_name"]

SOURCE, TARGET, FEATURES = range(3)
"""The columns of a shard."""
_UINT16: Final = 2**16


@dataclass(frozen=True, eq=False)
class Shard:
    """The columns of a shard: lengths, ids, and where each row begins (and the last one ends)."""

    lengths: Sequence[IntArray]
    tokens: Sequence[IntArray]
    starts: Sequence[npt.NDArray[np.int64]]

    def row(self, column: int, number: int) -> IntArray:
        """Return the ids of a row."""
        starts = self.starts[column]
        return self.tokens[column][starts[number] : starts[number + 1]]


def dtype_for(largest: int) -> Literal["uint16", "int32"]:
    """Return the type for ids and lengths up to ``largest``."""
    return "uint16" if largest < _UINT16 else "int32"


def shard_name(number: int) -> str:
    """Return the name of a shard's file."""
    return f"shard-{number:05d}.npy"


def shard_bytes(lengths: Sequence[IntArray], tokens: Sequence[IntArray], dtype: npt.DTypeLike) -> bytes:
    """Return the content of a shard's file."""
    file = io.BytesIO()
    np.save(file, np.concatenate([*lengths, *tokens], dtype=dtype, casting="unsafe"), allow_pickle=False)
    return file.getvalue()


def open_shard(path: Path, entry: ShardEntry, dtype: str, sizes: Sequence[int], *, check: bool = True) -> Shard:
    """Map a shard into memory.

    Args:
        path: its file.
        entry: its entry in the manifest.
        dtype: of its numbers.
        sizes: of the vocabulary of each column.
        check: all of its content, and not only its size.

    Raises:
        DataError: it is missing, truncated or changed.
    """
    mapped = _mapped(path, entry)
    if check and hashlib.sha256(mapped).hexdigest() != entry.sha256:
        raise damaged(path, "its content has changed since it was written (another SHA-256)")
    counts = [entry.source_tokens, entry.target_tokens, entry.feature_tokens][: len(sizes)]
    array = _array(path, mapped, dtype, entry.pairs * len(sizes) + sum(counts))
    columns = np.split(array, np.cumsum([*[entry.pairs] * len(sizes), *counts])[:-1])
    lengths, tokens = columns[: len(sizes)], columns[len(sizes) :]
    starts = [np.concatenate([[0], np.cumsum(length, dtype=np.int64)]) for length in lengths]
    for start, count, ids, size in zip(starts, counts, tokens, sizes, strict=True):
        # no row has PAD, BOS or EOS
        is_good = start[-1] == count and (not check or not count or UNK <= int(ids.min()) <= int(ids.max()) < size)
        if not is_good or (check and (np.diff(start) < 0).any()):
            raise damaged(path, "its ids do not fit the vocabularies")
    return Shard(lengths, tokens, starts)


def _mapped(path: Path, entry: ShardEntry) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            if size != entry.bytes:
                raise damaged(path, f"it has {size:,} bytes, and had {entry.bytes:,} when it was written")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise DataError(
                path,
                "this process may not open more files",
                "Expected as many as a window has shards, and some hundred more",
                "Raise the limit (ulimit -n), or lower data.window",
            ) from error
        raise damaged(path, f"it cannot be read ({error.strerror})") from error
    return mapped


def _array(path: Path, mapped: mmap.mmap, dtype: str, size: int) -> npt.NDArray[Any]:
    """Return the array of a file in NumPy's format, without copying it."""
    try:
        version = np.lib.format.read_magic(mapped)
        shape, _, found = np.lib.format.read_array_header_1_0(mapped) if version == (1, 0) else ((), False, None)
    except ValueError as error:
        raise damaged(path, f"it is not an array ({error})") from error
    if shape != (size,) or found != np.dtype(dtype):
        raise damaged(path, f"it holds {found} {shape}, and not {dtype} ({size},)")
    return np.frombuffer(mapped, dtype, size, mapped.tell())


def damaged(path: Path, what: str) -> DataError:
    """Return the error for a file of prepared data that is not as it was written."""
    return DataError(
        path,
        f"this file is damaged: {what}",
        "Expected the file that freerun data prepare wrote",
        "Copy the directory again, or prepare the pairs again",
    )
