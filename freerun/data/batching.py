"""Which pairs go together in an update, and their arrays.

B rows, S longest source, T longest target of the batch. A position within an epoch can be resumed because the plan of
an epoch is a pure function of lengths, budget, seed and epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from freerun.data.corpus import Corpus, IntArray
from freerun.randomness import numpy_generator
from freerun.symbols import BOS, EOS, PAD

__all__ = ["Batch", "make_batch", "plan_epoch"]

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """Arrays of a batch, int64, padded with PAD on the right.

    Attributes:
        source: [B, S]; source_lengths: [B].
        target_in: [B, T]: BOS and the target without EOS, what teacher forcing feeds.
        target_out: [B, T]: the target with EOS, what is to be predicted.
        target_lengths: [B], BOS or EOS counted once: the number of predictions.
        pairs: [B]: number of each pair in the corpus.
    """

    source: Ids
    source_lengths: Ids
    target_in: Ids
    target_out: Ids
    target_lengths: Ids
    pairs: Ids
    corpus: Corpus = field(repr=False)

    @property
    def num_pairs(self) -> int:
        """B."""
        return len(self.pairs)

    @property
    def num_tokens(self) -> int:
        """Number of target tokens to predict, EOS counted, padding not."""
        return int(self.target_lengths.sum())

    @cached_property
    def references(self) -> list[list[IntArray]]:
        """For each row all distinct targets (with EOS) of its source; rows of one source share the list."""
        # A source with many pairs may stand in many rows; its references are looked up once.
        found: dict[int, list[IntArray]] = {}
        groups = [int(number) for number in self.corpus.group[self.pairs]]
        for group, pair in zip(groups, self.pairs, strict=True):
            if group not in found:
                found[group] = self.corpus.references(int(pair))
        return [found[group] for group in groups]


def make_batch(corpus: Corpus, indices: IntArray) -> Batch:
    """The batch of these pairs, in this order."""
    pairs = np.asarray(indices, dtype=np.int64)
    target_out = corpus.targets.padded(pairs, PAD)
    target_in = np.full_like(target_out, BOS)
    target_in[:, 1:] = target_out[:, :-1]
    # Shifted by one, the EOS of a shorter row comes to stand in its padding. A target has no EOS before its end.
    target_in[target_in == EOS] = PAD
    return Batch(
        source=corpus.sources.padded(pairs, PAD),
        source_lengths=corpus.sources.lengths[pairs],
        target_in=target_in,
        target_out=target_out,
        target_lengths=corpus.targets.lengths[pairs],
        pairs=pairs,
        corpus=corpus,
    )


def plan_epoch(
    source_lengths: IntArray,
    target_lengths: IntArray,
    *,
    batch_size: int | None,
    batch_tokens: int | None,
    seed: int,
    epoch: int,
) -> list[Ids]:
    """The batches of one epoch as arrays of pair numbers; each pair is in exactly one.

    Full batches hold sources of one length, so that they need no padding, and targets of similar lengths. What is left
    of each length is put together with the leftovers of neighbouring lengths. The batches then come in random order.

    Lengths are [N]. The budget is either ``batch_size`` pairs, or ``batch_tokens``: rows x (longest source + longest
    target) stays within it, and a pair that exceeds it is a batch of its own.

    Raises:
        ValueError: unless exactly one budget is given, and positive.
    """
    if (batch_size is None) == (batch_tokens is None) or (batch_size or batch_tokens or 0) < 1:
        raise ValueError(f"one positive budget is needed, not batch_size={batch_size} and batch_tokens={batch_tokens}")
    random = numpy_generator(seed, "batches", epoch)
    # Shuffled first and sorted after, so that pairs of equal lengths have other company in every epoch.
    order = random.permutation(len(source_lengths))
    order = order[np.lexsort((target_lengths[order], source_lengths[order]))]  # stable: ties stay in random order
    sizes = _Sizes(source_lengths, target_lengths, batch_size, batch_tokens)
    batches: list[Ids] = []
    leftovers: list[Ids] = []
    for rows in np.split(order, np.flatnonzero(np.diff(source_lengths[order])) + 1):
        pieces = sizes.cut(rows)
        # What is left are the longest targets of a length: together they need less padding than among others.
        if pieces and not sizes.is_full(pieces[-1]):
            leftovers.append(pieces.pop())
        batches += pieces
    if leftovers:
        batches += sizes.cut(np.concatenate(leftovers))
    return [batches[number] for number in random.permutation(len(batches))]


@dataclass(frozen=True, eq=False)
class _Sizes:
    """How many rows fit into a batch."""

    source_lengths: IntArray
    target_lengths: IntArray
    batch_size: int | None
    batch_tokens: int | None

    def cut(self, rows: Ids) -> list[Ids]:
        """Consecutive pieces, each as long as the budget lets it be."""
        pieces = []
        start = 0
        while start < len(rows):
            end = start + self._count(rows[start:])
            pieces.append(rows[start:end])
            start = end
        return pieces

    def is_full(self, rows: Ids) -> bool:
        """Whether one more row like the longest of these would break the budget."""
        if self.batch_tokens is None:
            return len(rows) == self.batch_size
        return (len(rows) + 1) * self._width(rows) > self.batch_tokens

    def _width(self, rows: Ids) -> int:
        return int(self.source_lengths[rows].max() + self.target_lengths[rows].max())

    def _count(self, rows: Ids) -> int:
        """Number of leading rows that fit; at least 1."""
        if self.batch_tokens is None:
            return min(self.batch_size or 1, len(rows))
        # No more rows can fit than rows as narrow as the first; a window keeps this linear in the number of pairs.
        window = rows[: self.batch_tokens // self._width(rows[:1]) + 1]
        sources = np.maximum.accumulate(self.source_lengths[window])
        targets = np.maximum.accumulate(self.target_lengths[window])
        costs = np.arange(1, len(window) + 1) * (sources + targets)  # never decreasing
        return max(1, int(np.searchsorted(costs, self.batch_tokens, side="right")))
