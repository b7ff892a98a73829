"""The hooks of the training loop for a run: evaluation of texts, bundles, and batches as texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from freerun.build import search_of
from freerun.config import Config
from freerun.data.batching import Batch
from freerun.errors import RunError, UserError
from freerun.evaluation.searcher_evaluation import EncodedSet, Outcome, evaluation_of, outcome_of
from freerun.experiment.dataset import TrainingData
from freerun.metrics.defined import defined
from freerun.models.seq2seq import Seq2Seq
from freerun.models.torch_stepper import TorchStepper
from freerun.runtime.bundle import read_bundle
from freerun.runtime.writing import BundleParts, write_bundle
from freerun.search.batches import ROWS, Share
from freerun.search.bound import LengthBound
from freerun.search.searcher import StepperSearcher
from freerun.training.callbacks import EvaluationResult
from freerun.training.checkpoint import serialised
from freerun.training.selection import Metrics
from freerun.version import VERSION

__all__ = ["RunHooks"]

_NUM_EXAMPLES = 3


class RunHooks:
    """The training loop's ``TrainerHooks`` for a run in a directory."""

    def __init__(self, directory: Path, config: Config, data: TrainingData, model: Seq2Seq, most_frequent: str) -> None:
        self._directory = directory
        self._config = config
        self._data = data
        self._model = model
        self._most_frequent = most_frequent
        self._bound = LengthBound(data.report.longest_target, data.corpus.largest_ratio)

    def evaluate(
        self,
        model: Seq2Seq,
        everything: bool,
        check: Callable[[], None],
        share: Share,
        others: Callable[[], Sequence[Any]],
    ) -> EvaluationResult:
        """Evaluate a model on the development pairs, with examples unless it is ``everything``."""
        encoded = self._encoded(everything)
        outcomes = [self._outcome(model, encoded, check, share), *map(Outcome.from_json, others())]
        evaluation = evaluation_of(outcomes, encoded, search_of(self._config.evaluation).width)
        outputs = zip(encoded.items.items[:_NUM_EXAMPLES], evaluation.free.texts, strict=False)
        examples = [(item.label, item.texts[0], text) for item, text in outputs]
        return EvaluationResult(defined(evaluation.metrics()), () if everything else examples)

    def outcome(self, model: Seq2Seq, everything: bool, check: Callable[[], None], share: Share) -> Any:
        """Return the outcome of a share of an evaluation, for the process that leads."""
        return self._outcome(model, self._encoded(everything), check, share).as_json()

    def _encoded(self, everything: bool) -> EncodedSet:
        items = self._data.dev if everything else self._data.sample
        return EncodedSet.of(items, self._data.source, self._data.target)

    def _outcome(self, model: Seq2Seq, encoded: EncodedSet, check: Callable[[], None], share: Share) -> Outcome:
        return outcome_of(
            StepperSearcher(lambda: TorchStepper(model)),
            encoded,
            bound=self._bound,
            search=search_of(self._config.evaluation),
            batch_size=ROWS,
            progress=lambda done, total: check(),
            share=share,
        )

    def read_label(self, name: str) -> tuple[int, str] | None:
        """Return the update of the bundle ``best`` or ``last`` and the hash of its weights; None if it is damaged."""
        try:
            bundle = read_bundle(self._directory / name)
        except UserError:
            return None
        update = bundle.config["training"].get("update")
        return (update, bundle.weights_hash) if type(update) is int else None

    def write_bundle(self, name: str, weights: Mapping[str, Tensor], metrics: Metrics, update: int) -> str:
        """Replace the bundle ``best`` or ``last``; return the SHA-256 of its weights."""
        directory = self._directory / name
        parts = BundleParts(
            source=self._data.source,
            target=self._data.target,
            bound=self._bound,
            model=self._model.sizes.as_json(),
            training=self._training_metadata(update),
            most_frequent_target=self._most_frequent,
            weights=serialised(weights),
            metrics=metrics,
            freerun_version=VERSION,
        )
        try:
            return write_bundle(directory, parts)
        except OSError as error:
            raise RunError(
                directory,
                f"this bundle could not be written ({error.strerror or error}); the one before it and all checkpoints "
                "are unchanged",
                "Expected enough disk space and permission to write",
                "Free disk space, then rerun with --resume",
            ) from error

    def describe(self, batch: Batch) -> list[dict[str, str]]:
        """Return the pairs of a batch as texts, with features if they have any."""
        source, target = self._data.source, self._data.target
        pairs = [
            {"source": source.text(source.decode(s.tolist())), "target": target.text(target.decode(t.tolist()))}
            for s, t in zip(batch.source, batch.target_out, strict=True)
        ]
        if source.features is not None and batch.features is not None:
            for pair, ids in zip(pairs, batch.features, strict=True):
                pair["features"] = source.features.decode(ids.tolist())
        return pairs

    def _training_metadata(self, update: int) -> dict[str, Any]:
        """Return what a bundle records of its training; no paths, which mean nothing elsewhere."""
        settings = self._config.model_dump(exclude_none=True, mode="json")
        settings["data"] = {key: value for key, value in settings["data"].items() if key not in ("train", "dev")}
        settings["training"] = {
            key: value for key, value in settings["training"].items() if key not in ("init", "device")
        }
        corpus = self._data.corpus
        return {
            **settings,
            "update": update,
            "pairs": len(corpus),
            "sources": corpus.num_sources,
            "parameters": self._model.num_parameters(),
        }
