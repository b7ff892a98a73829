"""All pairs of a dataset as flat arrays of ids: a few bytes per token and some tens per pair, whatever the texts."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from freerun.data.codec import Codec
from freerun.data.features import SourceText
from freerun.data.readers import Pair
from freerun.data.training_pairs import IntArray, TrainingPairs, Window
from freerun.errors import DataError
from freerun.symbols import UNK, source_length

__all__ = ["Corpus", "FilterReport", "Ragged", "distinct", "encode_corpus", "no_pair_left"]

_UINT16_IDS = 1 << 16


class Ragged:
    """Rows of different lengths in one array: row i is ``tokens[offsets[i] : offsets[i + 1]]``.

    ``tokens`` is uint16 or int32, flat; ``offsets`` is int64 [N + 1].
    """

    def __init__(self, tokens: IntArray, offsets: npt.NDArray[np.int64]) -> None:
        self.tokens = tokens
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> IntArray:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} rows")
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens in each row, EOS included: int64 [N]."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: IntArray) -> npt.NDArray[np.int64]:
        """Return the lengths of the rows with these indices, EOS included: int64 [B]."""
        return self.lengths[rows]

    def padded(self, rows: IntArray, padding: int) -> npt.NDArray[np.int64]:
        """Return the rows with these indices, right-padded with ``padding``: int64 [B, L]."""
        starts, lengths = self.offsets[rows], self.lengths[rows]
        positions = np.arange(lengths.max(initial=0))
        inside = positions < lengths[:, None]  # [B, L], True = real token
        out = np.full(inside.shape, padding, dtype=np.int64)
        out[inside] = self.tokens[(starts[:, None] + positions)[inside]]
        return out


@dataclass(frozen=True, kw_only=True)
class FilterReport:
    """Numbers of the pairs that were kept and left out. Lengths are in tokens without EOS, of the kept pairs.

    ``same_as_held_out`` counts the pairs whose source ids equal those of a held-out source. Each pair counts once, for
    the first reason in ``read = kept + same_as_held_out + too_long_source + too_long_target``. ``development_sources``
    counts the development sources whose ids equal those of a kept pair's source.
    """

    read: int
    kept: int
    too_long_source: int
    too_long_target: int
    longest_source: int
    longest_target: int
    same_as_held_out: int = 0
    development_sources: int = 0

    def __str__(self) -> str:
        same = f", {self.same_as_held_out:,} with the tokens of a held-out source" if self.same_as_held_out else ""
        return (
            f"{self.kept:,} of {self.read:,} pairs kept; dropped: {self.too_long_source:,} with a long source, "
            f"{self.too_long_target:,} with a long target{same}"
        )


@dataclass(eq=False)
class Corpus(TrainingPairs):
    """Encoded pairs in memory. ``group`` [N] numbers the distinct sources in order of appearance."""

    sources: Ragged
    targets: Ragged
    group: npt.NDArray[np.int32]
    features: Ragged | None = None

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.group)

    @property
    def num_sources(self) -> int:
        """See ``TrainingPairs``."""
        return int(self.group.max(initial=-1)) + 1

    @property
    def num_tokens(self) -> tuple[int, int]:
        """See ``TrainingPairs``."""
        return len(self.sources.tokens), len(self.targets.tokens)

    @cached_property
    def num_unknown(self) -> tuple[int, int, int]:
        """See ``TrainingPairs``."""
        source, target = (int(np.count_nonzero(side.tokens == UNK)) for side in (self.sources, self.targets))
        return source, target, 0 if self.features is None else int(np.count_nonzero(self.features.tokens == UNK))

    @property
    def digest(self) -> str:
        """See ``TrainingPairs``."""
        digest = hashlib.sha256()
        for side in (self.sources, self.targets):
            digest.update(side.tokens.tobytes())
        return digest.hexdigest()

    @property
    def num_windows(self) -> int:
        """One: all pairs are shuffled together."""
        return 1

    def window(self, seed: int, epoch: int, number: int) -> Window:
        """See ``TrainingPairs``."""
        return Window(None, self.sources.lengths, self.targets.lengths)

    def groups(self, pairs: IntArray) -> IntArray:
        """See ``TrainingPairs``."""
        return self.group[pairs]

    @property
    def largest_ratio(self) -> float:
        """See ``TrainingPairs``."""
        sources = np.maximum(self.sources.lengths - 1, 1)
        return float(((self.targets.lengths - 1) / sources).max(initial=0.0))

    def references(self, pair: int) -> list[IntArray]:
        """See ``TrainingPairs``."""
        members, starts = self._by_source
        number = self.group[pair]
        return distinct(self.targets[int(member)] for member in members[starts[number] : starts[number + 1]])

    @cached_property
    def _by_source(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Pairs sorted by source, and the offset of each source's first pair."""
        members = np.argsort(self.group, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.group, minlength=self.num_sources))])
        return members, starts


def distinct(targets: Iterable[IntArray]) -> list[IntArray]:
    """Return targets in their order, each once."""
    found: dict[bytes, IntArray] = {}
    for target in targets:
        found.setdefault(target.tobytes(), target)
    return list(found.values())


