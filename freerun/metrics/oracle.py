"""The dynamic oracle of edit distance: the optimal next tokens after any prefix (Sabour et al. 2019, section 3).

Row D[t] of Levenshtein's table holds the distances of the t tokens written so far to all prefixes of a reference. Its
minimum m_t is the best distance that can still be reached. A token is optimal if it follows a prefix with this minimum,
EOS if the complete reference is such a prefix. Several references are treated as a union.

An unknown token of a reference is never optimal, because models never predict it. If all optimal prefixes are followed
by unknown tokens, no token is optimal, and every token has regret 1.

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
"""Distance to prefixes beyond the end of a reference."""


class Oracle:
    """Follows B outputs at once, each with all references of its source.

    Args:
        references: the references of each row as ids, EOS last.
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
        """m_t, the distance of the best possible completion of each row."""
        best_B = np.full(self._rows, _FAR, np.int64)
        np.minimum.at(best_B, self._owners_R, self._distances_RJ.min(1))
        return best_B

    @property
    def distances_B(self) -> Ids:
        """The distance of each row to its closest reference if the row ended here."""
        ends_R = self._distances_RJ[np.arange(len(self._lengths_R)), self._lengths_R]
        best_B = np.full(self._rows, _FAR, np.int64)
        np.minimum.at(best_B, self._owners_R, ends_R)
        return best_B

    def optimal_BV(self) -> NDArray[np.bool_]:
        """Return the tokens of zero regret; none in a row whose references all continue with unknown tokens."""
        references_N, columns_N = np.nonzero(self._optimal_RJ())
        optimal_BV = np.zeros((self._rows, self.vocabulary_size), np.bool_)
        optimal_BV[self._owners_R[references_N], self._next_RJ[references_N, columns_N]] = True
        return optimal_BV

    def allows_B(self, tokens_B: Ids) -> NDArray[np.bool_]:
        """Return True for tokens of zero regret; the same as a look-up in ``optimal_BV``, but without V."""
        allows_R = (self._optimal_RJ() & (self._next_RJ == tokens_B[self._owners_R, None])).any(1)
        allowed_B = np.zeros(self._rows, np.bool_)
        allowed_B[self._owners_R[allows_R]] = True
        return allowed_B

    def _optimal_RJ(self) -> NDArray[np.bool_]:
        """Return True at the columns whose next token can be predicted and leads to a best completion."""
        is_minimum_RJ: NDArray[np.bool_] = self._distances_RJ == self.reachable_B[self._owners_R, None]
        return is_minimum_RJ & self._writable_RJ

    def advance(self, tokens_B: Ids) -> None:
        """Append a token to each row (undefined for rows that have ended)."""
        before_RJ = self._distances_RJ
        tokens_R1 = tokens_B[self._owners_R, None]
        # the token is an insertion, or it replaces (or equals) the reference's token; a column whose token is EOS has
        # no successor, and is masked below
        reached_RJ = before_RJ + 1
        replaced_RJ = before_RJ[:, :-1] + (self._next_RJ[:, :-1] != tokens_R1)
        reached_RJ[:, 1:] = np.minimum(reached_RJ[:, 1:], replaced_RJ)
        # deletions of reference tokens: D[j] = min over k <= j of reached[k] + j - k
        after_RJ = np.minimum.accumulate(reached_RJ - self._columns_J, axis=1) + self._columns_J
        self._distances_RJ = np.where(self._has_RJ, after_RJ, _FAR)
