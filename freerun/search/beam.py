"""Beam search, and greedy search, which is a beam of one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from freerun.bounds import BEAM_SIZE, LENGTH_PENALTY, NUM_HYPOTHESES, Range
from freerun.search.hypothesis import Hypothesis, divisor_bound, penalised
from freerun.search.loop import Chooser, Rows, decode, writable
from freerun.search.prefix import NO_TOKEN, with_prefix
from freerun.search.stepper import Ids, LogProbs, Stepper
from freerun.search.trellis import Choice
from freerun.symbols import EOS

__all__ = ["BeamChooser", "GreedyChooser", "beam_search", "check_beam"]

Mask = npt.NDArray[np.bool_]


def beam_search(
    stepper: Stepper,
    source_ids: Ids,
    lengths: Ids,
    *,
    max_lengths: Ids,
    beam_size: int = 1,
    length_penalty: float = 0.0,
    num_hypotheses: int = 1,
    prefix: Sequence[Sequence[int]] | None = None,
    early_stop: bool = False,
) -> list[list[Hypothesis]]:
    """At most ``num_hypotheses`` outputs for each source, best first; truncated ones come after finished ones.

    source_ids [B, S] padded with PAD, lengths [B], max_lengths [B] in tokens without EOS. ``beam_size`` is raised to
    ``num_hypotheses``. ``length_penalty`` ranks only (``penalised``). ``prefix`` gives ids that each output begins
    with. Sources are searched together and never influence each other.

    The result is what the same beam gives when it runs to the last length, unless ``early_stop`` is set: then a
    ``length_penalty`` above 0 makes it a heuristic (``BeamChooser``). A beam of one is greedy search, whatever the
    penalty. Raises ConfigError for settings that ``check_beam`` rejects, negative bounds and impossible prefixes.
    """
    check_beam(beam_size, num_hypotheses, length_penalty)
    beam_size = max(beam_size, num_hypotheses)
    chooser: Chooser
    if beam_size == 1:
        chooser = GreedyChooser()
    else:
        chooser = BeamChooser(
            beam_size, length_penalty, num_hypotheses, max_lengths, stepper.vocabulary_size, early_stop
        )
    return decode(
        with_prefix(stepper, prefix, max_lengths),
        source_ids,
        lengths,
        chooser,
        max_lengths=max_lengths,
        num_hypotheses=num_hypotheses,
        length_penalty=length_penalty,
    )


def check_beam(beam_size: int, num_hypotheses: int, length_penalty: float) -> None:
    """Check the settings of a beam search; a negative ``length_penalty`` favours shorter outputs.

    Raises:
        ConfigError: one of them is out of its range.
    """
    BEAM_SIZE.check("beam_size", beam_size, "Use 1 for greedy search")
    NUM_HYPOTHESES.check("num_hypotheses", num_hypotheses, "Use 1 for the best output alone")
    penalties = Range(-LENGTH_PENALTY.high, LENGTH_PENALTY.high, is_whole=False)
    fix = "Use 0 to rank by the score itself, or about 1 to favour longer outputs"
    penalties.check("length_penalty", length_penalty, fix)


class GreedyChooser:
    """The best token of every row: ``BeamChooser`` with a beam of one, without its book-keeping."""

    width = 1

    def choose(self, step: int, rows: Rows, ids: Ids, log_probs: LogProbs) -> Choice:
        """See ``Chooser``."""
        return Choice(np.arange(len(ids)), ids[:, 0], log_probs[:, 0])


class BeamChooser:
    """K live hypotheses a source, refilled when one ends (legend: A sources with rows alive, K beam, W width).

    Of all candidates of a source, those with EOS among the K best end, and the K best others live on. Ties go to the
    higher score, then the lowest token, then the lowest parent.

    A source is done when no active hypothesis can still beat the last of its ``num_hypotheses`` best finished ones. A
    score only falls, so the bound on what an active hypothesis can reach is its score now; under a length penalty, its
    score now ranked at the length that is best for it (``divisor_bound``): ``score / ((5 + longest + 1) / 6) **
    length_penalty`` for a positive one, with the source's own length bound ``longest``, and EOS. Truncated hypotheses
    rank after finished ones, so they matter only while fewer have finished, and nothing stops before that. The result
    is therefore that of a search to the last length.

    That bound is loose where ``longest`` is far away. With ``early_stop`` a source is also done when K hypotheses have
    finished and no active one would be better than the K-th of them if it were ranked at its length now, as in
    Wu et al. 2016; a longer output that would have come out best may then be missed.

    (Single hypotheses are not dropped, although those that cannot reach the result never push out one that can: rows of
    a source share what is stored of it while there are equally many of every source, and few rows would be saved.)
    """

    def __init__(
        self,
        beam_size: int,
        length_penalty: float,
        num_hypotheses: int,
        max_lengths: Ids,
        vocabulary_size: int,
        early_stop: bool,
    ) -> None:
        # One more than K: a row's EOS may leave, and K others must remain to refill the beam.
        self.width = min(beam_size + 1, writable(vocabulary_size))
        self._beam_size, self._length_penalty, self._max_lengths = beam_size, length_penalty, max_lengths
        self._last, self._early_stop = num_hypotheses - 1, early_stop
        # Costs (negated rank scores) of the best finished hypotheses, ascending. NaN where fewer have finished: it
        # sorts last, and no comparison with it holds.
        self._costs = np.full((len(max_lengths), beam_size if early_stop else num_hypotheses), np.nan)

    @cached_property
    def _divisors(self) -> npt.NDArray[np.float64]:
        """``divisor_bound`` of each source [B] at any step, for penalties that are not negative."""
        return np.array([divisor_bound(0, longest, self._length_penalty) for longest in self._max_lengths.tolist()])

    def choose(self, step: int, rows: Rows, ids: Ids, log_probs: LogProbs) -> Choice:
        """See ``Chooser``."""
        is_first = np.diff(rows.starts, prepend=-1) != 0
        first = np.flatnonzero(is_first)
        order, tokens, scores = self._ranked(np.cumsum(is_first) - 1, first, rows.scores[:, None] + log_probs, ids)
        # A row has at most one candidate with EOS, so these endings never share a parent.
        ends = tokens == EOS
        lives = ~ends & (tokens != NO_TOKEN)
        ends[:, self._beam_size :] = False
        lives &= np.cumsum(lives, axis=1) <= self._beam_size
        lives[self._done(rows.starts[first], ends, lives, scores, step + 1)] = False
        place, column = np.nonzero(ends | lives)
        candidate = order[place, column]
        parents = first[place] + candidate // self.width
        return Choice(parents, tokens[place, column], log_probs[parents, candidate % self.width])

    def _ranked(
        self, place: Ids, first: Ids, scores: npt.NDArray[np.float64], ids: Ids
    ) -> tuple[Ids, Ids, npt.NDArray[np.float64]]:
        """All candidates of each source, best first, [A, K * W]: their places (parent-major), tokens and scores.

        place [N] says which source a row belongs to, first [A] where its rows begin.
        """
        # Sources with fewer than K rows (all of them in the first step) get empty slots, so that one sort serves all.
        slots = place * self._beam_size + np.arange(len(place)) - first[place]
        shape = len(first) * self._beam_size, self.width
        every_token, every_score = np.full(shape, NO_TOKEN), np.full(shape, -np.inf)
        every_token[slots], every_score[slots] = ids, scores
        every_token, every_score = every_token.reshape(len(first), -1), every_score.reshape(len(first), -1)
        # As unsigned numbers NO_TOKEN is the largest, so it comes after real tokens of probability 0.
        # The sort is stable and candidates stand parent by parent: the last tie goes to the better parent.
        order = np.lexsort((every_token.view(np.uint64), -every_score), axis=-1)
        return order, np.take_along_axis(every_token, order, 1), np.take_along_axis(every_score, order, 1)

    def _done(self, sources: Ids, ends: Mask, lives: Mask, scores: npt.NDArray[np.float64], written: int) -> Mask:
        """Record the hypotheses that finish in this step; return which sources [A] are done.

        sources [A], other arrays [A, K * W]; ``written`` tokens have been written, this step's included.
        """
        # Candidates beyond the K-th do not end, so the first K columns hold all that finish.
        costs = np.where(ends, -penalised(scores, written, self._length_penalty), np.nan)[:, : self._beam_size]
        best = np.sort(np.concatenate((self._costs[sources], costs), axis=1), axis=1)[:, : self._costs.shape[1]]
        self._costs[sources] = best
        least = -np.where(lives, scores, -np.inf).max(axis=1)
        if self._length_penalty < 0:
            reachable = least / divisor_bound(written, 0, self._length_penalty)
        else:
            reachable = least / self._divisors[sources]
        done = reachable >= best[:, self._last]
        if self._early_stop:  # under a penalty of 0 or less this comes no sooner
            done |= penalised(least, written, self._length_penalty) >= best[:, -1]
        return np.asarray(done)
