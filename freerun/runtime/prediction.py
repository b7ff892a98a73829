"""The results of a ``Predictor``: outputs for a source text, and scores of given targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from freerun.data.features import Features

__all__ = ["END_NAME", "OutputAttention", "PredictedHypothesis", "Prediction", "Scored", "empty_prediction"]

END_NAME = "⏎"
"""Stands for the end token, where tokens are named."""


@dataclass(frozen=True)
class PredictedHypothesis:
    """One output.

    Attributes:
        text: the output as text.
        tokens: its target tokens.
        score: total natural-log probability, with that of the end token unless ``truncated``.
        rank_score: ranks the hypotheses: the score under the length penalty.
        token_scores: one log-probability per token, then that of the end token unless ``truncated``.
        truncated: True if it reached the length bound without an end token.
    """

    text: str
    tokens: tuple[str, ...]
    score: float
    rank_score: float
    token_scores: tuple[float, ...]
    truncated: bool

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``freerun predict --json`` prints for it."""
        return {
            "text": self.text,
            "tokens": self.tokens,
            "score": self.score,
            "rank_score": self.rank_score,
            "token_scores": self.token_scores,
            "truncated": self.truncated,
        }


@dataclass(frozen=True)
class OutputAttention:
    """How much each token of a prediction's outputs attends to each source token.

    Attributes:
        source_tokens: the source tokens, ``END_NAME``, and the features if they are attended to.
        weights: for each hypothesis, and each of its ``token_scores``, the weights of the source tokens; they sum to 1.
    """

    source_tokens: tuple[str, ...]
    weights: tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class Prediction:
    """All outputs for one source text, best first; ``text``, ``tokens`` and ``score`` are the best one's."""

    source: str
    hypotheses: tuple[PredictedHypothesis, ...]
    unknown: tuple[str, ...] = ()
    """Source tokens that are not in the vocabulary, as often as they occur."""
    features: Features | None = None
    """Those of the source, as given; None if the model reads no features."""
    unknown_features: tuple[str, ...] = ()
    """The features that are not in the vocabulary."""
    attention: OutputAttention | None = None
    """That of each hypothesis, if it was asked for."""

    @property
    def text(self) -> str:
        """The best output."""
        return self.hypotheses[0].text

    @property
    def tokens(self) -> tuple[str, ...]:
        """The best output's tokens."""
        return self.hypotheses[0].tokens

    @property
    def score(self) -> float:
        """The best output's score."""
        return self.hypotheses[0].score

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``freerun predict --json`` prints for it."""
        features = {} if self.features is None else {"features": self.features}
        hypotheses = [each.as_json() for each in self.hypotheses]
        values = {"source": self.source, **features, "hypotheses": hypotheses}
        if self.attention is not None:
            for hypothesis, weights in zip(hypotheses, self.attention.weights, strict=True):
                hypothesis["attention"] = weights
            values["source_tokens"] = self.attention.source_tokens
        return values

    def _repr_html_(self) -> str:
        """Return the hypotheses and their scores as HTML, for notebooks."""
        from freerun.html_table import html_table  # no prediction needs it

        rows = [
            [str(rank), hypothesis.text + (" (truncated)" if hypothesis.truncated else ""), f"{hypothesis.score:.4f}"]
            for rank, hypothesis in enumerate(self.hypotheses, 1)
        ]
        return html_table(["", "output", "score"], rows, caption=f"{self.source}{self._shown_features}")

    @property
    def _shown_features(self) -> str:
        if not self.features:
            return ""
        return f" ({self.features if isinstance(self.features, str) else ', '.join(self.features)})"


def empty_prediction(has_features: bool) -> Prediction:
    """Return the prediction for an empty line: an empty output, whatever the model would write."""
    return Prediction("", (PredictedHypothesis("", (), 0.0, 0.0, (), False),), features="" if has_features else None)


@dataclass(frozen=True)
class Scored:
    """A given target's total log-probability, and one per token with the end token last.

    The model cannot write a token that its vocabulary lacks, so such a target has no score.

    Attributes:
        source: the source text.
        target: the target text.
        score: total natural-log probability; None if a token is unknown.
        token_scores: one log-probability per token, and one for the end token; None for an unknown token.
        unknown: target tokens that are not in the vocabulary, as often as they occur.
        features: those of the source, as given; None if the model reads no features.
    """

    source: str
    target: str
    score: float | None
    token_scores: tuple[float | None, ...]
    unknown: tuple[str, ...] = ()
    features: Features | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``freerun score --json`` prints for it."""
        return {
            "source": self.source,
            **({} if self.features is None else {"features": self.features}),
            "target": self.target,
            "score": self.score,
            "token_scores": self.token_scores,
        }
