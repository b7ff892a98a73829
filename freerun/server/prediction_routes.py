"""POST /v1/models/NAME/predict and /score: texts to outputs, and pairs to scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydantic_core import to_json
from starlette.types import Receive, Scope

from freerun.data.features import Features
from freerun.errors import UserError
from freerun.runtime.encoded_texts import EncodedPair, EncodedText
from freerun.runtime.prediction import Prediction, Scored, empty_prediction
from freerun.server.api_types import PairToScore, PredictBody, PredictOptions, ScoreBody
from freerun.server.model_calls import PredictCall, ScoreCall, cost_of, predict_job, score_job, weights_of
from freerun.server.problem import invalid, over_limit
from freerun.server.serve_settings import RequestLimits
from freerun.server.served_models import ServedModel
from freerun.server.service_state import ServiceState, check_json_type
from freerun.server.validation import parsed_json, validated

__all__ = [
    "Predicting",
    "check_characters",
    "check_texts",
    "features_for",
    "json_size",
    "predict",
    "prediction_json",
    "score",
]

_BYTES_PER_TOKEN: Final = 40
_BYTES_PER_WEIGHT: Final = 20
"""Of an answer in JSON."""


class Predicting:
    """One model with the options of a request: what a text needs to become a prediction.

    Raises Problem, when created, for options that the service or the model does not allow.
    """

    def __init__(self, served: ServedModel, options: PredictOptions, limits: RequestLimits) -> None:
        _check_options(options, limits)
        if options.attention and not served.predictor.has_attention:
            raise invalid(f"The model {served.name} has no attention to show. Leave attention out.")
        self.options, self._limits = options, limits
        try:
            prefix_ids = served.predictor.prefix_ids(options.prefix)
        except UserError as error:
            raise invalid(str(error)) from None
        self.call = PredictCall(served, options.search(), tuple(prefix_ids), options.attention)

    def encode(self, texts: Sequence[str], features: Sequence[Features] | None, first: int = 0) -> list[EncodedText]:
        """Return texts as the model reads them; those that are empty are left out: their output is empty, too.

        ``first`` is the number of the first text. Raises Problem for a text that the model cannot read.
        """
        predictor = self.call.served.predictor
        pairs: Sequence[Any] = texts if features is None else list(zip(texts, features, strict=True))
        numbers = [number for number, text in enumerate(texts) if text or (features is not None and features[number])]
        chosen = [pairs[number] for number in numbers]
        try:
            encoded = predictor.encode(chosen, [first + number for number in numbers], self.options.max_length)
        except UserError as error:
            raise invalid(str(error)) from None
        for text in encoded:
            self._check(text)
        for limit, maximum, sizes, what in self._sizes(encoded):
            if sum(sizes) > maximum:
                detail = f"The outputs may have {sum(sizes):,} {what}, and {maximum:,} are allowed."
                raise over_limit(limit, maximum, f"{detail} Send fewer texts, or a stream.")
        return encoded

    def _sizes(self, encoded: Sequence[EncodedText]) -> Iterator[tuple[str, int, list[int], str]]:
        """Yield the limits of an answer: their names and maxima, what each text may take of them, and its unit."""
        outputs, limits = self.call.outputs, self._limits
        tokens = [outputs * (text.bound + 1) for text in encoded]
        yield "max-output-tokens", limits.max_output_tokens, tokens, "tokens"
        if self.options.attention:
            weights = [outputs * weights_of(text) for text in encoded]
            yield "max-weights", limits.max_weights, weights, "attention weights"

    def share(self, text: EncodedText) -> float:
        """Return the part of the largest allowed answer that a text's outputs may have."""
        return max(sizes[0] / maximum for _, maximum, sizes, _ in self._sizes([text]))

    def _check(self, text: EncodedText) -> None:
        """Reject a text with too many tokens, or with a bound that the prefix exceeds."""
        where, maximum = f"text {text.row + 1}", self._limits.max_tokens
        if len(text.tokens) > maximum:
            detail = f"{where} has {len(text.tokens):,} tokens, and at most {maximum:,} are allowed. Split it."
            raise over_limit("max-tokens", maximum, detail)
        cost = cost_of(text, self.call.search.width)
        if cost > self._limits.max_cost:
            detail = f"{where} may take {cost:,} steps, and at most {self._limits.max_cost:,} are allowed."
            fix = "Use a smaller beam_size or max_length, or split it."
            raise over_limit("max-cost", self._limits.max_cost, f"{detail} {fix}", 422)
        if text.bound < len(self.call.prefix_ids):
            prefix = len(self.call.prefix_ids)
            raise invalid(f"{where}: its outputs may have {text.bound} tokens, and the prefix has {prefix} already.")

    def empty(self) -> Prediction:
        """Return the prediction for an empty text."""
        return empty_prediction(self.call.served.has_features)


