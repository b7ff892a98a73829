"""What a model does on right prefixes and on its own: the runs that every measure is a function of.

A step *errs* when its token has regret: the closest reference that can still be reached is farther away after it
(``freerun.metrics.oracle``). Writing EOS errs when an ending reference is not among the closest.

Shape suffixes: B rows, T steps, P references of all sources, N sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from freerun.data.codec import Codec
from freerun.diagnostics.steps import Steps
from freerun.evaluation.items import EvaluationSet
from freerun.metrics.oracle import Oracle
from freerun.randomness import numpy_generator
from freerun.search.batches import pad, similar_lengths
from freerun.search.beam import beam_search
from freerun.search.bound import LengthBound
from freerun.search.score import counted_tokens, score_targets
from freerun.search.stepper import Stepper
from freerun.symbols import EOS

__all__ = ["BATCH_SIZE", "Recorded", "Recorder", "Runs", "Subjects", "sampled"]

Ids = npt.NDArray[np.int64]
Tick = Callable[[int], None]
BATCH_SIZE = 256


@dataclass(frozen=True)
class Subjects:
    """What the model is run on: N sources as ids, each with its references as ids, EOS last."""

    sources: Sequence[Sequence[int]]
    references: Sequence[Sequence[Ids]]

    @classmethod
    def of(cls, items: EvaluationSet, source: Codec, target: Codec) -> Subjects:
        """Encode an evaluation set."""
        references = [[np.array(target.encode_tokens(tokens)) for tokens in item.references] for item in items.items]
        return cls([source.encode(item.source) for item in items.items], references)

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, rows: Ids) -> Subjects:
        """The sources at ``rows``."""
        return Subjects([self.sources[row] for row in rows], [self.references[row] for row in rows])

    @cached_property
    def owners_P(self) -> Ids:
        """The source of each reference, all sources' references in a row."""
        return np.repeat(np.arange(len(self)), [len(each) for each in self.references])

    @cached_property
    def targets(self) -> list[Ids]:
        """The references [P]."""
        return [reference for each in self.references for reference in each]


@dataclass(frozen=True)
class Runs:
    """What was written, a row a run.

    Attributes:
        tokens: int32, what the model wrote after what it was fed; EOS last where it came to that.
        errors: bool, whether each step errs.
        log_probs: float32, of what was written when it ran on its own, of the right token when that was forced.
        ended: whether a row came to EOS.
        ending_regret: what ending there cost: distance to the closest reference, less the distance of the best ending.
    """

    tokens: Steps
    errors: Steps
    log_probs: Steps
    ended: npt.NDArray[np.bool_]
    ending_regret: Ids


@dataclass(frozen=True)
class Recorded:
    """A model on N sources: ``free``, a run a source, and ``forced``, a run for each of the P references.

    ``followed`` [N] is the reference (of the P) that the free run follows longest, the first of several such.
    """

    subjects: Subjects
    free: Runs
    forced: Runs
    followed: Ids

    @cached_property
    def first_errors(self) -> Ids:
        """The step (from 0) at which each free run [N] first errs; its length where it never does."""
        return np.array([_first(self.free.errors[row]) for row in range(len(self.subjects))], np.int64)

    @cached_property
    def likelihood(self) -> tuple[Steps, Steps]:
        """Log-probability of each reference token, 0 if it does not count (an unknown one); and whether it counts."""
        counted = [counted_tokens(target) for target in self.subjects.targets]
        log_probs = [np.where(mask, self.forced.log_probs[row], 0.0) for row, mask in enumerate(counted)]
        return Steps(log_probs, np.float32), Steps(counted, np.bool_)

    def on_followed(self, runs: Steps) -> Steps:
        """The rows of the references that the free runs follow."""
        return Steps([runs[row] for row in self.followed], np.float64)


