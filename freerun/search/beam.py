"""Beam search, and greedy search, which is a beam of one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from freerun.search.hypothesis import Hypothesis, divisor_bound, penalised
from freerun.search.loop import Chooser, Rows, decode, writable
from freerun.search.methods import Beam
from freerun.search.prefix import NO_TOKEN
from freerun.search.stepper import Ids, LogProbs, Stepper
from freerun.search.trellis import Choice
from freerun.symbols import EOS

__all__ = ["BeamChooser", "GreedyChooser", "beam_search"]

Mask = npt.NDArray[np.bool_]


def beam_search(
    stepper: Stepper,
    source_ids: Ids,
    lengths: Ids,
    settings: Beam = Beam(),
    *,
    max_lengths: Ids,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """Return at most ``num_hypotheses`` outputs of each source, best first; truncated ones come after finished ones.

    source_ids [B, S] padded with PAD, lengths [B], max_lengths [B] in tokens without EOS. ``prefixes`` are the ids that
    each source's outputs begin with. Sources are searched together and never influence each other.

    The result is what the same beam gives when it runs to the last length, unless ``early_stop`` is set: then a
    ``length_penalty`` above 0 makes it a heuristic (``BeamChooser``). A beam of one is greedy search, whatever the
    penalty. Raises ConfigError for negative bounds and impossible prefixes.
    """
    chooser: Chooser = GreedyChooser()
    if settings.width > 1:
        chooser = BeamChooser(settings, max_lengths, stepper.vocabulary_size)
    return decode(
        stepper,
        source_ids,
        lengths,
        chooser,
        max_lengths=max_lengths,
        prefixes=prefixes,
        num_hypotheses=settings.num_hypotheses,
        length_penalty=settings.length_penalty,
    )


class GreedyChooser:
    """The best token of every row: ``BeamChooser`` with a beam of one, without its book-keeping."""

    width = 1

    def choose(self, step: int, rows: Rows, ids: Ids, log_probs: LogProbs) -> Choice:
        """See ``Chooser``."""
        return Choice(np.arange(len(ids)), ids[:, 0], log_probs[:, 0])


class BeamChooser:
    """K active hypotheses per source; one that finishes is replaced (A sources with active rows, K beam, W width).

    Of all candidates of a source, those with EOS among the K best finish, and the K best others stay active. Ties go to
    the higher score, then the lowest token, then the lowest parent.

    A source is done when no active hypothesis can still beat the last of its ``num_hypotheses`` best finished ones. A
    score only falls, so an active hypothesis can reach at most its current score; under a length penalty, that score
    ranked at the length that is best for it (``divisor_bound``): ``score / ((5 + longest + 1) / 6) ** length_penalty``
    for a positive penalty, where ``longest`` is the length bound of the source and 1 counts EOS. Truncated hypotheses
    rank after finished ones, so they matter only while fewer have finished, and nothing stops before that. The result
    is therefore that of a search to the last length.

    That bound is loose when ``longest`` is far away. With ``early_stop`` a source is also done when K hypotheses have
    finished and no active one would be better than the K-th of them if it were ranked at its current length, as in
    Wu et al. 2016. This may miss a longer output that would have been the best.

    Single hypotheses that cannot reach the result are not dropped: they never displace one that can, few rows would be
    saved, and the rows of a source share its memory only while all sources have equally many rows.
    """

    def __init__(self, settings: Beam, max_lengths: Ids, vocabulary_size: int) -> None:
        self._beam_size, self._length_penalty = settings.width, settings.length_penalty
        # One more than K: a row may finish with EOS, and K others must remain to refill the beam.
        self.width = min(self._beam_size + 1, writable(vocabulary_size))
        self._max_lengths = max_lengths
        self._last, self._early_stop = settings.num_hypotheses - 1, settings.early_stop
        # Costs (negated rank scores) of the best finished hypotheses, ascending. NaN where fewer have finished: it
        # sorts last, and no comparison with it holds.
        columns = self._beam_size if settings.early_stop else settings.num_hypotheses
        self._costs = np.full((len(max_lengths), columns), np.nan)

    @cached_property
    def _divisors(self) -> npt.NDArray[np.float64]:
        """``divisor_bound`` of each source [B] at any step, for penalties that are not negative."""
        return np.array([divisor_bound(0, longest, self._length_penalty) for longest in self._max_lengths.tolist()])

    def choose(self, step: int, rows: Rows, ids: Ids, log_probs: LogProbs) -> Choice:
        """See ``Chooser``."""
        is_first = np.diff(rows.starts, prepend=-1) != 0
        first = np.flatnonzero(is_first)
        order, tokens, scores = self._ranked(np.cumsum(is_first) - 1, first, rows.scores[:, None] + log_probs, ids)
        # A row has at most one candidate with EOS, so those that finish never share a parent.
        finishing = tokens == EOS
        active = ~finishing & (tokens != NO_TOKEN)
        finishing[:, self._beam_size :] = False
        active &= np.cumsum(active, axis=1) <= self._beam_size
        active[self._done(rows.starts[first], finishing, active, scores, step + 1)] = False
        source, column = np.nonzero(finishing | active)
        candidate = order[source, column]
        parents = first[source] + candidate // self.width
        return Choice(parents, tokens[source, column], log_probs[parents, candidate % self.width])

    def _ranked(
        self, source: Ids, first: Ids, scores: npt.NDArray[np.float64], ids: Ids
    ) -> tuple[Ids, Ids, npt.NDArray[np.float64]]:
        """Return the candidates of each source, best first, [A, K * W]: positions (by parent), tokens and scores.

        source [N] is the index (in A) of each row's source, first [A] that of each source's first row (in N).
        """
        # Sources with fewer than K rows (all of them in the first step) get empty slots, so that one sort serves all.
        slots = source * self._beam_size + np.arange(len(source)) - first[source]
        shape = len(first) * self._beam_size, self.width
        every_token, every_score = np.full(shape, NO_TOKEN), np.full(shape, -np.inf)
        every_token[slots], every_score[slots] = ids, scores
        every_token, every_score = every_token.reshape(len(first), -1), every_score.reshape(len(first), -1)
        # As unsigned numbers NO_TOKEN is the largest, so it comes after real tokens of probability 0.
        # The sort is stable and candidates are ordered by parent: the last tie goes to the better parent.
        order = np.lexsort((every_token.view(np.uint64), -every_score), axis=-1)
        return order, np.take_along_axis(every_token, order, 1), np.take_along_axis(every_score, order, 1)

    def _done(self, sources: Ids, finishing: Mask, active: Mask, scores: npt.NDArray[np.float64], written: int) -> Mask:
        """Record the hypotheses that finish in this step; return which sources [A] are done.

        sources [A], other arrays [A, K * W]; ``written`` tokens have been written, this step's included.
        """
        # Candidates beyond the K-th do not finish, so the first K columns hold all that do.
        costs = np.where(finishing, -penalised(scores, written, self._length_penalty), np.nan)[:, : self._beam_size]
        best = np.sort(np.concatenate((self._costs[sources], costs), axis=1), axis=1)[:, : self._costs.shape[1]]
        self._costs[sources] = best
        least = -np.where(active, scores, -np.inf).max(axis=1)
        if self._length_penalty < 0:
            reachable = least / divisor_bound(written, 0, self._length_penalty)
        else:
            reachable = least / self._divisors[sources]
        done = reachable >= best[:, self._last]
        if self._early_stop:  # under a penalty of 0 or less this comes no sooner
            done |= penalised(least, written, self._length_penalty) >= best[:, -1]
        return np.asarray(done)