async def predict(state: ServiceState, name: str, scope: Scope, receive: Receive) -> bytes:
    """Answer a request for predictions."""
    check_json_type(scope)
    served = state.model(name)
    state.runner.check_room()
    body = await state.body(scope, receive)
    request, predicting, encoded = await state.parsed(scope, len(body), _prepared, served, body, state.limits)
    results = await state.results(predict_job(predicting.call, encoded), scope) if encoded else []
    by_row = {text.row: result for text, result in zip(encoded, results, strict=True)}
    empty = predicting.empty()
    predictions = [by_row.get(row, empty) for row in range(len(request.texts))]
    return await state.written(scope, sum(map(json_size, results)), _predictions_as_json, name, predictions, request)


def _prepared(
    served: ServedModel, body: bytes, limits: RequestLimits
) -> tuple[PredictBody, Predicting, list[EncodedText]]:
    request = validated(PredictBody, parsed_json(body))
    predicting = Predicting(served, request, limits)
    check_texts(request.texts, request.features, limits)
    encoded = predicting.encode(request.texts, features_for(served, request.texts, request.features))
    return request, predicting, encoded


def _predictions_as_json(name: str, predictions: Sequence[Prediction], options: PredictOptions) -> bytes:
    listed = [prediction_json(prediction, options) for prediction in predictions]
    return to_json({"model": name, "predictions": listed})


def json_size(prediction: Prediction) -> int:
    """Return about the bytes of a prediction as JSON, without its texts."""
    tokens = sum(len(hypothesis.token_scores) for hypothesis in prediction.hypotheses)
    matrices = prediction.attention.weights if prediction.attention else ()
    weights = sum(len(row) for matrix in matrices for row in matrix)
    return _BYTES_PER_TOKEN * tokens + _BYTES_PER_WEIGHT * weights


def prediction_json(prediction: Prediction, options: PredictOptions) -> dict[str, Any]:
    """Return the object that ``freerun predict --json`` prints, without or with what the options ask for."""
    values = prediction.as_json()
    if not options.token_scores:
        for hypothesis in values["hypotheses"]:
            del hypothesis["token_scores"]
    if prediction.unknown:
        values["unknown"] = prediction.unknown
    if prediction.unknown_features:
        values["unknown_features"] = prediction.unknown_features
    return values


def _check_options(options: PredictOptions, limits: RequestLimits) -> None:
    """Reject options beyond the service's limits."""
    for name, limit, maximum in (
        ("beam_size", "max-beam-size", limits.max_beam_size),
        ("num_hypotheses", "max-beam-size", limits.max_beam_size),
        ("max_length", "max-length", limits.max_length),
    ):
        value = getattr(options, name)
        if value is not None and value > maximum:
            raise over_limit(limit, maximum, f"{name} is {value:,}, and at most {maximum:,} is allowed.", 422)
    check_characters("prefix", options.prefix, limits)


