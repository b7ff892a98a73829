"""LibreTranslate's interface, so that its clients can use a model.

Source: the API of LibreTranslate 1.6 as its documentation describes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.types import Receive, Scope

from freerun.runtime.prediction import Prediction
from freerun.server.asked import DetectBody, PredictOptions, TranslateBody
from freerun.server.model_calls import predict_job
from freerun.server.prediction_routes import Predicting, check_texts
from freerun.server.problem import Problem
from freerun.server.served_models import ServedModel
from freerun.server.service_state import ServiceState, content_type_of, explained, validated

__all__ = ["detect", "frontend_settings", "languages", "translate"]

_AUTO = "auto"
_FORM = "application/x-www-form-urlencoded"


async def translate(state: ServiceState, scope: Scope, receive: Receive) -> bytes:
    """POST /translate: predict each line of each text, with the model for a pair of languages."""
    state.runner.check_room()
    asked = await _asked(state, scope, receive, TranslateBody, lists=("q",))
    state.check_key(scope, asked.api_key)
    texts = [asked.q] if isinstance(asked.q, str) else asked.q
    found = [_detected(state, text, asked.target) for text in texts] if asked.source == _AUTO else []
    if found and not found[0]:
        raise _unsupported(_AUTO, asked.target)
    sources = [each[0]["language"] for each in found] or [asked.source] * len(texts)
    served = [_model_for(state, source, asked.target) for source in sources]
    options = PredictOptions(num_hypotheses=1 + asked.alternatives)
    outputs: list[list[str]] = [[] for _ in texts]
    for model in dict.fromkeys(served):
        numbers = [number for number, each in enumerate(served) if each is model]
        predicting = Predicting(model, options, state.limits)
        found_outputs = await _outputs(state, scope, receive, predicting, [texts[number] for number in numbers])
        for number, each in zip(numbers, found_outputs, strict=True):
            outputs[number] = each
    answer: dict[str, Any] = {"translatedText": [each[0] for each in outputs]}
    if asked.alternatives:
        answer["alternatives"] = [each[1:] for each in outputs]
    if found:
        answer["detectedLanguage"] = [each[0] for each in found]
    if isinstance(asked.q, str):
        answer = {name: values[0] for name, values in answer.items()}
    return to_json(answer)


async def _outputs(
    state: ServiceState, scope: Scope, receive: Receive, predicting: Predicting, texts: Sequence[str]
) -> list[list[str]]:
    """Return the best output for each text and its alternatives; each line of a text is an input of the model."""
    lines = [text.replace("\r\n", "\n").split("\n") for text in texts]
    flat = list(chain.from_iterable(lines))
    check_texts(flat, None, state.limits)
    features = [""] * len(flat) if predicting.call.served.has_features else None
    encoded = predicting.encode(flat, features)
    results = await state.results(predict_job(predicting.call, encoded), scope, receive) if encoded else []
    found = {item.row: result for item, result in zip(encoded, results, strict=True)}
    predictions = (found.get(row, predicting.empty()) for row in range(len(flat)))
    return [_joined(list(islice(predictions, len(each)))) for each in lines]


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
    asked = await _asked(state, scope, receive, DetectBody, lists=("q",))
    state.check_key(scope, asked.api_key)
    texts = [asked.q] if isinstance(asked.q, str) else asked.q
    check_texts(texts, None, state.limits)
    return to_json([each for text in texts for each in _detected(state, text)])


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
    if content_type_of(scope) == _FORM:  # libretranslatepy sends the key in a body
        key = dict(_fields(await state.body(scope, receive))).get("api_key")
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


async def _asked(state: ServiceState, scope: Scope, receive: Receive, kind: type[Any], lists: Sequence[str]) -> Any:
    """Return the request of a JSON or a form body; fields in ``lists`` may occur several times in a form."""
    body = await state.body(scope, receive)
    if content_type_of(scope) == "application/json":
        return validated(kind, body)
    if content_type_of(scope) != _FORM:
        raise Problem(415, f"The body has to be JSON or a form: Content-Type: application/json, or {_FORM}")
    values: dict[str, Any] = {}
    for name, value in _fields(body):
        if name in lists and name in values:
            values[name] = [*([values[name]] if isinstance(values[name], str) else values[name]), value]
        else:
            values[name] = value
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise explained(error) from None


def _fields(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=10_000)
    except (UnicodeDecodeError, ValueError):
        raise Problem(400, "The form cannot be read: it has to be UTF-8, and have 10,000 fields at most.") from None