class Recorder:
    """Runs one model."""

    def __init__(self, stepper: Stepper, bound: LengthBound, batch_size: int = BATCH_SIZE) -> None:
        self._stepper = stepper
        self._bound = bound
        self._batch_size = batch_size
        self.vocabulary_size = stepper.vocabulary_size

    def record(self, subjects: Subjects, tick: Tick = lambda count: None) -> Recorded:
        """Run over the sources in both ways; ``tick`` is told how many runs were finished."""
        forced, free = self.forced(subjects, tick), self.free(subjects, tick=tick)
        followed = np.zeros(len(subjects), np.int64)
        for row, place in enumerate(np.searchsorted(subjects.owners_P, np.arange(len(subjects)))):
            common = [_common(free.tokens[row], reference) for reference in subjects.references[row]]
            followed[row] = place + int(np.argmax(common))
        return Recorded(subjects, free, forced, followed)

    def forced(self, subjects: Subjects, tick: Tick = lambda count: None) -> Runs:
        """Feed each reference, and note what the model would have written after each of its prefixes."""
        sources = [subjects.sources[owner] for owner in subjects.owners_P]
        made = _Made(len(sources))
        sizes, steps = list(map(len, sources)), list(map(len, subjects.targets))
        for rows in similar_lengths(sizes, steps, self._batch_size):
            right = [subjects.targets[row] for row in rows]
            found = score_targets(self._stepper, *pad([sources[row] for row in rows]), right)
            references = [subjects.references[subjects.owners_P[row]] for row in rows]
            made.add(rows, references, right, found.argmax, found.log_probs, np.ones(len(rows), np.bool_))
            tick(len(rows))
        return made.runs()

    def free(self, subjects: Subjects, prefixes: Sequence[Ids] | None = None, tick: Tick = lambda count: None) -> Runs:
        """Let the model write from each source (greedy), after ``prefixes`` [N] that it is made to begin with."""
        made = _Made(len(subjects))
        sizes = list(map(len, subjects.sources))
        for rows in similar_lengths(sizes, sizes, self._batch_size):
            ids, lengths = pad([subjects.sources[row] for row in rows])
            bounds = self._bound.of(lengths)
            prefix = None
            if prefixes is not None:
                prefix = [prefixes[row].tolist() for row in rows]
                bounds = np.maximum(bounds, [len(each) for each in prefix])
            outputs = beam_search(self._stepper, ids, lengths, max_lengths=bounds, prefixes=prefix)
            best = [hypotheses[0] for hypotheses in outputs]
            ended = np.array([not hypothesis.truncated for hypothesis in best])
            written = [np.array([*each.ids, *([] if each.truncated else [EOS])], np.int64) for each in best]
            scores = [np.array(each.token_scores) for each in best]
            made.add(rows, [subjects.references[row] for row in rows], written, written, scores, ended)
            tick(len(rows))
        return made.runs()


class _Made:
    """Gathers runs, a batch at a time, so that only one batch's tables of distances exist."""

    def __init__(self, size: int) -> None:
        self._tokens, self._errors, self._log_probs = ([np.zeros(0)] * size for _ in range(3))
        self._ended = np.zeros(size, np.bool_)
        self._ending_regret = np.zeros(size, np.int64)

    def add(
        self,
        rows: Ids,
        references: Sequence[Sequence[Ids]],
        fed: Sequence[Ids],
        written: Sequence[Ids],
        log_probs: Sequence[npt.NDArray[np.float64]],
        ended: npt.NDArray[np.bool_],
    ) -> None:
        errors, regret = _follow(Oracle(references, 0), fed, written, ended)
        for place, row in enumerate(rows):
            self._tokens[row] = written[place].astype(np.int32)
            self._errors[row] = errors[place, : len(written[place])]
            self._log_probs[row] = log_probs[place].astype(np.float32)
        self._ended[rows], self._ending_regret[rows] = ended, regret

    def runs(self) -> Runs:
        tokens, errors = Steps(self._tokens, np.int32), Steps(self._errors, np.bool_)
        return Runs(tokens, errors, Steps(self._log_probs, np.float32), self._ended, self._ending_regret)


def _follow(
    oracle: Oracle, fed: Sequence[Ids], written: Sequence[Ids], ended: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], Ids]:
    """Whether what is written at each step after what was fed before errs [B, T], and the ending regret [B]."""
    fed_BT, lengths_B = pad([each.tolist() for each in fed])
    written_BT, _ = pad([each.tolist() for each in written])
    errors_BT = np.zeros(fed_BT.shape, np.bool_)
    regret_B = np.zeros(len(fed), np.int64)
    # an output that did not come to EOS is looked at after its last token, the others before their EOS
    ends_B = lengths_B - ended
    for t in range(fed_BT.shape[1] + 1):
        here = np.flatnonzero(ends_B == t)
        regret_B[here] = (oracle.distances_B - oracle.reachable_B)[here]
        if t < fed_BT.shape[1]:
            errors_BT[:, t] = ~oracle.allows_B(written_BT[:, t])
            oracle.advance(fed_BT[:, t])
    return errors_BT, regret_B


def _first(errors: npt.NDArray[np.bool_]) -> int:
    """The first error, or how many steps there are."""
    return int(errors.argmax()) if errors.any() else len(errors)


def _common(output: npt.NDArray[np.int32], reference: Ids) -> int:
    """How many tokens both begin with."""
    size = min(len(output), len(reference))
    return _first(output[:size] != reference[:size])


def sampled(rows: Ids, most: int, purpose: str) -> Ids:
    """At most ``most`` of ``rows``, drawn at random (the same ones at every call), in their order."""
    if len(rows) <= most:
        return rows
    return np.sort(numpy_generator(0, purpose).permutation(rows)[:most])
