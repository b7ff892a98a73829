"""Recordings of a model's teacher-forced and free-running outputs, from which every measure is computed.

A step is *wrong* if its token has regret: the closest reference that can still be reached is farther away after it
(``freerun.metrics.oracle``). EOS is wrong if no reference that ends here is among the closest.

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
from freerun.search.batches import pad, pad_sources, similar_lengths
from freerun.search.beam import beam_search
from freerun.search.bound import LengthBound
from freerun.search.forced_scoring import counted_tokens, score_targets
from freerun.search.stepper import Stepper
from freerun.symbols import EOS, source_length

__all__ = ["BATCH_SIZE", "EncodedPairs", "Recorded", "Recorder", "Runs", "sample_rows"]

Ids = npt.NDArray[np.int64]
Tick = Callable[[int], None]
BATCH_SIZE = 256


@dataclass(frozen=True)
class EncodedPairs:
    """N sources as ids, features after EOS, each with its references as ids, EOS last."""

    sources: Sequence[Sequence[int]]
    references: Sequence[Sequence[Ids]]

    @classmethod
    def of(cls, items: EvaluationSet, source: Codec, target: Codec) -> EncodedPairs:
        """Encode an evaluation set."""
        references = [[np.array(target.encode_tokens(tokens)) for tokens in item.references] for item in items.items]
        return cls([source.encode(item.source, item.features) for item in items.items], references)

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, rows: Ids) -> EncodedPairs:
        """Return the sources at ``rows``."""
        return EncodedPairs([self.sources[row] for row in rows], [self.references[row] for row in rows])

    @cached_property
    def owners_P(self) -> Ids:
        """The source of each reference [P]."""
        return np.repeat(np.arange(len(self)), [len(each) for each in self.references])

    @cached_property
    def targets(self) -> list[Ids]:
        """The references of all sources [P]."""
        return [reference for each in self.references for reference in each]


@dataclass(frozen=True)
class Runs:
    """Predicted tokens and their errors, one row per run.

    Attributes:
        tokens: int32, the predicted tokens; EOS last if it was reached.
        errors: bool, whether each step is wrong.
        log_probs: float32, of the predicted tokens if free-running, of the reference tokens if teacher-forced.
        ended: whether a row reached EOS.
        ending_regret: the cost of ending there: the distance to the closest reference minus that of the best ending.
    """

    tokens: Steps
    errors: Steps
    log_probs: Steps
    ended: npt.NDArray[np.bool_]
    ending_regret: Ids


@dataclass(frozen=True)
class Recorded:
    """The runs of a model on N sources.

    Attributes:
        pairs: the sources and their references.
        free: one free-running run per source.
        forced: one teacher-forced run per reference [P].
        followed: [N], the reference (of the P) that the free run follows longest, the first of several.
    """

    pairs: EncodedPairs
    free: Runs
    forced: Runs
    followed: Ids

    @cached_property
    def first_errors(self) -> Ids:
        """The first wrong step (from 0) of each free run [N]; its length if there is none."""
        return np.array([_first(self.free.errors[row]) for row in range(len(self.pairs))], np.int64)

    @cached_property
    def likelihood(self) -> tuple[Steps, Steps]:
        """The log-probability of each reference token, 0 for unknown ones; and whether the token counts."""
        counted = [counted_tokens(target) for target in self.pairs.targets]
        log_probs = [np.where(mask, self.forced.log_probs[row], 0.0) for row, mask in enumerate(counted)]
        return Steps(log_probs, np.float32), Steps(counted, np.bool_)

    def on_followed(self, runs: Steps) -> Steps:
        """Return the rows of the references that the free runs follow."""
        return Steps([runs[row] for row in self.followed], np.float64)


class Recorder:
    """A model that is run and recorded."""

    def __init__(self, stepper: Stepper, bound: LengthBound, batch_size: int = BATCH_SIZE) -> None:
        self._stepper = stepper
        self._bound = bound
        self._batch_size = batch_size
        self.vocabulary_size = stepper.vocabulary_size

    def record(self, pairs: EncodedPairs, tick: Tick = lambda count: None) -> Recorded:
        """Run the model teacher-forced and free-running; ``tick`` receives the number of runs that have finished."""
        forced, free = self.forced(pairs, tick), self.free(pairs, tick=tick)
        followed = np.zeros(len(pairs), np.int64)
        for row, start in enumerate(np.searchsorted(pairs.owners_P, np.arange(len(pairs)))):
            common = [_common(free.tokens[row], reference) for reference in pairs.references[row]]
            followed[row] = start + int(np.argmax(common))
        return Recorded(pairs, free, forced, followed)

    def forced(self, pairs: EncodedPairs, tick: Tick = lambda count: None) -> Runs:
        """Feed each reference, and record the prediction after each of its prefixes."""
        sources = [pairs.sources[owner] for owner in pairs.owners_P]
        runs = RunBuilder(len(sources))
        sizes, steps = list(map(source_length, sources)), list(map(len, pairs.targets))
        for rows in similar_lengths(sizes, steps, self._batch_size):
            targets = [pairs.targets[row] for row in rows]
            scores = score_targets(self._stepper, *pad_sources([sources[row] for row in rows]), targets)
            references = [pairs.references[pairs.owners_P[row]] for row in rows]
            runs.add(rows, references, targets, scores.argmax, scores.log_probs, np.ones(len(rows), np.bool_))
            tick(len(rows))
        return runs.runs()

    def free(self, pairs: EncodedPairs, prefixes: Sequence[Ids] | None = None, tick: Tick = lambda count: None) -> Runs:
        """Run greedy search from each source, after the forced ``prefixes`` [N]."""
        runs = RunBuilder(len(pairs))
        sizes = list(map(source_length, pairs.sources))
        for rows in similar_lengths(sizes, sizes, self._batch_size):
            ids, lengths = pad_sources([pairs.sources[row] for row in rows])
            bounds = self._bound.of(lengths)
            prefix = None
            if prefixes is not None:
                prefix = [prefixes[row].tolist() for row in rows]
                bounds = np.maximum(bounds, [len(each) for each in prefix])
            outputs = beam_search(self._stepper, ids, lengths, max_lengths=bounds, prefixes=prefix)
            best = [hypotheses[0] for hypotheses in outputs]
            ended = np.array([not hypothesis.truncated for hypothesis in best])
            predicted = [np.array([*each.ids, *([] if each.truncated else [EOS])], np.int64) for each in best]
            scores = [np.array(each.token_scores) for each in best]
            runs.add(rows, [pairs.references[row] for row in rows], predicted, predicted, scores, ended)
            tick(len(rows))
        return runs.runs()


class RunBuilder:
    """Runs built batch by batch, so that only one batch's distance tables exist at a time."""

    def __init__(self, size: int) -> None:
        self._tokens, self._errors, self._log_probs = ([np.zeros(0)] * size for _ in range(3))
        self._ended = np.zeros(size, np.bool_)
        self._ending_regret = np.zeros(size, np.int64)

    def add(
        self,
        rows: Ids,
        references: Sequence[Sequence[Ids]],
        fed: Sequence[Ids],
        predicted: Sequence[Ids],
        log_probs: Sequence[npt.NDArray[np.float64]],
        ended: npt.NDArray[np.bool_],
    ) -> None:
        errors, regret = _errors(Oracle(references, 0), fed, predicted, ended)
        for position, row in enumerate(rows):
            self._tokens[row] = predicted[position].astype(np.int32)
            self._errors[row] = errors[position, : len(predicted[position])]
            self._log_probs[row] = log_probs[position].astype(np.float32)
        self._ended[rows], self._ending_regret[rows] = ended, regret

    def runs(self) -> Runs:
        tokens, errors = Steps(self._tokens, np.int32), Steps(self._errors, np.bool_)
        return Runs(tokens, errors, Steps(self._log_probs, np.float32), self._ended, self._ending_regret)


