"""Values per step for N runs of different lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Steps"]

Numbers = npt.NDArray[Any]
Positions = npt.NDArray[np.int64]


class Steps:
    """One value per step and run: row i holds the values of run i. All rows share one array."""

    def __init__(self, rows: Sequence[Numbers], dtype: npt.DTypeLike) -> None:
        self.lengths: Positions = np.fromiter(map(len, rows), np.int64, len(rows))
        self._ends = np.cumsum(self.lengths)
        self._values = np.concatenate([np.zeros(0), *rows]).astype(dtype)
        self._sums = np.concatenate([[0], np.cumsum(self._values, dtype=np.float64)])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> Numbers:
        return self._values[self._ends[row] - self.lengths[row] : self._ends[row]]

    def window(self, first: int | Positions, last: int | Positions | None = None) -> tuple[Numbers, Positions]:
        """Return the sum of the values at steps ``first`` (from 0) to ``last`` (exclusive), and their number.

        Both may differ between rows; None is the end. Steps that a row does not have are not counted.
        """
        begin = np.minimum(first, self.lengths)
        end = self.lengths if last is None else np.clip(last, begin, self.lengths)
        starts = self._ends - self.lengths
        return self._sums[starts + end] - self._sums[starts + begin], end - begin
