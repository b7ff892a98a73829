"""Encoded pairs as training sees them, whether their tokens are in memory (``corpus``) or in files (``prepared``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["IntArray", "TokenRows", "TrainingPairs", "Window"]

IntArray = npt.NDArray[np.integer[Any]]


class TokenRows(Protocol):
    """Rows of ids of different lengths."""

    def lengths_of(self, rows: IntArray) -> npt.NDArray[np.int64]:
        """Return the lengths of the rows with these numbers, EOS included: int64 [B]."""
        ...

    def padded(self, rows: IntArray, padding: int) -> npt.NDArray[np.int64]:
        """Return the rows with these numbers, right-padded with ``padding``: int64 [B, L]."""
        ...


@dataclass(frozen=True, eq=False)
class Window:
    """The pairs that are shuffled together: their numbers [N], or None for all of them, and their lengths [N]."""

    pairs: npt.NDArray[np.int64] | None
    source_lengths: IntArray
    target_lengths: IntArray


class TrainingPairs(ABC):
    """Pairs as ids: sources as ``Codec.encode`` returns them, targets with EOS; pairs are numbered from 0.

    Two sources with equal ids count as one: a model cannot distinguish them.
    """

    sources: TokenRows
    targets: TokenRows
    features: TokenRows | None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pairs."""

    @property
    @abstractmethod
    def num_sources(self) -> int:
        """Number of distinct sources."""

    @property
    @abstractmethod
    def num_tokens(self) -> tuple[int, int]:
        """Number of source tokens and of target tokens, EOS counted."""

    @property
    @abstractmethod
    def num_unknown(self) -> tuple[int, int, int]:
        """Number of unknown tokens of sources, of targets, and of features."""

    @property
    @abstractmethod
    def largest_ratio(self) -> float:
        """Largest target length / source length, both without EOS; an empty source counts as 1 token."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) of the ids that a model reads and writes."""

    @property
    @abstractmethod
    def num_windows(self) -> int:
        """Number of windows per epoch."""

    @abstractmethod
    def window(self, seed: int, epoch: int, number: int) -> Window:
        """Return a window of an epoch; those of an epoch hold each pair once."""

    @abstractmethod
    def groups(self, pairs: IntArray) -> IntArray:
        """Return numbers [B] that are equal for equal sources."""

    @abstractmethod
    def references(self, pair: int) -> list[IntArray]:
        """Return the distinct targets (with EOS) of all pairs with the source of pair ``pair``, in their order."""

    @property
    def mean_lengths(self) -> tuple[float, float]:
        """Mean number of source and of target tokens per pair, EOS counted."""
        source, target = self.num_tokens
        return source / len(self), target / len(self)
