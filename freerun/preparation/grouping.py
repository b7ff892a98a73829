"""Which pairs have equal sources, and which target is the most frequent one: an external sort of hashes.

The second pass writes the runs of each shard: the hashes of its sources, sorted, with the numbers of their pairs in the
shard; and the distinct hashes of its targets, sorted, with their numbers and first pairs. Here all runs are merged, a
range of hashes at a time. Memory is bounded by the distinct hashes of the runs in a range, however often one occurs.

Shape suffixes: K pairs of a shard, U distinct hashes of a shard, R distinct hashes of runs in a range, G groups in it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from freerun.data.prepared import GROUP_FILES
from freerun.files import file_hash, replacing_file

__all__ = ["Grouped", "group_sources", "runs_bytes", "runs_name", "runs_size"]

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

_RANGE_HASHES: Final = 2_000_000
"""About so many hashes are merged at a time."""
_SOURCES, _SOURCE_PAIRS, _TARGETS, _TARGET_COUNTS, _TARGET_FIRSTS = range(5)
_WIDTHS: Final = (8, 4, 8, 4, 4)
"""Bytes of a number of each column of a run."""
_HEADER: Final = 16
_GROUPS, _STARTS, _MEMBERS = "groups.npy", "starts.bin", "members.bin"


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """The result: number of distinct sources, number of the pair with the most frequent target, SHA-256 of files."""

    sources: int
    most_frequent_target: int
    files: dict[str, str]


# -- runs --------------------------------------------------------------------------------------------------------------


def runs_name(number: int) -> str:
    """Return the name of the file with a shard's runs."""
    return f"runs-{number:05d}.bin"


def runs_bytes(source_hashes_K: Hashes, target_hashes_K: Hashes) -> bytes:
    """Return the content of the file with a shard's runs."""
    order_K = np.argsort(source_hashes_K, kind="stable")
    targets_U, firsts_U, counts_U = np.unique(target_hashes_K, return_index=True, return_counts=True)
    header = np.array([len(order_K), len(targets_U)], np.uint64)
    columns = [source_hashes_K[order_K], order_K, targets_U, counts_U, firsts_U]
    kinds = [np.uint64 if width == 8 else np.uint32 for width in _WIDTHS]
    return header.tobytes() + b"".join(
        column.astype(kind).tobytes() for column, kind in zip(columns, kinds, strict=True)
    )


def runs_size(path: Path) -> int:
    """Return how many bytes the file with a shard's runs should have, by its header; -1 if it cannot be read."""
    try:
        return _Run(path).size
    except (OSError, ValueError):
        return -1


class _Run:
    """The runs of a shard. The file is opened for each slice: a process may open fewer files than there are shards."""

    def __init__(self, path: Path) -> None:
        self._path = path
        pairs, distinct = np.fromfile(path, np.uint64, 2).tolist()
        self._lengths = (pairs, pairs, distinct, distinct, distinct)
        sizes = [length * width for length, width in zip(self._lengths, _WIDTHS, strict=True)]
        self._starts = [_HEADER, *(_HEADER + np.cumsum(sizes)).tolist()]

    @property
    def size(self) -> int:
        return int(self._starts[-1])

    @property
    def distinct_targets(self) -> int:
        return int(self._lengths[_TARGETS])

    def read(self, column: int, start: int = 0, end: int | None = None) -> npt.NDArray[Any]:
        """Return a slice of a column."""
        width, end = _WIDTHS[column], self._lengths[column] if end is None else end
        kind = np.uint64 if width == 8 else np.uint32
        return np.fromfile(self._path, kind, end - start, offset=self._starts[column] + start * width)

    def cuts(self, column: int, limits: Sequence[np.uint64]) -> list[int]:
        """Return where each range of sorted hashes begins, and where the last one ends."""
        return [0, *np.searchsorted(self.read(column), limits).tolist(), self._lengths[column]]

    def distinct(self) -> int:
        """Return the number of distinct source hashes."""
        return len(_counted(self.read(_SOURCES))[0])


