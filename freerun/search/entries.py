"""What a stepper keeps of a source and never changes: an entry of it, which the rows of that source share.

Legend: B sources, N rows, E entries.
"""

from __future__ import annotations

import numpy as np

from freerun.search.stepper import Ids

__all__ = ["SharedEntries"]


class SharedEntries:
    """Knows which entries there are, while rows change places, multiply and leave.

    There is one entry for each run of rows of one source where all runs are of one length (hypotheses of a source
    stand together, and mostly they only change places among themselves), and else one for each row.
    """

    def __init__(self, num_sources: int) -> None:
        self._sources = self._entries = np.arange(num_sources)  # of each row, and of each entry

    def follow(self, origins: Ids) -> tuple[bool, Ids | None]:
        """Rows are now copies of the rows ``origins`` [N].

        Returns:
            Whether that changes any row, and which of the present entries are the new ones (None: all, as they are).
        """
        if _same(origins, np.arange(len(self._sources))):
            return False, None
        self._sources = self._sources[origins]
        entries = _entries_of(self._sources)
        if _same(entries, self._entries):
            return True, None
        order = np.argsort(self._entries, kind="stable")
        kept = order[np.searchsorted(self._entries, entries, sorter=order)]
        self._entries = entries
        return True, kept


def _entries_of(sources: Ids) -> Ids:
    """Of the rows' sources [N] one for each run of equal ones, if all runs are of one length; else all."""
    first = np.flatnonzero(np.diff(sources, prepend=-1))
    lengths = np.diff(first, append=len(sources))
    return sources[first] if (lengths == lengths[:1]).all() else sources


def _same(one: Ids, other: Ids) -> bool:
    return len(one) == len(other) and bool((one == other).all())