def _errors(
    oracle: Oracle, fed: Sequence[Ids], predicted: Sequence[Ids], ended: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], Ids]:
    """Return whether each prediction is wrong [B, T], given what was fed before it, and the ending regret [B]."""
    fed_BT, lengths_B = pad([each.tolist() for each in fed])
    predicted_BT, _ = pad([each.tolist() for each in predicted])
    errors_BT = np.zeros(fed_BT.shape, np.bool_)
    regret_B = np.zeros(len(fed), np.int64)
    # regret is read before EOS, or after the last token of an output without EOS
    ends_B = lengths_B - ended
    for t in range(fed_BT.shape[1] + 1):
        here = np.flatnonzero(ends_B == t)
        regret_B[here] = (oracle.distances_B - oracle.reachable_B)[here]
        if t < fed_BT.shape[1]:
            errors_BT[:, t] = ~oracle.allows_B(predicted_BT[:, t])
            oracle.advance(fed_BT[:, t])
    return errors_BT, regret_B


def _first(errors: npt.NDArray[np.bool_]) -> int:
    """Return the first error, or the number of steps if there is none."""
    return int(errors.argmax()) if errors.any() else len(errors)


def _common(output: npt.NDArray[np.int32], reference: Ids) -> int:
    """Return the length of the common prefix."""
    size = min(len(output), len(reference))
    return _first(output[:size] != reference[:size])


def sample_rows(rows: Ids, limit: int, purpose: str) -> Ids:
    """Return at most ``limit`` of ``rows``, sampled (the same ones in every call), in their order."""
    if len(rows) <= limit:
        return rows
    return np.sort(numpy_generator(0, purpose).permutation(rows)[:limit])
