"""The mapping of rows to a stepper's constant arrays (entries), which the rows of a source share.

Shape suffixes: B sources, N rows, E entries.
"""

from __future__ import annotations

import numpy as np

from freerun.search.stepper import Ids

__all__ = ["SharedEntries"]


class SharedEntries:
    """The entries that exist while rows are reordered, copied and dropped.

    There is one entry per run of rows of one source if all runs have the same length (hypotheses of a source are
    neighbours, and mostly they are only reordered among themselves), otherwise one per row.
    """

    def __init__(self, num_sources: int) -> None:
        self._sources = self._entries = np.arange(num_sources)  # of each row, and of each entry

    def follow(self, origins: Ids) -> tuple[bool, Ids | None]:
        """Replace the rows by copies of the rows ``origins`` [N].

        Returns:
            Whether that changes any row, and which of the current entries are the new ones (None: all, unchanged).
        """
        if _same(origins, np.arange(len(self._sources))):
            return False, None
        self._sources = self._sources[origins]
        entries = _entries_of(self._sources)
        if _same(entries, self._entries):
            return True, None
        order = np.argsort(self._entries, kind="stable")
        selection = order[np.searchsorted(self._entries, entries, sorter=order)]
        self._entries = entries
        return True, selection


def _entries_of(sources: Ids) -> Ids:
    """Return one source per run of equal ``sources`` [N] if all runs have the same length, otherwise all of them."""
    first = np.flatnonzero(np.diff(sources, prepend=-1))
    lengths = np.diff(first, append=len(sources))
    return sources[first] if (lengths == lengths[:1]).all() else sources


def _same(one: Ids, other: Ids) -> bool:
    return len(one) == len(other) and bool((one == other).all())
