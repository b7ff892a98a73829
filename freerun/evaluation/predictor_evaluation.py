"""The evaluation of a loaded model on pairs, and everything that is reported about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from freerun.data.codec import Codec
from freerun.data.features import Features
from freerun.data.readers import Pair
from freerun.evaluation.baseline import baselines
from freerun.evaluation.by_length import Band, by_source_length
from freerun.evaluation.examples import Example, random_examples, worst_examples
from freerun.evaluation.items import EvaluationSet, group_pairs
from freerun.evaluation.searcher_evaluation import Evaluation
from freerun.evaluation.searcher_evaluation import evaluate as evaluate_stepper
from freerun.evaluation.unknown_features import warn_of_unknown_features
from freerun.evaluation.unknown_targets import warn_of_unknown_targets
from freerun.html_table import metrics_table
from freerun.metrics.defined import defined
from freerun.runtime.predictor import Predictor, check_score
from freerun.search.methods import Beam
from freerun.text import shown

__all__ = ["ModelEvaluation", "evaluate_items", "evaluate_pairs"]

Metrics = dict[str, float | None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, repr=False)
class ModelEvaluation:
    """A model's metrics on pairs, and what explains them.

    Attributes:
        evaluation: the results for each source.
        source: the codec that the model reads sources with.
        most_frequent_target: of the training data, for the majority baseline; None if unknown.
    """

    evaluation: Evaluation
    source: Codec
    most_frequent_target: str | None = None

    @cached_property
    def metrics(self) -> Metrics:
        """Name to value, with ``.low`` and ``.high`` for 95 % intervals over sources; None if undefined."""
        return defined(self.evaluation.metrics())

    @cached_property
    def baselines(self) -> dict[str, Metrics]:
        """The free-running metrics of outputs that need no model: ``copy`` and, if known, ``majority``."""
        items, target = self.evaluation.items, self.evaluation.free.target_codec
        trivial = baselines(items, target, self.most_frequent_target)
        return {name: defined(outputs.metrics()) for name, outputs in trivial.items()}

    @property
    def sources(self) -> list[str]:
        """The source texts [N], in the order of their first pair."""
        return self.evaluation.items.sources

    @property
    def features(self) -> list[Features | None]:
        """The features [N] of the sources, as given; None if the model reads none."""
        return [item.features for item in self.evaluation.items.items]

    @property
    def outputs(self) -> list[str]:
        """The best output for each source [N]."""
        return self.evaluation.free.texts

    def __repr__(self) -> str:
        names = ("nll.teacher", "symbol_error_rate.free", "sequence_accuracy.free")
        values = (f"{name}={self.metrics[name]}" for name in names if name in self.metrics)
        return f"ModelEvaluation({', '.join([f'sources={len(self.sources)}', *values])})"

    def _repr_html_(self) -> str:
        """Return the metrics as a table, for notebooks."""
        return metrics_table(self.metrics, self.baselines, f"{len(self.sources):,} sources")

    def by_source_length(self) -> list[Band]:
        """Return the metrics in bands of source length, shortest first."""
        return by_source_length(self.evaluation, [len(self.source.tokens(text)) for text in self.sources])

    def random_examples(self, count: int) -> list[Example]:
        """Return ``count`` sources sampled at random, with their references and outputs."""
        return random_examples(self.evaluation.free, count)

    def worst_examples(self, count: int) -> list[Example]:
        """Return the ``count`` outputs with the highest symbol error rates."""
        return worst_examples(self.evaluation.free, count)


def evaluate_pairs(
    predictor: Predictor,
    pairs: Iterable[Pair],
    location: str,
    *,
    model: object = "the model",
    beam_size: int = 1,
    length_penalty: float = 0.0,
    early_stop: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate on pairs read from ``location``.

    Log a warning if ``model`` lacks many of the target tokens or of the features.

    Raises:
        DataError: there are no pairs, or they cannot be read.
        BundleError: the model gives a source a score that is not finite.
    """
    items = group_pairs(pairs, predictor.source, predictor.target)
    warn_of_unknown_targets(location, items, predictor.target, f"the vocabulary of {model}")
    warn_of_unknown_features(location, items, predictor.source)
    return evaluate_items(
        predictor,
        items,
        beam_size=beam_size,
        length_penalty=length_penalty,
        early_stop=early_stop,
        progress=progress,
    )


def evaluate_items(
    predictor: Predictor,
    items: EvaluationSet,
    *,
    beam_size: int = 1,
    length_penalty: float = 0.0,
    early_stop: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate on sources and references that are grouped already."""
    evaluation = evaluate_stepper(
        predictor.searcher,
        items,
        predictor.source,
        predictor.target,
        bound=predictor.bound,
        search=Beam(beam_size, length_penalty=length_penalty, early_stop=early_stop),
        progress=progress,
    )
    nll = evaluation.teacher.nll.tolist()
    for item, hypothesis, item_nll in zip(items.items, evaluation.hypotheses, nll, strict=True):
        check_score(hypothesis.score + item_nll, f"source {shown(item.source)}")
    return evaluation
