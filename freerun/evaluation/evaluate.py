"""A model on pairs, fed in both ways: the right tokens (teacher-forced), and its own (free-running)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from freerun.data.batching import ROWS, pad, similar_lengths
from freerun.data.codec import Codec
from freerun.evaluation.free_running import FreeRunning, flat
from freerun.evaluation.items import EvaluationSet
from freerun.metrics.accuracy import Figures
from freerun.metrics.intervals import ratio_interval
from freerun.search.beam import beam_search
from freerun.search.bound import LengthBound
from freerun.search.hypothesis import Hypothesis
from freerun.search.score import counted_tokens, score_targets
from freerun.search.stepper import Greedy, Ids, Stepper
from freerun.symbols import UNK

__all__ = ["Evaluation", "TeacherForced", "evaluate"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class TeacherForced:
    """Sums over the references of each source, [N] each.

    nll, num_tokens and num_correct are over the tokens that count (``counted_tokens``: no unknown ones).

    nll: negative log-likelihood in nats. num_tokens: EOS counted. num_correct: tokens that greedy search would write.
    num_unknown: tokens that the vocabulary lacks. num_all: all tokens, EOS counted.
    """

    nll: npt.NDArray[np.float64]
    num_tokens: npt.NDArray[np.float64]
    num_correct: npt.NDArray[np.float64]
    num_unknown: npt.NDArray[np.float64]
    num_all: npt.NDArray[np.float64]

    @property
    def ratios(self) -> dict[str, tuple[Figures, Figures]]:
        """The figures: name to numerators and denominators, [N] each."""
        return {
            "nll.teacher": (self.nll, self.num_tokens),
            "token_accuracy.teacher": (self.num_correct, self.num_tokens),
            "unknown_target_tokens": (self.num_unknown, self.num_all),
        }

    def metrics(self) -> dict[str, float]:
        """Flat figures with 95 % intervals; perplexity is exp(nll)."""
        intervals = {name: ratio_interval(*figures) for name, figures in self.ratios.items()}
        return flat(intervals) | flat({"perplexity.teacher": intervals["nll.teacher"]}, _exp)


def _exp(value: float) -> float:
    # A model that has gone wrong is no reason to lose all other figures to an OverflowError.
    return math.exp(value) if not value > 700 else math.inf


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything measured of one model on one set: N sources, their best hypotheses, and figures of each source."""

    items: EvaluationSet
    teacher: TeacherForced
    free: FreeRunning
    hypotheses: Sequence[Hypothesis]
    beam_size: int

    @property
    def ratios(self) -> dict[str, tuple[Figures, Figures]]:
        """All figures that are ratios: name to numerators and denominators, [N] each."""
        return self.teacher.ratios | self.free.ratios

    def metrics(self) -> dict[str, float]:
        """The contract's flat figures, with ``.low`` and ``.high`` for 95 % intervals over sources; undefined: NaN."""
        metrics = self.teacher.metrics() | self.free.metrics()
        metrics["beam_size"] = self.beam_size
        return metrics


def evaluate(
    stepper: Stepper,
    items: EvaluationSet,
    source_codec: Codec,
    target_codec: Codec,
    *,
    bound: LengthBound,
    beam_size: int = 1,
    length_penalty: float = 0.0,
    early_stop: bool = False,
    batch_size: int = ROWS,
    greedy: Greedy | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Force every reference upon the model, then let it run freely from every source.

    batch_size: rows decoded together, so batch_size / beam_size sources. greedy: does a beam of 1 by the means by which
    the model is used. early_stop: as in ``beam_search``. progress: called as (done, total) sequences.
    References are compared as tokens, so no output equals one with an unknown token, which is never written; figures
    that are teacher-forced leave unknown tokens out.
    """
    sources = [source_codec.encode(item.source) for item in items.items]
    targets = [target_codec.encode_tokens(tokens) for item in items.items for tokens in item.references]
    # Each reference is forced on its own; its figures are added up for the source that owns it.
    owners = np.repeat(np.arange(len(items)), [len(item.references) for item in items.items])
    tick = _Ticker(progress, len(targets) + len(sources))
    teacher = _forced(stepper, sources, targets, owners, batch_size, tick)
    is_plain = beam_size == 1 and not length_penalty
    beam = partial(_best, stepper, beam_size, length_penalty, early_stop)
    search = greedy if greedy is not None and is_plain else beam
    hypotheses = _free(search, sources, bound, batch_size, beam_size, tick)
    predictions = [target_codec.decode(hypothesis.ids) for hypothesis in hypotheses]
    truncated = np.array([hypothesis.truncated for hypothesis in hypotheses])
    free = FreeRunning(items, target_codec, predictions, truncated)
    return Evaluation(items, teacher, free, hypotheses, beam_size)


class _Ticker:
    """Counts finished sequences and tells the caller of ``evaluate``."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def __call__(self, finished: int) -> None:
        self._done += finished
        if self._progress is not None:
            self._progress(self._done, self._total)


def _forced(
    stepper: Stepper,
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    owners: Ids,
    batch_size: int,
    tick: Callable[[int], None],
) -> TeacherForced:
    """Score all ``targets`` [P], target p being a reference of source ``owners[p]``."""
    counted = [counted_tokens(target) for target in targets]
    nll, correct = np.zeros(len(targets)), np.zeros(len(targets))
    for batch in similar_lengths(
        [len(sources[owner]) for owner in owners], [len(target) for target in targets], batch_size
    ):
        forced = score_targets(stepper, *pad([sources[owners[p]] for p in batch]), [targets[p] for p in batch])
        nll[batch] = [-scores[counted[p]].sum() for p, scores in zip(batch, forced.log_probs, strict=True)]
        correct[batch] = [right[counted[p]].sum() for p, right in zip(batch, forced.correct, strict=True)]
        tick(len(batch))
    tokens = np.array([mask.sum() for mask in counted], np.float64)
    unknown = np.array([np.count_nonzero(np.asarray(target) == UNK) for target in targets], np.float64)
    every = np.array([len(target) for target in targets], np.float64)
    total = partial(_sums, owners, len(sources))
    return TeacherForced(total(nll), total(tokens), total(correct), total(unknown), total(every))


def _sums(owners: Ids, size: int, figures: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums [size] of ``figures`` [P] by owner [P]."""
    return np.bincount(owners, figures, size).astype(np.float64)


def _best(
    stepper: Stepper,
    beam_size: int,
    length_penalty: float,
    early_stop: bool,
    sources: Sequence[Sequence[int]],
    bounds: Sequence[int],
) -> list[Hypothesis]:
    """The best hypothesis of a beam search from each of the sources."""
    found = beam_search(
        stepper,
        *pad(sources),
        max_lengths=np.array(bounds, np.int64),
        beam_size=beam_size,
        length_penalty=length_penalty,
        early_stop=early_stop,
    )
    return [hypotheses[0] for hypotheses in found]


def _free(
    search: Greedy,
    sources: Sequence[Sequence[int]],
    bound: LengthBound,
    batch_size: int,
    beam_size: int,
    tick: Callable[[int], None],
) -> list[Hypothesis]:
    """The best hypothesis of each source [N]."""
    best: dict[int, Hypothesis] = {}
    lengths = [len(source) for source in sources]
    for batch in similar_lengths(lengths, lengths, batch_size, beam_size):
        found = search([sources[n] for n in batch], [bound.of_one(lengths[n]) for n in batch])
        best.update((int(n), hypothesis) for n, hypothesis in zip(batch, found, strict=True))
        tick(len(batch))
    return [best[n] for n in range(len(sources))]
