"""Two models on the same sources: which differences are more than chance?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from freerun.errors import DataError
from freerun.evaluation.evaluate import Evaluation
from freerun.metrics.paired import Difference, McNemar, mcnemar, paired_bootstrap, paired_ratios

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences B - A by the name of the figure, and McNemar's test of sequence accuracy."""

    sources: int
    differences: dict[str, Difference]
    mcnemar: McNemar


def compare(a: Evaluation, b: Evaluation) -> Comparison:
    """Paired tests over sources: bootstrap for every figure, McNemar for sequence accuracy.

    Models with different target tokens are compared by sequence accuracy and by the length bound alone, since their
    other figures have different units; models that lack different target tokens by all but the teacher-forced figures,
    which leave these tokens out. Raises DataError when the sources differ.
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
    """The reference tokens that a model's vocabulary lacks."""
    return evaluation.items.unknown_targets(evaluation.free.target_codec)[0]


def _check_sources(a: Evaluation, b: Evaluation) -> None:
    if a.items.sources != b.items.sources:
        raise DataError(
            "compare",
            f"the models do not tell the same sources apart: {len(a.items)} and {len(b.items)} of them",
            "Expected models with the same normalisation and case folding of sources",
            "Evaluate the models one by one, or use pairs whose sources differ by more than case",
        )
