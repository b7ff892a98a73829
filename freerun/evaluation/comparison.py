"""Comparison of two models on the same sources: which differences are significant?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from freerun.errors import DataError
from freerun.evaluation.searcher_evaluation import Evaluation
from freerun.metrics.defined import finite_or_none
from freerun.metrics.paired import Difference, McNemar, mcnemar, paired_bootstrap, paired_ratios

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences B - A by metric, and McNemar's test of sequence accuracy."""

    sources: int
    differences: dict[str, Difference]
    mcnemar: McNemar

    def as_json(self) -> dict[str, object]:
        """Return the comparison as JSON values; None for undefined ones."""
        values: dict[str, object] = {"sources": self.sources}
        for name, metric in self.differences.items():
            interval = metric.difference
            values[name] = {
                "a": finite_or_none(metric.a),
                "b": finite_or_none(metric.b),
                "difference": finite_or_none(interval.value),
                "low": finite_or_none(interval.low),
                "high": finite_or_none(interval.high),
                "p_value": finite_or_none(metric.p_value),
            }
        test = self.mcnemar
        return {**values, "mcnemar": {"only_a": test.only_a, "only_b": test.only_b, "p_value": test.p_value}}


def compare(a: Evaluation, b: Evaluation) -> Comparison:
    """Run paired tests over sources: bootstrap for every metric, McNemar for sequence accuracy.

    If the target tokens differ, only sequence accuracy and hits of the length bound are compared, since all other
    metrics have different units. If the models lack different target tokens, the teacher-forced metrics, which leave
    these tokens out, are not compared. Raises DataError if the sources differ.
    """
    _check_sources(a, b)
    # An error among characters weighs less than one among words, and so does a nat.
    same_units = a.items.references == b.items.references
    names: Iterable[str] = a.ratios if same_units else ("sequence_accuracy.free", "hit_length_bound.free")
    if same_units and _unknown(a) != _unknown(b):
        # A model would gain by a smaller vocabulary: the rare tokens are the hard ones.
        names = [name for name in names if not name.endswith(".teacher")]
    differences = {name: paired_ratios(a.ratios[name], b.ratios[name]) for name in names}
    for name, score in a.free.scores.items() if same_units else ():
        other = b.free.scores[name]
        differences[name] = paired_bootstrap(score.value, other.value, score.resampled(), other.resampled())
    return Comparison(len(a.items), differences, mcnemar(a.free.matches, b.free.matches))


def _unknown(evaluation: Evaluation) -> Counter[str]:
    """Return the reference tokens that are not in a model's vocabulary."""
    return evaluation.items.unknown_targets(evaluation.free.target_codec)[0]


def _check_sources(a: Evaluation, b: Evaluation) -> None:
    # If only one model reads features, the sources alone are compared: each of them then has to occur once.
    if a.items.labels != b.items.labels and (
        a.items.has_features == b.items.has_features or a.items.sources != b.items.sources
    ):
        raise DataError(
            "compare",
            f"the models distinguish different sources: {len(a.items)} and {len(b.items)} of them",
            "Expected models that read sources alike: normalisation, case folding and features",
            "Evaluate the models one by one, or use pairs whose sources differ by more than case or features",
        )
