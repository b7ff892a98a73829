"""LibreTranslate's interface, so that its clients can use a model.

Source: the API of LibreTranslate 1.6 as its documentation describes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from pydantic_core import to_json
from starlette.types import Receive, Scope

from freerun.runtime.encoded_texts import EncodedText
from freerun.runtime.prediction import Prediction
from freerun.server.api_types import DetectBody, PredictOptions, TranslateBody
from freerun.server.forms import FORM, fields_of
from freerun.server.model_calls import predict_job
from freerun.server.prediction_routes import Predicting, check_texts, json_size
from freerun.server.problem import Problem, over_limit
from freerun.server.served_models import ServedModel
from freerun.server.service_state import ServiceState, content_type_of
from freerun.server.validation import validated

__all__ = ["detect", "frontend_settings", "languages", "translate"]

_AUTO = "auto"


@dataclass(frozen=True, slots=True)
class _Part:
    """The texts of a request that one model translates: their numbers, the lines of each, and the lines' ids."""

    numbers: list[int]
    lines: list[list[str]]
    predicting: Predicting
    encoded: list[EncodedText]


async def translate(state: ServiceState, scope: Scope, receive: Receive) -> bytes:
    """POST /translate: predict each line of each text, with the model for a pair of languages."""
    state.runner.check_room()
    body = await state.body(scope, receive)
    fields = await state.parsed(scope, len(body), fields_of, scope, body, ("q",))
    state.check_key(scope, _key_in(fields))
    detected, parts, request = await state.parsed(scope, len(body), _prepared, state, fields)
    results = [
        await state.results(predict_job(part.predicting.call, part.encoded), scope) if part.encoded else []
        for part in parts
    ]
    size = sum(map(json_size, chain.from_iterable(results)))
    return await state.written(scope, size, _as_json, request, detected, parts, results)


def _as_json(
    request: TranslateBody,
    detected: Sequence[list[dict[str, Any]]],
    parts: Sequence[_Part],
    results: Sequence[Sequence[Prediction]],
) -> bytes:
    """Return the answer, from the results for each part."""
    outputs: dict[int, list[str]] = {}
    for part, predicted in zip(parts, results, strict=True):
        by_row = {item.row: each for item, each in zip(part.encoded, predicted, strict=True)}
        predictions = (by_row.get(row, part.predicting.empty()) for row in range(sum(map(len, part.lines))))
        for number, lines in zip(part.numbers, part.lines, strict=True):
            outputs[number] = _joined(list(islice(predictions, len(lines))))
    answer: dict[str, Any] = {"translatedText": [outputs[number][0] for number in range(len(outputs))]}
    if request.alternatives:
        answer["alternatives"] = [outputs[number][1:] for number in range(len(outputs))]
    if detected:
        answer["detectedLanguage"] = [each[0] for each in detected]
    if isinstance(request.q, str):
        answer = {name: values[0] for name, values in answer.items()}
    return to_json(answer)


def _prepared(state: ServiceState, fields: Any) -> tuple[list[list[dict[str, Any]]], list[_Part], TranslateBody]:
    """Return the languages that were detected, the parts of a request, and the request."""
    request = validated(TranslateBody, fields)
    _check_alternatives(request.alternatives, state.limits.max_beam_size)
    texts = _texts_of(request.q, state)
    detected = [_detected(state, text, request.target) for text in texts] if request.source == _AUTO else []
    if detected and not detected[0]:
        raise _unsupported(_AUTO, request.target)
    sources = [each[0]["language"] for each in detected] or [request.source] * len(texts)
    served = [_model_for(state, source, request.target) for source in sources]
    options = PredictOptions(num_hypotheses=1 + request.alternatives)
    parts = []
    for model in dict.fromkeys(served):
        numbers = [number for number, each in enumerate(served) if each is model]
        lines = [_lines_of(texts[number]) for number in numbers]
        flat = list(chain.from_iterable(lines))
        predicting = Predicting(model, options, state.limits)
        encoded = predicting.encode(flat, [""] * len(flat) if model.has_features else None)
        parts.append(_Part(numbers, lines, predicting, encoded))
    return detected, parts, request


def _check_alternatives(number: int, max_beam_size: int) -> None:
    if number >= max_beam_size:
        detail = f"alternatives is {number:,}, and at most {max_beam_size - 1:,} is allowed."
        raise over_limit("max-beam-size", max_beam_size, detail, 422)


