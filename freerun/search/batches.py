"""Sequences that are decoded or scored together, and their padded arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeVar

import numpy as np

from freerun.search.stepper import Ids
from freerun.symbols import EOS, PAD, source_length

__all__ = ["EVERYTHING", "MAX_POSITIONS", "ROWS", "Share", "pad", "pad_sources", "similar_lengths", "split_features"]

Part = TypeVar("Part")

ROWS: Final = 512
"""Rows that are decoded or scored together; a step costs little more than for a few."""
MAX_POSITIONS: Final = 2**15
"""Rows x source positions whose memory is held at a time."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one of ``of`` processes computes: every ``of``-th batch, from batch ``number`` on.

    Batches are ordered by length, so all shares take equally long; and they are those of one process, so the other
    rows in each batch are the same, and results are bit-identical.
    """

    number: int = 0
    of: int = 1

    def among(self, batches: Sequence[Part]) -> Sequence[Part]:
        """Return the batches of this share."""
        return batches[self.number :: self.of]


EVERYTHING: Final = Share()


def pad(rows: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Return rows as one array [B, L], padded with PAD on the right, and their lengths [B]."""
    if len(rows) == 1:  # several times faster, which counts where one text is predicted at a time
        return np.array(rows, dtype=np.int64).reshape(1, -1), np.array([len(rows[0])], dtype=np.int64)
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    out = np.full((len(rows), lengths.max(initial=0)), PAD, dtype=np.int64)
    inside = np.arange(out.shape[1]) < lengths[:, None]
    out[inside] = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    return out, lengths


def pad_sources(sources: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Return sources as one array [B, L], padded with PAD on the right, and their lengths [B] without features."""
    ids, lengths = pad(sources)
    if any(source[-1] != EOS for source in sources):
        lengths = np.array([source_length(source) for source in sources], np.int64)
    return ids, lengths


def split_features(source_ids: Ids, lengths: Ids) -> tuple[Ids, Ids]:
    """Split padded sources into their ids [B, S] and the ids of their features [B, F], both padded with PAD.

    In ``source_ids`` [B, L], a row's features follow its ``lengths`` [B] source ids. F is at least 1.
    """
    longest = int(lengths.max(initial=0))
    positions = np.arange(source_ids.shape[1])
    is_feature = (positions >= lengths[:, None]) & (source_ids != PAD)
    counts = is_feature.sum(1)
    features = np.full((len(lengths), max(1, int(counts.max(initial=0)))), PAD, np.int64)
    features[np.arange(features.shape[1]) < counts[:, None]] = source_ids[is_feature]
    return np.where(positions[:longest] < lengths[:, None], source_ids[:, :longest], PAD), features


def similar_lengths(first: Sequence[int], second: Sequence[int], rows: int = ROWS, width: int = 1) -> list[Ids]:
    """Return batches of sequence numbers, ordered by the lengths on both sides so that there is little padding.

    Each sequence takes ``width`` of a batch's ``rows``. A batch of long ``first`` sequences has fewer: their memory,
    which attention reads, stays within ``MAX_POSITIONS`` rows x positions.
    """
    # Sources of one length need no padding in the encoder, and targets of one length end together.
    order = np.lexsort((second, first))
    lengths = np.asarray(first, np.int64)[order]
    batches: list[Ids] = []
    start = 0
    while start < len(order):
        longest = lengths[: start + max(1, rows // width)][-1]
        size = min(rows, MAX_POSITIONS // max(1, int(longest)))
        batches.append(order[start : start + max(1, size // width)])
        start += len(batches[-1])
    return batches
