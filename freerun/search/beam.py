"""Beam search, and greedy search, which is a beam of one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from freerun.search.hypothesis import Hypothesis, penalised
from freerun.search.loop import Chooser, Rows, decode, refuse, writable
from freerun.search.prefix import NO_TOKEN, with_prefix
from freerun.search.stepper import Ids, LogProbs, Stepper
from freerun.search.trellis import Choice
from freerun.symbols import EOS

__all__ = ["BeamChooser", "GreedyChooser", "beam_search"]

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
) -> list[list[Hypothesis]]:
    """At most ``num_hypotheses`` outputs for each source, best first; truncated ones come after finished ones.

    source_ids [B, S] padded with PAD, lengths [B], max_lengths [B] in tokens without EOS. ``beam_size`` is raised to
    ``num_hypotheses``. ``length_penalty`` ranks only (``penalised``). ``prefix`` gives ids that each output begins
    with. Sources are searched together and never influence each other. Raises ConfigError for sizes below 1, negative
    bounds and impossible prefixes.
    """
    for name, size in (("beam_size", beam_size), ("num_hypotheses", num_hypotheses)):
        refuse(size < 1, name, size, "Expected a whole number of at least 1", "Use 1 for greedy search")
    beam_size = max(beam_size, num_hypotheses)
    chooser: Chooser
    if beam_size == 1:
        chooser = GreedyChooser()
    else:
        chooser = BeamChooser(beam_size, length_penalty, num_hypotheses, len(lengths), stepper.vocabulary_size)
    return decode(
        with_prefix(stepper, prefix, max_lengths),
        source_ids,
        lengths,
        chooser,
        max_lengths=max_lengths,
        num_hypotheses=num_hypotheses,
        length_penalty=length_penalty,
    )


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

    Without length penalty a score only falls. So a source is done when no live hypothesis can beat the last of its
    ``num_hypotheses`` best endings: whatever would come of it ranks below all that is asked for. With a length penalty
    there is no such bound. Then a source is done when K have ended and no live one is better than the K-th of them at
    the current length. (Single hypotheses are not given up: rows of a source share what is kept of it while there are
    equally many of every source.)
    """

    def __init__(
        self, beam_size: int, length_penalty: float, num_hypotheses: int, num_sources: int, vocabulary_size: int
    ) -> None:
        # One more than K: a row's EOS may leave, and K others must remain to refill the beam.
        self.width = min(beam_size + 1, writable(vocabulary_size))
        self._beam_size, self._length_penalty = beam_size, length_penalty
        # rank scores of the best endings, as many as decide when to stop, ascending
        self._ended = np.full((num_sources, beam_size if length_penalty else num_hypotheses), -np.inf)

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

    def _done(self, sources: Ids, ends: Mask, lives: Mask, scores: npt.NDArray[np.float64], length: int) -> Mask:
        """Take note of the endings of this step; returns which sources [A] are done. Other arrays [A, K * W]."""
        # Candidates beyond the K-th do not end, so the first K columns hold all endings.
        ended = np.where(ends, scores, -np.inf)[:, : self._beam_size]
        ranks = penalised(ended, length, self._length_penalty)
        kept = self._ended.shape[1]
        best = np.sort(np.concatenate((self._ended[sources], ranks), axis=1), axis=1)[:, -kept:]
        self._ended[sources] = best
        reachable = penalised(np.where(lives, scores, -np.inf).max(axis=1), length, self._length_penalty)
        # While fewer have ended, the bar is -inf, and everything beats it but what has no probability.
        return np.asarray(reachable <= best[:, 0])