def check_texts(texts: Sequence[str], features: Sequence[Features] | None, limits: RequestLimits) -> None:
    """Reject too many texts, or one that is too long."""
    if len(texts) > limits.max_texts:
        detail = f"A request may have {limits.max_texts:,} texts, and this one has {len(texts):,}."
        raise over_limit("max-texts", limits.max_texts, f"{detail} Send several, or a stream.")
    for number, text in enumerate(texts, 1):
        check_characters(f"text {number}", text, limits)
    for number, each in enumerate(features or (), 1):
        check_characters(f"features of text {number}", each, limits)


def check_characters(where: str, text: Features, limits: RequestLimits) -> None:
    """Reject a text that is too long."""
    length = len(text) if isinstance(text, str) else sum(map(len, text))
    if length > limits.max_characters:
        detail = f"{where} has {length:,} characters, and at most {limits.max_characters:,} are allowed."
        raise over_limit("max-characters", limits.max_characters, detail)


def features_for(
    served: ServedModel, texts: Sequence[str], features: Sequence[Features] | None
) -> Sequence[Features] | None:
    """Return the features of each text, or None; raises Problem if there are any that the model cannot read."""
    if features is None and served.has_features:
        raise invalid(
            f'The model {served.name} needs features for each text: "features": ["...", ...]. "" stands for none.'
        )
    if features is not None and not served.has_features:
        raise invalid(f"The model {served.name} was trained without features. Leave features out.")
    if features is not None and len(features) != len(texts):
        raise invalid(f"There are {len(texts)} texts and features for {len(features)}. Give one entry for each text.")
    return features


async def score(state: ServiceState, name: str, scope: Scope, receive: Receive) -> bytes:
    """Answer a request for scores."""
    check_json_type(scope)
    served = state.model(name)
    state.runner.check_room()
    body = await state.body(scope, receive)
    encoded = await state.parsed(scope, len(body), _prepared_pairs, served, body, state.limits)
    results = await state.results(score_job(ScoreCall(served), encoded), scope)
    size = _BYTES_PER_TOKEN * sum(len(scored.token_scores) for scored in results)
    return await state.written(scope, size, _scores_as_json, name, results)


def _scores_as_json(name: str, results: Sequence[Scored]) -> bytes:
    return to_json({"model": name, "scores": list(map(_scored_json, results))})


def _prepared_pairs(served: ServedModel, body: bytes, limits: RequestLimits) -> list[EncodedPair]:
    pairs = validated(ScoreBody, parsed_json(body)).pairs
    if len(pairs) > limits.max_texts:
        detail = f"A request may have {limits.max_texts:,} pairs, and this one has {len(pairs):,}. Send several."
        raise over_limit("max-texts", limits.max_texts, detail)
    for number, pair in enumerate(pairs, 1):
        _check_pair(number, pair, served, limits)
    try:
        encoded = served.predictor.encode_pairs(pairs)
    except UserError as error:
        raise invalid(str(error)) from None
    for each in encoded:
        for side, ids in (("source", each.source_ids), ("target", each.target_ids)):
            if len(ids) - 1 > limits.max_tokens:
                detail = f"{side} of pair {each.number + 1} has {len(ids) - 1:,} tokens."
                allowed = f"At most {limits.max_tokens:,} are allowed."
                raise over_limit("max-tokens", limits.max_tokens, f"{detail} {allowed}")
    return encoded


def _check_pair(number: int, pair: PairToScore, served: ServedModel, limits: RequestLimits) -> None:
    check_characters(f"source of pair {number}", pair.source, limits)
    check_characters(f"target of pair {number}", pair.target, limits)
    check_characters(f"features of pair {number}", pair.features or "", limits)
    if pair.features is not None and not served.has_features:
        raise invalid(f"The model {served.name} was trained without features. Leave features out of pair {number}.")


def _scored_json(scored: Scored) -> dict[str, Any]:
    values = scored.as_json()
    return {**values, "unknown": scored.unknown} if scored.unknown else values
