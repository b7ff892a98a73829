"""Batches: the pairs that are trained on together, and their arrays.

Dimensions: B rows, S longest source, T longest target of the batch. Training can be resumed within an epoch because the
plan of an epoch is a pure function of lengths, budget, seed and epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from freerun.data.training_pairs import IntArray, TrainingPairs
from freerun.randomness import numpy_generator
from freerun.symbols import BOS, EOS, PAD

__all__ = ["Batch", "Ids", "make_batch", "plan_epoch"]

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Arrays of a batch, int64, padded with PAD on the right.

    Attributes:
        source: [B, S]; source_lengths: [B].
        target_in: [B, T]: BOS and the target without EOS, the input of teacher forcing.
        target_out: [B, T]: the target with EOS, the tokens to predict.
        target_lengths: [B], BOS or EOS counted once: the number of predictions.
        pairs: [B]: index of each pair in the corpus.
    """

    source: Ids
    source_lengths: Ids
    target_in: Ids
    target_out: Ids
    target_lengths: Ids
    pairs: Ids
    corpus: TrainingPairs = field(repr=False)
    features: Ids | None = None

    @property
    def num_pairs(self) -> int:
        """The batch size B."""
        return len(self.pairs)

    @property
    def num_tokens(self) -> int:
        """Number of target tokens to predict, with EOS and without padding."""
        return int(self.target_lengths.sum())

    @cached_property
    def references(self) -> list[list[IntArray]]:
        """The distinct targets (with EOS) of each row's source; rows with the same source share the list."""
        # A source with many pairs may be in many rows; its references are looked up once.
        by_group: dict[int, list[IntArray]] = {}
        groups = [int(number) for number in self.corpus.groups(self.pairs)]
        for group, pair in zip(groups, self.pairs, strict=True):
            if group not in by_group:
                by_group[group] = self.corpus.references(int(pair))
        return [by_group[group] for group in groups]


def make_batch(corpus: TrainingPairs, indices: IntArray) -> Batch:
    """Build the batch of these pairs, in this order."""
    pairs = np.asarray(indices, dtype=np.int64)
    target_out = corpus.targets.padded(pairs, PAD)
    target_in = np.full_like(target_out, BOS)
    target_in[:, 1:] = target_out[:, :-1]
    # Shifted by one, a shorter row's EOS falls in its padding. A target has no EOS before its end.
    target_in[target_in == EOS] = PAD
    return Batch(
        source=corpus.sources.padded(pairs, PAD),
        source_lengths=corpus.sources.lengths_of(pairs),
        target_in=target_in,
        target_out=target_out,
        target_lengths=corpus.targets.lengths_of(pairs),
        pairs=pairs,
        corpus=corpus,
        features=None if corpus.features is None else corpus.features.padded(pairs, PAD),
    )


