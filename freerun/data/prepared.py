"""Prepared pairs: encoded once by ``freerun data prepare``, and read from files that are mapped into memory.

An epoch takes the shards in random order, a window of them at a time; the pairs of a window are shuffled together. With
a window of all shards, batches are those of the same pairs in memory. Each shard is checked by its hash when it is used
for the first time, before any of its ids is read.

Which pairs have equal sources is in three arrays: ``groups.npy`` [N] has 0 for a pair whose source no other pair has,
and else the number of its group, from 1; the pairs of group g are ``group_members[group_starts[g - 1] :
group_starts[g]]``.

Shape suffixes: N pairs, B rows, L longest row.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from freerun.data.codec import Codec
from freerun.data.codec_files import codecs_of, vocabulary_sizes
from freerun.data.corpus import FilterReport, distinct
from freerun.data.manifest import Manifest, read_manifest
from freerun.data.shards import FEATURES, SOURCE, TARGET, Shard, damaged, open_shard, shard_name
from freerun.data.training_pairs import IntArray, TrainingPairs, Window
from freerun.errors import BundleError, DataError
from freerun.files import bytes_hash, file_hash, files_allowed
from freerun.randomness import numpy_generator
from freerun.symbols import EOS

__all__ = ["DEFAULT_WINDOW", "DEV", "GROUP_FILES", "Prepared", "PreparedPairs", "open_prepared"]

DEFAULT_WINDOW: Final = 2_000_000
"""Pairs that are shuffled together; planning so many takes about a second, and 300 MB."""
DEV: Final = "dev.tsv"
GROUP_FILES: Final = ("groups.npy", "group_starts.npy", "group_members.npy")
_OTHERS: Final = 64
"""Shards outside the window that are kept open, for references."""
_RESERVED: Final = 128
"""Files that a process opens for other purposes: a mapped shard is an open file."""


class Prepared:
    """A directory with prepared pairs: its manifest and its codecs.

    Attributes:
        directory: the directory.
        manifest: what it holds.
        hash: the SHA-256 of the manifest, which identifies the data.
    """

    def __init__(self, directory: Path, manifest: Manifest, sha256: str) -> None:
        self.directory = directory
        self.manifest = manifest
        self.hash = sha256

    @property
    def report(self) -> FilterReport:
        """The numbers of pairs that were kept and left out."""
        counts = self.manifest.counts.model_dump()
        return FilterReport(**{name: counts[name] for name in FilterReport.__dataclass_fields__})

    @property
    def feature_separator(self) -> str | None:
        """The separator of a source's features, None if the pairs have none."""
        separator: str | None = self.manifest.data.get("feature_separator")
        return separator

    def codecs(self, reverse_source: bool) -> tuple[Codec, Codec]:
        """Return the codec of the sources and that of the targets.

        Raises:
            DataError: a vocabulary is missing or damaged.
        """
        sides = {side: settings.model_dump() for side, settings in self.manifest.codecs}
        sides["source"]["reverse"] = reverse_source
        try:
            return codecs_of(sides, self.feature_separator, self._checked, self.directory)
        except BundleError as error:  # unlikely: the hashes are those of the manifest
            raise damaged(Path(error.where), error.what) from error

    def dev(self) -> Path:
        """Return the file of the development pairs.

        Raises:
            DataError: it is missing or damaged.
        """
        self._checked(DEV)
        return self.directory / DEV

    def groups(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """Map the arrays of the groups into memory.

        Raises:
            DataError: one is missing or damaged.
        """
        groups, starts, members = (self._array(name) for name in GROUP_FILES)
        kept = self.manifest.counts.kept
        is_flat = groups.shape == (kept,) and starts.ndim == members.ndim == 1
        fits = is_flat and len(starts) and starts[0] == 0 and starts[-1] == len(members)
        in_range = fits and 0 <= groups.min() <= groups.max() < len(starts) and (np.diff(starts) > 0).all()
        if not in_range or (len(members) and not 0 <= members.min() <= members.max() < kept):
            raise damaged(self.directory / GROUP_FILES[0], "it does not fit the pairs")
        return groups, starts, members

    def _array(self, name: str) -> npt.NDArray[Any]:
        path = self.directory / name
        try:
            self._check(name, file_hash(path))
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise damaged(path, f"it cannot be read as an array ({error})") from error
        if not isinstance(array, np.ndarray) or array.dtype.kind != "i":
            raise damaged(path, "it is not an array of whole numbers")
        return array

    def check(self, progress: Callable[[int, float], None]) -> None:
        """Read and check all files; ``progress`` is called with the number of checked pairs, and the fraction.

        Raises:
            DataError: one is missing or damaged.
        """
        source, target = self.codecs(reverse_source=False)
        pairs = PreparedPairs(self, source, target)
        self.groups()
        self.dev()
        done = 0
        for number, entry in enumerate(self.manifest.shards):
            pairs.shard(number)
            done += entry.pairs
            progress(done, done / len(pairs))

    def _checked(self, name: str) -> bytes:
        """Return the content of a file that is not a shard."""
        path = self.directory / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise damaged(path, f"it cannot be read ({error.strerror})") from error
        self._check(name, bytes_hash(content))
        return content

    def _check(self, name: str, sha256: str) -> None:
        if sha256 != self.manifest.files.get(name):
            raise damaged(self.directory / name, "its content has changed since it was written (another SHA-256)")


def open_prepared(directory: Path) -> Prepared:
    """Open prepared pairs; the shards are not read.

    Raises:
        DataError: there is no manifest, or it is damaged or too new.
    """
    return Prepared(directory, *read_manifest(directory))


class PreparedPairs(TrainingPairs):
    """The training pairs of a directory with prepared data.

    Args:
        prepared: the directory.
        source: the codec of the sources, which may reverse them.
        target: that of the targets.
        window: how many pairs are shuffled together; rounded to whole shards.
    """

    sources: _Column
    targets: _Column
    features: _Column | None

    def __init__(self, prepared: Prepared, source: Codec, target: Codec, window: int = DEFAULT_WINDOW) -> None:
        self.prepared, self._counts = prepared, prepared.manifest.counts
        entries = prepared.manifest.shards
        self._first = np.cumsum([0, *(entry.pairs for entry in entries)])
        if self._first[-1] != self._counts.kept:
            raise DataError(prepared.directory, "the manifest's shards do not have the pairs that it counts")
        self._sizes = vocabulary_sizes(source, target)
        self._filled = [number for number, entry in enumerate(entries) if entry.pairs]
        per_window = max(1, round(window * len(self._filled) / len(self)))
        self._windows = math.ceil(len(self._filled) / per_window)
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._checked: set[int] = set()
        self._limit = min(per_window + _OTHERS, max(1, files_allowed() - _RESERVED))
        self.sources = _Column(self, SOURCE, reverse=source.reverse)
        self.targets = _Column(self, TARGET)
        self.features = None if source.features is None else _Column(self, FEATURES, ends=False)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return self._counts.kept

    @property
    def num_sources(self) -> int:
        """See ``TrainingPairs``."""
        return self._counts.sources

    @property
    def num_tokens(self) -> tuple[int, int]:
        """See ``TrainingPairs``."""
        return self._counts.source_tokens, self._counts.target_tokens

    @property
    def num_unknown(self) -> tuple[int, int, int]:
        """See ``TrainingPairs``."""
        counts = self._counts
        return counts.unknown_source_tokens, counts.unknown_target_tokens, counts.unknown_features

    @property
    def largest_ratio(self) -> float:
        """See ``TrainingPairs``."""
        return self._counts.largest_ratio

    @property
    def digest(self) -> str:
        """See ``TrainingPairs``."""
        return self.prepared.manifest.tokens_sha256

    @property
    def num_windows(self) -> int:
        """See ``TrainingPairs``."""
        return self._windows

    def window(self, seed: int, epoch: int, number: int) -> Window:
        """See ``TrainingPairs``; the shards of an epoch's windows are drawn at random."""
        drawn = numpy_generator(seed, "shards", epoch).permutation(self._filled)
        chosen = np.sort(np.array_split(drawn, self._windows)[number])
        lengths: tuple[list[IntArray], list[IntArray]] = ([], [])
        for each in chosen.tolist():
            shard = self.shard(each)  # not all at once: there may be more than files may be open
            for side in (SOURCE, TARGET):
                lengths[side].append(shard.lengths[side].astype(np.int32) + 1)
        pairs = None
        if self._windows > 1:
            pairs = np.concatenate([np.arange(self._first[each], self._first[each + 1]) for each in chosen])
        return Window(pairs, np.concatenate(lengths[SOURCE]), np.concatenate(lengths[TARGET]))

    def groups(self, pairs: IntArray) -> IntArray:
        """See ``TrainingPairs``."""
        groups = self._groups[0][pairs].astype(np.int64)
        return np.where(groups > 0, groups, -1 - np.asarray(pairs, np.int64))

    def references(self, pair: int) -> list[IntArray]:
        """See ``TrainingPairs``."""
        groups, starts, members = self._groups
        group = int(groups[pair])
        pairs = members[starts[group - 1] : starts[group]].tolist() if group else [pair]
        return distinct(self.targets.row(each) for each in pairs)

    @cached_property
    def _groups(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        return self.prepared.groups()

    def locate(self, rows: IntArray) -> list[tuple[int, int]]:
        """Return the shard of each row, and its number there."""
        shards = np.searchsorted(self._first, rows, side="right") - 1
        return list(zip(shards.tolist(), (rows - self._first[shards]).tolist(), strict=True))

    def shard(self, number: int) -> Shard:
        """Return a shard, which is checked when it is opened for the first time.

        Raises:
            DataError: it is missing, truncated or changed.
        """
        if number in self._shards:
            self._shards.move_to_end(number)
            return self._shards[number]
        manifest = self.prepared.manifest
        path = self.prepared.directory / shard_name(number)
        check = number not in self._checked
        shard = open_shard(path, manifest.shards[number], manifest.dtype, self._sizes, check=check)
        self._checked.add(number)
        self._shards[number] = shard
        if len(self._shards) > self._limit:
            self._shards.popitem(last=False)
        return shard


class _Column:
    """The sources, targets or features of prepared pairs.

    ``reverse``: the ids are read in reverse; ``ends``: each row has EOS at its end.
    """

    def __init__(self, pairs: PreparedPairs, column: int, *, reverse: bool = False, ends: bool = True) -> None:
        self._pairs = pairs
        self._column = column
        self._step = -1 if reverse else 1
        self._ends = ends

    def row(self, number: int) -> IntArray:
        """Return the ids of a row, EOS included."""
        ((shard, row),) = self._pairs.locate(np.array([number]))
        ids = self._pairs.shard(shard).row(self._column, row)[:: self._step]
        return np.append(ids, np.array([EOS], ids.dtype)) if self._ends else ids

    def lengths_of(self, rows: IntArray) -> npt.NDArray[np.int64]:
        """Return the lengths of the rows with these numbers, EOS included: int64 [B]."""
        return self._lengths(self._pairs.locate(rows)) + self._ends

    def padded(self, rows: IntArray, padding: int) -> npt.NDArray[np.int64]:
        """Return the rows with these numbers, right-padded with ``padding``: int64 [B, L]."""
        located = self._pairs.locate(rows)
        lengths = self._lengths(located)
        out = np.full((len(lengths), int(lengths.max(initial=0)) + self._ends), padding, dtype=np.int64)
        for values, length, (shard, row) in zip(out, lengths.tolist(), located, strict=True):
            values[:length] = self._pairs.shard(shard).row(self._column, row)[:: self._step]
            if self._ends:
                values[length] = EOS
        return out

    def _lengths(self, located: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
        """Return the lengths of located rows, without EOS."""
        return np.array([self._pairs.shard(shard).lengths[self._column][row] for shard, row in located], np.int64)
