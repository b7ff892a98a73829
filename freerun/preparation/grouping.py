"""Which pairs have equal sources, and which target is the most frequent one: an external sort of hashes.

The second pass writes a run for each shard: the hashes of its sources, sorted, with the number of each pair in the
shard; and the same for its targets. Here all runs are merged, a range of hashes at a time, so that memory is bounded.

Shape suffixes: N pairs, K pairs of a shard, M pairs of a range.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from freerun.data.prepared import GROUP_FILES
from freerun.files import file_hash, replacing_file

__all__ = ["Grouped", "group_sources", "runs_bytes", "runs_name"]

_RANGE_PAIRS: Final = 2_000_000
"""About so many pairs are merged at a time."""
_SOURCE, _TARGET = 0, 1
_GROUPS, _STARTS, _MEMBERS = "groups.npy", "starts.bin", "members.bin"


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """The result: number of distinct sources, number of the pair with the most frequent target, SHA-256 of files."""

    sources: int
    most_frequent_target: int
    files: dict[str, str]


def runs_name(number: int) -> str:
    """Return the name of a shard's file of runs."""
    return f"runs-{number:05d}.npy"


def runs_bytes(source_hashes_K: npt.NDArray[np.uint64], target_hashes_K: npt.NDArray[np.uint64]) -> bytes:
    """Return the content of a shard's file of runs: for both sides sorted hashes, and the pairs' numbers: [4, K]."""
    runs = np.empty((4, len(source_hashes_K)), np.uint64)
    for side, hashes_K in ((_SOURCE, source_hashes_K), (_TARGET, target_hashes_K)):
        order_K = np.argsort(hashes_K, kind="stable")
        runs[2 * side], runs[2 * side + 1] = hashes_K[order_K], order_K
    file = io.BytesIO()
    np.save(file, runs, allow_pickle=False)
    return file.getvalue()


def group_sources(
    directory: Path, scratch: Path, pairs: Sequence[int], progress: Callable[[int], None] = lambda done: None
) -> Grouped:
    """Write the files of the groups to ``directory``.

    Args:
        directory: of the prepared data.
        scratch: of the runs.
        pairs: of each shard.
        progress: is told how many pairs have been merged, of the sources and then of the targets.

    Raises:
        OSError: a file cannot be read or written.
    """
    runs = [np.load(scratch / runs_name(number), mmap_mode="r") for number in range(len(pairs))]
    first = np.cumsum([0, *pairs])
    done = 0
    with _Groups.open(scratch, int(first[-1])) as groups:
        for hashes_M, pairs_M in _merged(runs, first, _SOURCE):
            groups.add(hashes_M, pairs_M)
            done += len(pairs_M)
            progress(done)
    best = (0, 0)
    for hashes_M, pairs_M in _merged(runs, first, _TARGET):
        best = max(best, _most_frequent(hashes_M, pairs_M))
        done += len(pairs_M)
        progress(done)
    return Grouped(sources=groups.sources, most_frequent_target=-best[1], files=groups.publish(directory))


class _Groups:
    """The files of the groups while they are written, in the scratch directory.

    Attributes:
        sources: number of distinct sources so far.
    """

    def __init__(self, scratch: Path, pairs: int, members: BinaryIO, starts: BinaryIO) -> None:
        self.sources = 0
        self._scratch, self._members, self._starts = scratch, members, starts
        self._group_of_N = np.lib.format.open_memmap(scratch / _GROUPS, "w+", np.int32, (pairs,))
        self._count, self._size = 0, 0
        starts.write(bytes(8))

    @classmethod
    @contextlib.contextmanager
    def open(cls, scratch: Path, pairs: int) -> Iterator[_Groups]:
        with (scratch / _MEMBERS).open("wb") as members, (scratch / _STARTS).open("wb") as starts:
            groups = cls(scratch, pairs, members, starts)
            yield groups
            groups._group_of_N.flush()

    def add(self, hashes_M: npt.NDArray[np.uint64], pairs_M: npt.NDArray[np.int64]) -> None:
        """Add the pairs of a range, sorted by the hashes of their sources."""
        sizes = np.diff(np.flatnonzero(np.append(_leads(hashes_M), True)))
        self.sources += len(sizes)
        members, sizes = pairs_M[np.repeat(sizes > 1, sizes)], sizes[sizes > 1]
        numbers = np.arange(self._count + 1, self._count + 1 + len(sizes), dtype=np.int32)
        self._group_of_N[members] = np.repeat(numbers, sizes)
        self._members.write(members.astype("<i8").tobytes())
        self._starts.write((self._size + np.cumsum(sizes)).astype("<i8").tobytes())
        self._count, self._size = self._count + len(sizes), self._size + len(members)

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


def _most_frequent(hashes_M: npt.NDArray[np.uint64], pairs_M: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return how often the most frequent hash occurs, and minus the number of the first pair that has such a one."""
    if not len(hashes_M):
        return 0, 0
    starts = np.flatnonzero(_leads(hashes_M))
    sizes = np.diff(np.append(starts, len(hashes_M)))
    # pairs of equal hashes are in order, so the first one is where its target appears first
    return int(sizes.max()), -int(pairs_M[starts[sizes == sizes.max()]].min())


def _leads(hashes_M: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Return True for the first of equal hashes, which are next to each other."""
    return np.append(True, hashes_M[1:] != hashes_M[:-1])[: len(hashes_M)]


def _merged(
    runs: Sequence[npt.NDArray[np.uint64]], first: npt.NDArray[np.int64], side: int
) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]]:
    """Yield sorted hashes with the numbers of their pairs, a range of hashes at a time; equal hashes by their pairs."""
    ranges = max(1, round(int(first[-1]) / _RANGE_PAIRS))
    limits = [np.uint64(number * 2**64 // ranges) for number in range(1, ranges)]
    cuts = [[0, *np.searchsorted(run[2 * side], limits).tolist(), run.shape[1]] for run in runs]
    for number in range(ranges):
        slices = [slice(cut[number], cut[number + 1]) for cut in cuts]
        hashes_M = np.concatenate([run[2 * side, part] for run, part in zip(runs, slices, strict=True)])
        pairs_M = np.concatenate(
            [
                run[2 * side + 1, part].astype(np.int64) + start
                for run, part, start in zip(runs, slices, first[:-1], strict=True)
            ]
        )
        # stable: within a shard, and from shard to shard, pairs are in order
        order_M = np.argsort(hashes_M, kind="stable")
        yield hashes_M[order_M], pairs_M[order_M]
