"""What the thread of batches calls: a model with the options that its texts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from freerun.runtime.encoded_texts import EncodedPair, EncodedText
from freerun.runtime.prediction import Prediction, Scored
from freerun.search.batches import ROWS
from freerun.search.methods import Search
from freerun.server.counts import Counts
from freerun.server.fair_queue import Job
from freerun.server.served_models import ServedModel

__all__ = ["PredictCall", "ScoreCall", "predict_job", "score_job"]


@dataclass(frozen=True, slots=True)
class PredictCall:
    """Predict texts. Equal calls are those of one model with equal options."""

    served: ServedModel
    search: Search
    prefix_ids: tuple[int, ...]
    attention: bool

    @property
    def model(self) -> str:
        """The model's name."""
        return self.served.name

    def run(self, items: Sequence[EncodedText]) -> list[Prediction]:
        """Predict texts that the model's ``Predictor`` has encoded."""
        return self.served.predictor.predict_encoded(items, self.search, self.prefix_ids, attention=self.attention)

    def count(self, counts: Counts, results: Sequence[Prediction]) -> None:
        """Count texts, tokens, truncated outputs and unknown tokens."""
        outputs = [hypothesis for prediction in results for hypothesis in prediction.hypotheses]
        counts.add("texts", self.model, by=len(results))
        counts.add("tokens", self.model, by=sum(len(output.token_scores) for output in outputs))
        counts.add("truncated_outputs", self.model, by=sum(output.truncated for output in outputs))
        counts.add("unknown_tokens", self.model, by=sum(len(prediction.unknown) for prediction in results))


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """Score pairs."""

    served: ServedModel

    @property
    def model(self) -> str:
        """The model's name."""
        return self.served.name

    def run(self, items: Sequence[EncodedPair]) -> list[Scored]:
        """Score pairs that the model's ``Predictor`` has encoded."""
        return self.served.predictor.score_encoded(items)

    def count(self, counts: Counts, results: Sequence[Scored]) -> None:
        """Count pairs and tokens."""
        counts.add("texts", self.model, by=len(results))
        counts.add("tokens", self.model, by=sum(len(scored.token_scores) for scored in results))


def predict_job(call: PredictCall, items: Sequence[EncodedText]) -> Job:
    """Return a job that predicts texts."""
    lengths = [len(item.ids) for item in items]
    return Job(call=call, items=items, lengths=lengths, width=call.search.width, rows=ROWS)


def score_job(call: ScoreCall, items: Sequence[EncodedPair]) -> Job:
    """Return a job that scores pairs."""
    lengths = [max(len(item.source_ids), len(item.target_ids)) for item in items]
    return Job(call=call, items=items, lengths=lengths, width=1, rows=ROWS)