def plan_epoch(
    source_lengths: IntArray,
    target_lengths: IntArray,
    *,
    batch_size: int | None,
    batch_tokens: int | None,
    seed: int,
    epoch: int,
    together: int = 1,
    window: int = 0,
    before: int | None = None,
) -> list[Ids]:
    """Return the batches of one epoch as arrays of pair indices; each pair is in exactly one batch.

    If an epoch is planned in several windows, ``window`` is the number of this one, whose pairs alone are given.
    ``before`` is the number of all batches before it; None: all epochs have one window, and as many batches as this.

    Full batches hold sources of equal length, which need no padding, and targets of similar lengths. The remaining
    pairs of each length are batched with those of neighbouring lengths. The batches are in random order; if
    ``together`` of them make an update, those of one update have similar sizes, so that processes that share them take
    equally long.

    Lengths are [N]. The budget is either ``batch_size`` pairs or ``batch_tokens``: rows x (longest source + longest
    target) does not exceed it, and a pair that does is a batch by itself.

    Raises:
        ValueError: unless exactly one budget is given, and it is positive.
    """
    if (batch_size is None) == (batch_tokens is None) or (batch_size or batch_tokens or 0) < 1:
        raise ValueError(f"one positive budget is needed, not batch_size={batch_size} and batch_tokens={batch_tokens}")
    random = numpy_generator(seed, "batches", epoch, *([window] if window else []))
    # Shuffled before sorting, so that pairs of equal lengths are batched differently in every epoch.
    order = random.permutation(len(source_lengths))
    order = order[np.lexsort((target_lengths[order], source_lengths[order]))]  # stable: ties stay in random order
    sizes = _Sizes(source_lengths, target_lengths, batch_size, batch_tokens)
    batches: list[Ids] = []
    leftovers: list[Ids] = []
    for rows in np.split(order, np.flatnonzero(np.diff(source_lengths[order])) + 1):
        chunks = sizes.split(rows)
        # The rest are the longest targets of a source length: together they need less padding than among others.
        if chunks and not sizes.is_full(chunks[-1]):
            leftovers.append(chunks.pop())
        batches += chunks
    if leftovers:
        batches += sizes.split(np.concatenate(leftovers))
    if together > 1:
        before = epoch * len(batches) if before is None else before
        return [batches[number] for number in _groups(sizes.positions(batches), together, before, random)]
    return [batches[number] for number in random.permutation(len(batches))]


def _groups(positions: Ids, together: int, before: int, random: np.random.Generator) -> Ids:
    """Return the order of a window's batches, ``positions`` [N] each, so that groups of ``together`` are similar.

    If N is no multiple of ``together``, the first batches of a window complete a group of the one before, and the last
    ones begin a group that the next window completes. ``before`` is the number of all batches before this window.
    """
    by_size = random.permutation(len(positions))
    by_size = by_size[np.argsort(positions[by_size], kind="stable")]
    head = min(-before % together, len(positions))
    loose = head + (len(positions) - head) % together
    start = int(random.integers(len(positions) - loose + 1))
    others = by_size[start : start + loose]
    groups = np.delete(by_size, np.s_[start : start + loose]).reshape(-1, together)
    groups = random.permuted(random.permutation(groups), axis=1)  # no process always has the largest
    return np.concatenate([others[:head], groups.ravel(), others[head:]])


@dataclass(frozen=True, eq=False)
class _Sizes:
    """The number of rows that fit into a batch."""

    source_lengths: IntArray
    target_lengths: IntArray
    batch_size: int | None
    batch_tokens: int | None

    def split(self, rows: Ids) -> list[Ids]:
        """Split rows into consecutive chunks, each as long as the budget allows."""
        chunks = []
        start = 0
        while start < len(rows):
            end = start + self._count(rows[start:])
            chunks.append(rows[start:end])
            start = end
        return chunks

    def is_full(self, rows: Ids) -> bool:
        """Return True if one more row like the longest of these would exceed the budget."""
        if self.batch_tokens is None:
            return len(rows) == self.batch_size
        return (len(rows) + 1) * self._width(rows) > self.batch_tokens

    def positions(self, batches: list[Ids]) -> Ids:
        """Return the number of positions of each batch, padding included: rows x (longest source + longest target)."""
        return np.array([len(rows) * self._width(rows) for rows in batches], np.int64)

    def _width(self, rows: Ids) -> int:
        return int(self.source_lengths[rows].max() + self.target_lengths[rows].max())

    def _count(self, rows: Ids) -> int:
        """Return the number of leading rows that fit; at least 1."""
        if self.batch_tokens is None:
            return min(self.batch_size or 1, len(rows))
        # No more rows fit than of the first one's width; this window keeps the loop linear in the number of pairs.
        window = rows[: self.batch_tokens // self._width(rows[:1]) + 1]
        sources = np.maximum.accumulate(self.source_lengths[window])
        targets = np.maximum.accumulate(self.target_lengths[window])
        costs = np.arange(1, len(window) + 1) * (sources + targets)  # never decreasing
        return max(1, int(np.searchsorted(costs, self.batch_tokens, side="right")))