def _texts_of(q: str | list[str], state: ServiceState) -> list[str]:
    """Return the texts of a request; raises Problem for too many lines, or one that is too long."""
    texts = [q] if isinstance(q, str) else q
    check_texts(texts[: state.limits.max_texts + 1], None, state.limits)
    check_texts(list(chain.from_iterable(map(_lines_of, texts))), None, state.limits)
    return texts


def _lines_of(text: str) -> list[str]:
    return text.replace("\r\n", "\n").split("\n")


def _joined(predictions: Sequence[Prediction]) -> list[str]:
    """Return the outputs of a text's lines as texts, the best one first."""
    number = max(len(prediction.hypotheses) for prediction in predictions)
    return ["\n".join(_text(prediction, rank) for prediction in predictions) for rank in range(number)]


def _text(prediction: Prediction, rank: int) -> str:
    """Return the output of a rank; the best one for a line that has fewer."""
    hypotheses = prediction.hypotheses
    return hypotheses[rank if rank < len(hypotheses) else 0].text


def _model_for(state: ServiceState, source: str, target: str) -> ServedModel:
    for served in state.models.values():
        if served.languages == (source, target):
            return served
    raise _unsupported(source, target)


def _unsupported(source: str, target: str) -> Problem:
    return Problem(400, f"{source[:64]} to {target[:64]} is not supported. GET /languages lists what is.")


async def detect(state: ServiceState, scope: Scope, receive: Receive) -> bytes:
    """POST /detect: the source languages that are served, those first whose model knows most of a text's tokens."""
    body = await state.body(scope, receive)
    fields = await state.parsed(scope, len(body), fields_of, scope, body, ("q",))
    state.check_key(scope, _key_in(fields))
    return to_json(await state.parsed(scope, len(body), _detected_in, state, fields))


def _detected_in(state: ServiceState, fields: Any) -> list[dict[str, Any]]:
    texts = _texts_of(validated(DetectBody, fields).q, state)
    return [each for text in texts for each in _detected(state, text)]


def _detected(state: ServiceState, text: str, target: str | None = None) -> list[dict[str, Any]]:
    """Return the served source languages (of ``target``) with the percentage of a text's tokens that they know."""
    known: dict[str, float] = {}
    for served in state.models.values():
        if target is not None and served.languages[1] != target:
            continue
        codec = served.predictor.source
        lines = [codec.tokens(line) for line in text.split("\n")]
        total = sum(map(len, lines))
        unknown = sum(len(codec.unknown_among(tokens)) for tokens in lines)
        language = served.languages[0]
        known[language] = max(known.get(language, 0.0), 100.0 * (total - unknown) / total if total else 0.0)
    ordered = sorted(known.items(), key=lambda each: -each[1])
    return [{"confidence": round(confidence, 1), "language": language} for language, confidence in ordered]


async def languages(state: ServiceState, scope: Scope, receive: Receive) -> bytes:
    """GET /languages: the source languages, and what each can be translated to."""
    key = None
    if content_type_of(scope) == FORM:  # libretranslatepy sends the key in a body
        key = _key_in(fields_of(scope, await state.body(scope, receive)))
    state.check_key(scope, key)
    return to_json(_languages(state))


def _languages(state: ServiceState) -> list[dict[str, Any]]:
    targets: dict[str, list[str]] = {}
    for served in state.models.values():
        source, target = served.languages
        targets.setdefault(source, []).append(target)
    return [{"code": code, "name": code, "targets": codes} for code, codes in targets.items()]


def frontend_settings(state: ServiceState) -> bytes:
    """GET /frontend/settings: what LibreTranslate's page asks for."""
    first = _languages(state)[0]
    target = first["targets"][0]
    return to_json(
        {
            "charLimit": state.limits.max_characters,
            "frontendTimeout": 500,
            "apiKeys": state.keys is not None,
            "keyRequired": state.keys is not None,
            "suggestions": False,
            "filesTranslation": False,
            "supportedFilesFormat": [],
            "language": {"source": first, "target": {"code": target, "name": target, "targets": []}},
        }
    )


def _key_in(fields: Any) -> str | None:
    """Return the key in the fields of a body."""
    key = fields.get("api_key") if isinstance(fields, dict) else None
    return key if isinstance(key, str) else None
