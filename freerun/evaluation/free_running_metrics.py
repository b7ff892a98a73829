"""Metrics of free-running outputs: those of a model fed its own tokens, or of a trivial baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from freerun.data.codec import Codec
from freerun.evaluation.items import EvaluationSet
from freerun.metrics.accuracy import EditDistances, Values, edit_distances, exact_matches
from freerun.metrics.bleu import CorpusScore, bleu, bleu_tokenizer, chrf, spaced
from freerun.metrics.intervals import Interval, ratio_interval

__all__ = ["FreeRunningMetrics", "flat"]


@dataclass(frozen=True)
class FreeRunningMetrics:
    """One output per source, N of them.

    predictions: tokens of the outputs. truncated: [N], whether an output hit the length bound.
    """

    items: EvaluationSet
    target_codec: Codec
    predictions: Sequence[Sequence[str]]
    truncated: npt.NDArray[np.bool_]

    @cached_property
    def texts(self) -> list[str]:
        """The outputs as texts."""
        return [self.target_codec.text(tokens) for tokens in self.predictions]

    @cached_property
    def matches(self) -> npt.NDArray[np.bool_]:
        """Whether the output equals any reference, token by token, [N]."""
        return exact_matches(self.predictions, self.items.references)

    @cached_property
    def distances(self) -> EditDistances:
        """Edit distance in tokens to the closest reference, and its length, [N] each."""
        return edit_distances(self.predictions, self.items.references)

    @cached_property
    def bleu(self) -> CorpusScore:
        """BLEU, with sacrebleu's signature."""
        return bleu(*self._compared, tokenize=self._tokenize)

    @cached_property
    def chrf(self) -> CorpusScore:
        """The chrF2 score, with sacrebleu's signature."""
        return chrf(*self._compared)

    @property
    def ratios(self) -> dict[str, tuple[Values, Values]]:
        """The metrics that are ratios: name to numerators and denominators, [N] each."""
        each = np.ones(len(self.items))
        return {
            "sequence_accuracy.free": (self.matches, each),
            "symbol_error_rate.free": (self.distances.distances, self.distances.lengths),
            "hit_length_bound.free": (self.truncated, each),
        }

    @property
    def scores(self) -> dict[str, CorpusScore]:
        """The metrics of whole corpora, 0-100."""
        return {"bleu.free": self.bleu, "chrf.free": self.chrf}

    def metrics(self) -> dict[str, float]:
        """Return the metrics with 95 % intervals (``.low``, ``.high``) and the number of ``sources``; or NaN."""
        intervals = {name: ratio_interval(*figures) for name, figures in self.ratios.items()}
        intervals |= {name: score.interval() for name, score in self.scores.items()}
        metrics = flat(intervals)
        metrics["sources"] = len(self.items)
        return metrics

    @cached_property
    def _tokenize(self) -> str:
        texts = (text for texts in self.items.reference_texts for text in texts)
        return bleu_tokenizer(self.target_codec.tokenizer.spec, texts)

    @cached_property
    def _compared(self) -> tuple[list[str], list[list[str]]]:
        """Outputs and references for BLEU and chrF: tokens joined by spaces, or texts if tokens are subwords."""
        if self._tokenize != "none":
            return self.texts, self.items.reference_texts
        # Tokens, not texts: characters of a word would otherwise be one word to BLEU.
        references = [[spaced(tokens) for tokens in each] for each in self.items.references]
        return [spaced(tokens) for tokens in self.predictions], references


def flat(intervals: dict[str, Interval], change: Callable[[float], float] = float) -> dict[str, float]:
    """Return ``name``, ``name.low`` and ``name.high`` of each interval, with ``change`` applied to each number."""
    result: dict[str, float] = {}
    for name, interval in intervals.items():
        result[name] = change(interval.value)
        result[f"{name}.low"], result[f"{name}.high"] = change(interval.low), change(interval.high)
    return result