def encode_corpus(
    pairs: Iterator[Pair],
    source: Codec,
    target: Codec,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
    location: object = "pairs",
    held_out: Iterable[SourceText] = (),
    development: Iterable[SourceText] = (),
) -> tuple[Corpus, FilterReport]:
    """Encode pairs, except those longer (in tokens without EOS) than the two limits.

    Pairs with the source ids of a ``held_out`` source text are left out, too: whatever made the ids equal (whitespace,
    unknown tokens, a tokenizer's own normalization), the model cannot distinguish these sources. The distinct
    ``development`` source texts that have the ids of a kept pair's source are counted.
    Memory: the token arrays and 20 bytes per pair, 40 while the sources are numbered; and the held-out ids. Raises
    ``DataError`` at ``location`` if no pair is left.
    """
    num_features = 0 if source.features is None else len(source.features.vocabulary)
    sources = _Rows(max(len(source.vocabulary), num_features))  # rows are compared with their features
    targets, counts = _Rows(len(target.vocabulary)), _Counts()
    features = _Rows(num_features) if num_features else None
    held_out_ids = {sources.raw(source.encode(each.source, each.features)) for each in held_out}
    unseen = Counter(sources.raw(source.encode(each.source, each.features)) for each in development)
    hashes = bytearray()
    for pair in pairs:
        counts.read += 1
        encoded = source.encode(pair.source, pair.features)
        raw = sources.raw(encoded)
        source_ids = encoded[: source_length(encoded)]
        if raw in held_out_ids:
            counts.same_as_held_out += 1
            continue
        if max_source_length is not None and len(source_ids) > max_source_length + 1:
            counts.too_long_source += 1
            continue
        target_ids = target.encode(pair.target)
        if max_target_length is not None and len(target_ids) > max_target_length + 1:
            counts.too_long_target += 1
            continue
        # An 8-byte hash stands for the source: among 10 million sources the probability of a collision is 3e-6.
        hashes += hashlib.blake2b(raw, digest_size=8).digest()
        sources.append(raw if features is None else sources.raw(source_ids))
        if features is not None:
            features.append(features.raw(encoded[len(source_ids) :]))
        counts.development_sources += unseen.pop(raw, 0)
        targets.append(targets.raw(target_ids))
    if not hashes:
        raise no_pair_left(counts.report(None), max_source_length, max_target_length, location)
    corpus = Corpus(
        sources.ragged(),
        targets.ragged(),
        _number_groups(np.frombuffer(hashes, dtype=np.uint64)),
        None if features is None else features.ragged(),
    )
    return corpus, counts.report(corpus)


class _Rows:
    """A ``Ragged`` under construction."""

    def __init__(self, ids: int) -> None:
        # array grows in place; a list of Python ints would take 20 times the memory.
        self._code = "H" if ids <= _UINT16_IDS else "i"
        self._tokens = array(self._code)
        self._offsets = array("q", [0])

    def raw(self, ids: list[int]) -> bytes:
        """Return a row as bytes, which differ for different rows."""
        return array(self._code, ids).tobytes()

    def append(self, raw: bytes) -> None:
        """Append a row, given as the bytes of ``raw``."""
        self._tokens.frombytes(raw)
        self._offsets.append(len(self._tokens))

    def ragged(self) -> Ragged:
        # frombuffer shares the array's memory and keeps it alive.
        dtype = np.uint16 if self._code == "H" else np.int32
        return Ragged(np.frombuffer(self._tokens, dtype=dtype), np.frombuffer(self._offsets, dtype=np.int64))


@dataclass
class _Counts:
    """The counts of a ``FilterReport`` under construction."""

    read: int = 0
    too_long_source: int = 0
    too_long_target: int = 0
    same_as_held_out: int = 0
    development_sources: int = 0

    def report(self, corpus: Corpus | None) -> FilterReport:
        """Return the report; ``corpus``: the pairs that were kept, if any were."""
        longest = [0, 0]
        if corpus is not None:
            longest = [int(rows.lengths.max()) - 1 for rows in (corpus.sources, corpus.targets)]
        return FilterReport(
            read=self.read,
            kept=0 if corpus is None else len(corpus),
            too_long_source=self.too_long_source,
            too_long_target=self.too_long_target,
            longest_source=longest[0],
            longest_target=longest[1],
            same_as_held_out=self.same_as_held_out,
            development_sources=self.development_sources,
        )


def no_pair_left(counts: FilterReport, max_source: int | None, max_target: int | None, location: object) -> DataError:
    """Return the error for pairs that were all left out."""
    if counts.read == 0:
        return DataError(location, "there are no pairs", "Expected at least one pair", "Check the file")
    if counts.same_as_held_out:
        too_long = counts.too_long_source + counts.too_long_target
        others = f", and the other {too_long:,} are too long" if too_long else ""
        return DataError(
            location,
            f"{counts.same_as_held_out:,} of {counts.read:,} training pairs have the source tokens of a held-out "
            f"source{others}, so no pair is left",
            "Expected sources that the model can distinguish",
            "Lower data.minimum_count, choose other source tokens, leave out --init if its model lacks these tokens, "
            "or give the evaluation pairs with --dev",
        )
    return DataError(
        location,
        f"all {counts.read:,} pairs are too long "
        f"({counts.too_long_source:,} sources, {counts.too_long_target:,} targets)",
        f"Expected at most {max_source} source tokens and {max_target} target tokens",
        "Raise the limits, or choose tokens that make shorter sequences",
    )


def _number_groups(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """Number the distinct values in order of first appearance.

    By hand and in int32, because memory peaks here: 20 bytes per pair, 53 with ``np.unique``.
    """
    order = np.argsort(hashes, kind="stable").astype(np.int32)
    ordered = hashes[order]
    new = np.append(True, ordered[1:] != ordered[:-1])
    del ordered
    # The sort is stable, so the first of equal hashes is the first to appear; it is the leader of its group.
    leader = np.empty_like(order)
    leader[order] = order[new][np.cumsum(new, dtype=np.int32) - 1]
    del order, new
    leads = leader == np.arange(len(leader), dtype=np.int32)
    return (np.cumsum(leads, dtype=np.int32) - 1)[leader]
