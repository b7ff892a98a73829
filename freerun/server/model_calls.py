"""What the thread of batches calls: a model with the options that its texts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from freerun.runtime.encoded_texts import EncodedPair, EncodedText
from freerun.runtime.prediction import Prediction, Scored
from freerun.search.batches import ROWS
from freerun.search.methods import Greedy, Search
from freerun.server.counts import Counts
from freerun.server.fair_queue import Job
from freerun.server.served_models import ServedModel

__all__ = ["PredictCall", "ScoreCall", "cost_of", "predict_job", "score_job", "weights_of"]

_SOURCE_PER_STEP: Final = 64
"""Source tokens whose attention takes about as long as the rest of a step."""
_BYTES_PER_TOKEN: Final = 150
_BYTES_PER_WEIGHT: Final = 60
"""Memory of an answer, with the JSON that is made of it."""


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

    @property
    def outputs(self) -> int:
        """The maximum number of outputs for a text."""
        return 1 if isinstance(self.search, Greedy) else self.search.num_hypotheses

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
    width = call.search.width
    tokens = call.outputs * sum(item.bound + 1 for item in items)
    weights = call.outputs * sum(weights_of(item) for item in items) if call.attention else 0
    return Job(
        call=call,
        model=call.model,
        items=items,
        lengths=[len(item.ids) for item in items],
        costs=[cost_of(item, width) for item in items],
        width=width,
        rows=ROWS,
        answer_bytes=_BYTES_PER_TOKEN * tokens + _BYTES_PER_WEIGHT * weights,
    )


def score_job(call: ScoreCall, items: Sequence[EncodedPair]) -> Job:
    """Return a job that scores pairs."""
    lengths = [max(len(item.source_ids), len(item.target_ids)) for item in items]
    costs = [_cost(len(item.source_ids), len(item.target_ids)) for item in items]
    size = _BYTES_PER_TOKEN * sum(len(item.target_ids) for item in items)
    return Job(
        call=call,
        model=call.model,
        items=items,
        lengths=lengths,
        costs=costs,
        width=1,
        rows=ROWS,
        answer_bytes=size,
    )


def cost_of(item: EncodedText, width: int) -> int:
    """Return a measure of the time that a text may take: that of a step is 1, and more if a long source is attended."""
    return width * _cost(len(item.ids), item.bound + 1)


def _cost(source: int, steps: int) -> int:
    return steps + steps * source // _SOURCE_PER_STEP


def weights_of(item: EncodedText) -> int:
    """Return the largest number of attention weights that an output for a text may have."""
    return len(item.ids) * (item.bound + 1)
