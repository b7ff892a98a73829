"""The dynamic oracle of edit distance: which next tokens are optimal after any prefix (Sabour et al. 2019, section 3).

Row D[t] of Levenshtein's table holds the distance of the t tokens written so far to each prefix of a reference. The
best that can still be reached is its minimum m_t; a token is optimal when it follows a prefix at which the minimum
stands, EOS when the whole reference is such a prefix. With several references all of that is taken over their union.

An unknown token of a reference is never optimal, because no model writes it. Where every optimal prefix is followed by
one, no token is optimal, and any that is written has regret 1.

Shape suffixes: B rows, R references of all rows, J longest reference + 1, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from freerun.symbols import EOS, NEVER_WRITTEN

__all__ = ["Oracle"]

Ids = NDArray[np.int64]
_FAR = 1 << 30
"""Distance to a prefix that a reference does not have."""


class Oracle:
    """Follows B outputs at once, each beside all references of its source.

    Args:
        references: for each row its references as ids, EOS last.
        vocabulary_size: V.
    """

    def __init__(self, references: Sequence[Sequence[NDArray[np.integer]]], vocabulary_size: int) -> None:
        tokens = [reference[:-1] for each in references for reference in each]
        self.vocabulary_size = vocabulary_size
        self._rows = len(references)
        self._owners_R = np.repeat(np.arange(self._rows), [len(each) for each in references])
        self._lengths_R = np.array([len(each) for each in tokens])
        longest = int(self._lengths_R.max())
        # column j holds the token that follows the reference's first j tokens, EOS after all of them
        self._next_RJ = np.full((len(tokens), longest + 1), EOS, np.int64)
        for row, each in enumerate(tokens):
            self._next_RJ[row, : len(each)] = each
        self._writable_RJ = ~np.isin(self._next_RJ, NEVER_WRITTEN)
        self._columns_J = np.arange(longest + 1)
        self._has_RJ = self._columns_J <= self._lengths_R[:, None]
        self._distances_RJ = np.where(self._has_RJ, self._columns_J, _FAR)

    @property
    def reachable_B(self) -> Ids:
        """m_t: the distance that the best ending of each row would have."""
        best_B = np.full(self._rows, _FAR, np.int64)
        np.minimum.at(best_B, self._owners_R, self._distances_RJ.min(1))
        return best_B

    @property
    def distances_B(self) -> Ids:
        """The distance of each row to the closest of its references, were it to end here."""
        ends_R = self._distances_RJ[np.arange(len(self._lengths_R)), self._lengths_R]
        best_B = np.full(self._rows, _FAR, np.int64)
        np.minimum.at(best_B, self._owners_R, ends_R)
        return best_B

    def optimal_BV(self) -> NDArray[np.bool_]:
        """The tokens of zero regret that can be written; none in a row whose references all go on with unknown ones."""
        references_N, columns_N = np.nonzero(self._optimal_RJ())
        found_BV = np.zeros((self._rows, self.vocabulary_size), np.bool_)
        found_BV[self._owners_R[references_N], self._next_RJ[references_N, columns_N]] = True
        return found_BV

    def allows_B(self, tokens_B: Ids) -> NDArray[np.bool_]:
        """Whether each of these tokens is of zero regret; the same as looking it up in ``optimal_BV``, without V."""
        here_R = (self._optimal_RJ() & (self._next_RJ == tokens_B[self._owners_R, None])).any(1)
        found_B = np.zeros(self._rows, np.bool_)
        found_B[self._owners_R[here_R]] = True
        return found_B

    def _optimal_RJ(self) -> NDArray[np.bool_]:
        """Return True at the columns whose next token can be written and leads to the best ending of its row."""
        found_RJ: NDArray[np.bool_] = self._distances_RJ == self.reachable_B[self._owners_R, None]
        return found_RJ & self._writable_RJ

    def advance(self, tokens_B: Ids) -> None:
        """Append a token to each row (of no meaning for rows that have ended)."""
        before_RJ = self._distances_RJ
        given_R1 = tokens_B[self._owners_R, None]
        # written one more, or in place of (or equal to) the reference's token; a column whose token is EOS has no
        # successor, and is masked below
        reached_RJ = before_RJ + 1
        replaced_RJ = before_RJ[:, :-1] + (self._next_RJ[:, :-1] != given_R1)
        reached_RJ[:, 1:] = np.minimum(reached_RJ[:, 1:], replaced_RJ)
        # leaving out reference tokens: D[j] = min over k <= j of reached[k] + j - k
        after_RJ = np.minimum.accumulate(reached_RJ - self._columns_J, axis=1) + self._columns_J
        self._distances_RJ = np.where(self._has_RJ, after_RJ, _FAR)
