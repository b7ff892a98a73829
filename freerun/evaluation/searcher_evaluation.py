"""Evaluation of a model on pairs, fed the reference tokens (teacher-forced) and its own tokens (free-running)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from freerun.data.codec import Codec
from freerun.evaluation.free_running_metrics import FreeRunningMetrics, flat
from freerun.evaluation.items import EvaluationSet
from freerun.metrics.accuracy import Values
from freerun.metrics.intervals import ratio_interval
from freerun.search.batches import EVERYTHING, ROWS, Share
from freerun.search.bound import LengthBound
from freerun.search.forced_scoring import counted_tokens
from freerun.search.hypothesis import Hypothesis
from freerun.search.methods import Beam, Greedy
from freerun.search.searcher import Searcher, score_in_batches, search_in_batches
from freerun.search.stepper import Ids
from freerun.symbols import UNK, source_length

__all__ = ["EncodedSet", "Evaluation", "Outcome", "TeacherForced", "evaluate", "evaluation_of", "outcome_of"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class TeacherForced:
    """Sums over the references of each source, [N] each.

    nll, num_tokens and num_correct are over the tokens that count (``counted_tokens``: no unknown ones).

    nll: negative log-likelihood in nats. num_tokens: EOS counted. num_correct: tokens that greedy search would write.
    num_unknown: tokens that are not in the vocabulary. num_all: all tokens, EOS counted.
    """

    nll: npt.NDArray[np.float64]
    num_tokens: npt.NDArray[np.float64]
    num_correct: npt.NDArray[np.float64]
    num_unknown: npt.NDArray[np.float64]
    num_all: npt.NDArray[np.float64]

    @property
    def ratios(self) -> dict[str, tuple[Values, Values]]:
        """The metrics: name to numerators and denominators, [N] each."""
        return {
            "nll.teacher": (self.nll, self.num_tokens),
            "token_accuracy.teacher": (self.num_correct, self.num_tokens),
            "unknown_target_tokens": (self.num_unknown, self.num_all),
        }

    def metrics(self) -> dict[str, float]:
        """Return the metrics with 95 % intervals; perplexity is exp(nll)."""
        intervals = {name: ratio_interval(*ratio) for name, ratio in self.ratios.items()}
        return flat(intervals) | flat({"perplexity.teacher": intervals["nll.teacher"]}, _exp)


def _exp(value: float) -> float:
    # A model that has diverged is no reason to lose all other metrics to an OverflowError.
    return math.exp(value) if not value > 700 else math.inf


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of one model on one set: N sources, their best hypotheses, and the metrics of each source."""

    items: EvaluationSet
    teacher: TeacherForced
    free: FreeRunningMetrics
    hypotheses: Sequence[Hypothesis]
    beam_size: int

    @property
    def ratios(self) -> dict[str, tuple[Values, Values]]:
        """All metrics that are ratios: name to numerators and denominators, [N] each."""
        return self.teacher.ratios | self.free.ratios

    def metrics(self) -> dict[str, float]:
        """Return the metrics, with ``.low`` and ``.high`` for 95 % intervals over sources; undefined ones are NaN."""
        metrics = self.teacher.metrics() | self.free.metrics()
        metrics["beam_size"] = self.beam_size
        return metrics


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """The ids of an evaluation set: N sources, and their P references.

    sources: [N]. targets: [P]; owners: [P], the source of each. counted: [P], masks of the tokens that count.
    """

    items: EvaluationSet
    target_codec: Codec
    sources: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]
    owners: Ids
    counted: Sequence[npt.NDArray[np.bool_]]

    @staticmethod
    def of(items: EvaluationSet, source_codec: Codec, target_codec: Codec) -> EncodedSet:
        """Encode sources and references, each once."""
        sources = [source_codec.encode(item.source, item.features) for item in items.items]
        targets = [target_codec.encode_tokens(tokens) for item in items.items for tokens in item.references]
        # each reference is scored on its own; its metrics are added up for its source
        owners = np.repeat(np.arange(len(items)), [len(item.references) for item in items.items])
        return EncodedSet(items, target_codec, sources, targets, owners, list(map(counted_tokens, targets)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model gave for a share of an evaluation.

    scores: pair -> its NLL in nats, and its tokens that greedy search would write. hypotheses: source -> the best one.
    """

    scores: Mapping[int, tuple[float, float]]
    hypotheses: Mapping[int, Hypothesis]

    def as_json(self) -> list[Any]:
        """Return a JSON value, for another process."""
        scores = [[pair, *values] for pair, values in self.scores.items()]
        return [scores, [[source, *astuple(hypothesis)] for source, hypothesis in self.hypotheses.items()]]

    @staticmethod
    def from_json(value: Sequence[Any]) -> Outcome:
        """Return the outcome that ``as_json`` described."""
        scores, hypotheses = value
        return Outcome(
            {pair: (nll, correct) for pair, nll, correct in scores},
            {
                source: Hypothesis(tuple(ids), score, tuple(token_scores), rank_score, truncated)
                for source, ids, score, token_scores, rank_score, truncated in hypotheses
            },
        )


def evaluate(
    searcher: Searcher,
    items: EvaluationSet,
    source_codec: Codec,
    target_codec: Codec,
    *,
    bound: LengthBound,
    search: Greedy | Beam = Greedy(),
    batch_size: int = ROWS,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every reference, then search every source.

    batch_size: rows decoded together, so batch_size / beam_size sources. progress: called as (done, total) sequences.
    References are compared as tokens, so no output equals one with an unknown token, which is never written;
    teacher-forced metrics leave unknown tokens out.
    """
    encoded = EncodedSet.of(items, source_codec, target_codec)
    outcome = outcome_of(
        searcher, encoded, bound=bound, search=search, batch_size=batch_size, progress=progress, share=EVERYTHING
    )
    return evaluation_of([outcome], encoded, search.width)


def outcome_of(
    searcher: Searcher,
    encoded: EncodedSet,
    *,
    bound: LengthBound,
    search: Greedy | Beam,
    batch_size: int,
    progress: Progress | None,
    share: Share,
) -> Outcome:
    """Return what the model gives for a share of the batches, see ``evaluate``."""
    sources, targets, counted = encoded.sources, encoded.targets, encoded.counted
    tick = _Ticker(progress, len(targets) + len(sources))
    scores: dict[int, tuple[float, float]] = {}
    pairs = [sources[owner] for owner in encoded.owners], targets
    for batch, forced in score_in_batches(searcher, *pairs, batch_size, share):
        for pair, log_probs, correct in zip(batch.tolist(), forced.log_probs, forced.correct, strict=True):
            scores[pair] = float(-log_probs[counted[pair]].sum()), float(correct[counted[pair]].sum())
        tick(len(batch))
    best: dict[int, Hypothesis] = {}
    bounds = [bound.of_one(source_length(source)) for source in sources]
    for batch, hypotheses in search_in_batches(searcher, sources, bounds, search, batch_size=batch_size, share=share):
        best.update((n, first) for n, (first, *_) in zip(batch.tolist(), hypotheses, strict=True))
        tick(len(batch))
    return Outcome(scores, best)


def evaluation_of(outcomes: Sequence[Outcome], encoded: EncodedSet, beam_size: int) -> Evaluation:
    """Return the evaluation whose shares, all together, had these outcomes."""
    scores = {pair: values for outcome in outcomes for pair, values in outcome.scores.items()}
    best = {source: first for outcome in outcomes for source, first in outcome.hypotheses.items()}
    items, targets, codec = encoded.items, encoded.targets, encoded.target_codec
    nll, correct = np.array([scores[pair] for pair in range(len(targets))], np.float64).reshape(-1, 2).T
    tokens = np.array([mask.sum() for mask in encoded.counted], np.float64)
    unknown = np.array([np.count_nonzero(np.asarray(target) == UNK) for target in targets], np.float64)
    every = np.array([len(target) for target in targets], np.float64)
    total = partial(_sums, encoded.owners, len(items))
    teacher = TeacherForced(total(nll), total(tokens), total(correct), total(unknown), total(every))
    hypotheses = [best[source] for source in range(len(items))]
    predictions = [codec.decode(hypothesis.ids) for hypothesis in hypotheses]
    truncated = np.array([hypothesis.truncated for hypothesis in hypotheses])
    free = FreeRunningMetrics(items, codec, predictions, truncated)
    return Evaluation(items, teacher, free, hypotheses, beam_size)


class _Ticker:
    """Counts finished sequences and reports them to the caller of ``evaluate``."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def __call__(self, finished: int) -> None:
        self._done += finished
        if self._progress is not None:
            self._progress(self._done, self._total)


def _sums(owners: Ids, size: int, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the sums [size] of ``values`` [P] by owner [P]."""
    return np.bincount(owners, values, size).astype(np.float64)
