"""Which pairs have equal sources, and which target is the most frequent one: an external sort of hashes.

The second pass writes a run for each shard: the hashes of its sources, sorted, with the number of each pair in the
shard; and the same for its targets. Here all runs are merged, a range of hashes at a time, so that memory is bounded.

Shape suffixes: N pairs, K pairs of a shard, M pairs of a range.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from freerun.data.prepared import GROUP_FILES
from freerun.files import file_hash, replacing_file

__all__ = ["Grouped", "group_sources", "runs_bytes", "runs_name"]

_RANGE_PAIRS: Final = 2_000_000
"""About so many pairs are merged at a time."""
_SOURCE, _TARGET = 0, 1


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
    directory: Path, scratch: Path, pairs: Sequence[int], progress: Callable[[int], None] | None = None
) -> Grouped:
    """Write the files of the groups to ``directory``.

    Args:
        directory: of the prepared data.
        scratch: of the runs.
        pairs: of each shard.
        progress: is told how many pairs have been merged.

    Raises:
        OSError: a file cannot be read or written.
    """
    runs = [np.load(scratch / runs_name(number), mmap_mode="r") for number in range(len(pairs))]
    first = np.cumsum([0, *pairs])
    total, sources, multiple, members_before = int(first[-1]), 0, 0, 0
    names = dict(zip(("groups", "starts", "members"), GROUP_FILES, strict=True))
    scratch_groups = scratch / "groups.npy"
    groups_N = np.lib.format.open_memmap(scratch_groups, "w+", np.int32, (total,))
    starts_parts: list[npt.NDArray[np.int64]] = [np.zeros(1, np.int64)]
    members_path = scratch / "members.bin"
    best, done = (0, 0), 0
    with members_path.open("wb") as members_file:
        for hashes_M, pairs_M in _merged(runs, first, _SOURCE):
            lead_M = _leads(hashes_M)
            sizes = np.diff(np.flatnonzero(np.append(lead_M, True)))
            sources += len(sizes)
            several = np.repeat(sizes > 1, sizes)
            members, member_sizes = pairs_M[several], sizes[sizes > 1]
            numbers = np.arange(multiple + 1, multiple + 1 + len(member_sizes), dtype=np.int32)
            groups_N[members] = np.repeat(numbers, member_sizes)
            members_file.write(members.astype("<i8").tobytes())
            starts_parts.append(members_before + np.cumsum(member_sizes))
            multiple, members_before = multiple + len(member_sizes), members_before + len(members)
            done += len(pairs_M)
            if progress is not None:
                progress(done)
    for hashes_M, pairs_M in _merged(runs, first, _TARGET):
        starts = np.flatnonzero(_leads(hashes_M))
        sizes = np.diff(np.append(starts, len(hashes_M)))
        most = int(sizes.max(initial=0))
        # pairs of equal hashes are in order, so the first one is where its target appears first
        earliest = int(pairs_M[starts[sizes == most]].min()) if most else 0
        best = max(best, (most, -earliest))
        done += len(pairs_M)
        if progress is not None:
            progress(done)
    groups_N.flush()
    del groups_N
    arrays: dict[str, Any] = {
        names["starts"]: np.concatenate(starts_parts),
        names["members"]: np.memmap(members_path, "<i8", "r") if members_before else np.zeros(0, np.int64),
        names["groups"]: np.load(scratch_groups, mmap_mode="r"),
    }
    for name, array in arrays.items():
        with replacing_file(directory / name) as file:
            np.save(file, array, allow_pickle=False)
    files = {name: file_hash(directory / name) for name in arrays}
    return Grouped(sources=sources, most_frequent_target=-best[1], files=files)


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