def _runs_of(values: npt.NDArray[Any]) -> tuple[Numbers, Numbers]:
    """Return where each run of equal values begins, and how long it is."""
    leads = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
    return leads, np.diff(np.append(leads, len(values)))


def _counted(hashes: Hashes) -> tuple[Hashes, Numbers]:
    """Return the distinct ones of sorted hashes, and how often each occurs."""
    leads, counts = _runs_of(hashes)
    return hashes[leads], counts


def _ranges(runs: Sequence[_Run], column: int, hashes: int) -> Iterator[list[tuple[int, int]]]:
    """Yield for each range of hashes its slice of every run; ``hashes``: how many distinct ones there are in runs."""
    count = max(1, round(hashes / _RANGE_HASHES))
    limits = [np.uint64(number * 2**64 // count) for number in range(1, count)]
    cuts = [run.cuts(column, limits) for run in runs]
    for number in range(count):
        yield [(cut[number], cut[number + 1]) for cut in cuts]


# -- merging -----------------------------------------------------------------------------------------------------------


def group_sources(
    directory: Path, scratch: Path, pairs: Sequence[int], progress: Callable[[float], None] = lambda fraction: None
) -> Grouped:
    """Write the files of the groups to ``directory``.

    Args:
        directory: of the prepared data.
        scratch: of the runs.
        pairs: of each shard.
        progress: is called with the fraction that is done.

    Raises:
        OSError: a file cannot be read or written.
    """
    runs = [_Run(scratch / runs_name(number)) for number in range(len(pairs))]
    first = np.cumsum([0, *pairs])
    with _Groups.open(scratch, int(first[-1])) as groups:
        parts = list(_ranges(runs, _SOURCES, sum(run.distinct() for run in runs)))
        for number, slices in enumerate(parts, start=1):
            groups.add(runs, slices, first)
            progress(number / len(parts) / 2)
    best = (0, 0)
    parts = list(_ranges(runs, _TARGETS, sum(run.distinct_targets for run in runs)))
    for number, slices in enumerate(parts, start=1):
        best = max(best, _most_frequent(runs, slices, first))
        progress(0.5 + number / len(parts) / 2)
    return Grouped(sources=groups.sources, most_frequent_target=-best[1], files=groups.publish(directory))


class _Groups:
    """The files of the groups while they are written, in the scratch directory.

    Attributes:
        sources: number of distinct sources so far.
    """

    def __init__(self, scratch: Path, pairs: int, members: BinaryIO, starts: BinaryIO) -> None:
        self.sources = 0
        self._scratch, self._members, self._starts = scratch, members, starts
        self._group_of = _new_array(scratch / _GROUPS, pairs)
        self._count, self._size = 0, 0
        starts.write(bytes(8))

    @classmethod
    @contextlib.contextmanager
    def open(cls, scratch: Path, pairs: int) -> Iterator[_Groups]:
        with (scratch / _MEMBERS).open("wb") as members, (scratch / _STARTS).open("wb") as starts:
            groups = cls(scratch, pairs, members, starts)
            yield groups
            groups._group_of.flush()

    def add(self, runs: Sequence[_Run], slices: Sequence[tuple[int, int]], first: Numbers) -> None:
        """Add the pairs of a range of hashes."""
        found = [_counted(run.read(_SOURCES, *part)) for run, part in zip(runs, slices, strict=True)]
        hashes_R, counts_R = (np.concatenate(each) for each in zip(*found, strict=True))
        distinct, inverse_R = np.unique(hashes_R, return_inverse=True)
        self.sources += len(distinct)
        sizes = np.bincount(inverse_R, counts_R, len(distinct)).astype(np.int64)
        hashes_G, sizes_G = distinct[sizes > 1], sizes[sizes > 1]
        if len(hashes_G):
            self._members.write(self._members_of(runs, slices, first, hashes_G, sizes_G).astype("<i8").tobytes())
        self._starts.write((self._size + np.cumsum(sizes_G)).astype("<i8").tobytes())
        self._count, self._size = self._count + len(sizes_G), self._size + int(sizes_G.sum())

    def _members_of(
        self,
        runs: Sequence[_Run],
        slices: Sequence[tuple[int, int]],
        first: Numbers,
        hashes_G: Hashes,
        sizes_G: Numbers,
    ) -> Numbers:
        """Return the pairs of all groups of a range, in order, and note the group of each."""
        members = np.empty(int(sizes_G.sum()), np.int64)
        next_G = np.cumsum(sizes_G) - sizes_G
        for number, (run, part) in enumerate(zip(runs, slices, strict=True)):
            hashes = run.read(_SOURCES, *part)
            group = np.minimum(np.searchsorted(hashes_G, hashes), len(hashes_G) - 1)
            is_member = hashes_G[group] == hashes
            group = group[is_member]
            pairs = run.read(_SOURCE_PAIRS, *part)[is_member].astype(np.int64) + first[number]
            self._group_of[pairs] = group + self._count + 1
            leads, counts = _runs_of(group)
            # the pairs of a group follow those that it has from earlier shards
            members[next_G[group] + np.arange(len(group)) - np.repeat(leads, counts)] = pairs
            next_G[group[leads]] += counts
        return members

    def publish(self, directory: Path) -> dict[str, str]:
        """Write the arrays to the directory, and return the SHA-256 of their files."""
        arrays = (
            np.load(self._scratch / _GROUPS, mmap_mode="r"),
            np.memmap(self._scratch / _STARTS, "<i8", "r"),
            np.memmap(self._scratch / _MEMBERS, "<i8", "r") if self._size else np.zeros(0, np.int64),
        )
        for name, array in zip(GROUP_FILES, arrays, strict=True):
            with replacing_file(directory / name) as file:
                np.save(file, array, allow_pickle=False)
        return {name: file_hash(directory / name) for name in GROUP_FILES}


def _new_array(path: Path, size: int) -> np.memmap[Any, np.dtype[np.int32]]:
    """Return a new array of zeros in a file for which there is room: a mapped file cannot report that there is none."""
    with path.open("wb") as file:
        header = {"descr": "<i4", "fortran_order": False, "shape": (size,)}
        np.lib.format.write_array_header_1_0(file, header)
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(file.fileno(), file.tell(), 4 * size)
        else:
            for start in range(0, size, _RANGE_HASHES):
                file.write(bytes(4 * min(_RANGE_HASHES, size - start)))
    array: np.memmap[Any, np.dtype[np.int32]] = np.load(path, mmap_mode="r+")
    return array


def _most_frequent(runs: Sequence[_Run], slices: Sequence[tuple[int, int]], first: Numbers) -> tuple[int, int]:
    """Return how often the most frequent target of a range occurs, and minus the number of its first pair."""
    hashes_R, counts_R, firsts_R = (
        np.concatenate([run.read(column, *part) for run, part in zip(runs, slices, strict=True)])
        for column in (_TARGETS, _TARGET_COUNTS, _TARGET_FIRSTS)
    )
    if not len(hashes_R):
        return 0, 0
    lengths = [end - start for start, end in slices]
    pairs_R = firsts_R.astype(np.int64) + np.repeat(first[:-1], lengths)
    distinct, inverse_R = np.unique(hashes_R, return_inverse=True)
    counts = np.bincount(inverse_R, counts_R, len(distinct)).astype(np.int64)
    first_pairs = np.full(len(distinct), np.iinfo(np.int64).max)
    np.minimum.at(first_pairs, inverse_R, pairs_R)
    return int(counts.max()), -int(first_pairs[counts == counts.max()].min())
