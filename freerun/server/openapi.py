"""The description of the API (OpenAPI 3.1), generated from the types that validate requests, and as a page to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json

from freerun.server import api_types
from freerun.server.documents import Document
from freerun.server.forms import FORM, MULTIPART
from freerun.server.schema_html import bounds, prose, type_name
from freerun.server.serve_settings import RequestLimits
from freerun.version import VERSION

__all__ = ["docs_page", "openapi", "openapi_document"]

_JSON, _STREAM, _LINES, _TEXT = "application/json", "application/x-ndjson", "application/jsonl", "text/plain"
_FORMS: Final = (FORM, MULTIPART)
_PROBLEM: Final = "application/problem+json"

_STATUSES: Final = {
    400: "The body cannot be read, or names something that is not served.",
    401: "The service needs a key.",
    403: "A page of another site sent the request.",
    404: "There is no such model.",
    405: "The method is not allowed at this address.",
    408: "The request did not arrive in time.",
    413: "A size limit is exceeded; `limit` names it.",
    415: "The content type of the body is not supported.",
    421: "The request was meant for another host.",
    422: "The body is well-formed, but its content is invalid.",
    431: "The headers are too large.",
    500: "The model could not process a text, or the service has an internal error; see its log.",
    503: "The queue is full, the time is up, or the service is ending: try again after `Retry-After` seconds.",
}


@dataclass(frozen=True, kw_only=True)
class _Operation:
    """One address and method: the types of its request and answer, and the statuses of errors."""

    method: str
    path: str
    summary: str
    description: str = ""
    request: type[BaseModel] | None = None
    answer: type[BaseModel] | str | None = None
    request_types: tuple[str, ...] = (_JSON,)
    errors: tuple[int, ...] = ()
    is_list: bool = False


def _read(path: str, summary: str, answer: type[BaseModel] | str, *errors: int) -> _Operation:
    """Return an operation that takes nothing but an address."""
    return _Operation(method="get", path=path, summary=summary, answer=answer, errors=errors)


_PREDICT = """\
One object for each text, in their order, as `freerun predict --json` prints it. An empty text has an empty output.

**Streams.** With `Accept: application/x-ndjson` the body may have any length. Each of its lines is a text: with
`Content-Type: application/x-ndjson` a JSON string or an object, with `text/plain` the text itself, followed by a tab
and its features if the model reads any. Options are query parameters. Each line is answered with one line, in the same
order: a prediction, or an error. Read answers while you send lines: the service reads no faster than you do."""

_ANYWHERE: Final = (421, 431)
_ASKING: Final = (400, 401, 404, 408, 413, 415, 422, 500, 503)
_TRANSLATING: Final = (400, 401, 408, 413, 415, 422, 500, 503)

_OPERATIONS: Final = (
    _Operation(
        method="post",
        path="/v1/models/{name}/predict",
        summary="Predict texts",
        description=_PREDICT,
        request=api_types.PredictBody,
        answer=api_types.PredictAnswer,
        errors=_ASKING,
    ),
    _Operation(
        method="post",
        path="/v1/models/{name}/score",
        summary="Score pairs",
        description="The log-probability of each target under the model.",
        request=api_types.ScoreBody,
        answer=api_types.ScoreAnswer,
        errors=_ASKING,
    ),
    _read("/v1/models", "List the models", api_types.ModelList, 401),
    _read("/v1/models/{name}", "Describe a model", api_types.ModelDetails, 401, 404),
    _Operation(
        method="post",
        path="/translate",
        summary="LibreTranslate: translate",
        description="Each line of `q` is one input of the model that is served for this pair of codes.",
        request=api_types.TranslateBody,
        answer=api_types.TranslateAnswer,
        request_types=(_JSON, *_FORMS),
        errors=_TRANSLATING,
    ),
    _Operation(
        method="post",
        path="/detect",
        summary="LibreTranslate: detect the language",
        description="The served source languages, best match first: most of the text's tokens are in its vocabulary.",
        request=api_types.DetectBody,
        answer=api_types.Detected,
        request_types=(_JSON, *_FORMS),
        errors=(400, 401, 408, 413, 415, 422, 503),
        is_list=True,
    ),
    _Operation(
        method="get",
        path="/languages",
        summary="LibreTranslate: list the languages",
        answer=api_types.Language,
        errors=(401,),
        is_list=True,
    ),
    _read("/frontend/settings", "LibreTranslate: get the settings of its page", api_types.FrontendSettings),
    _read("/health", "LibreTranslate: check that the service can answer", api_types.Health, 503),
    _read("/live", "Check that the process runs", _JSON),
    _read("/ready", "Check that the service can answer", _JSON, 503),
    _read("/v2/health/live", "KServe: check that the process runs", _JSON),
    _read("/v2/health/ready", "KServe: check that the service can answer", _JSON, 503),
    _read("/metrics", "Get the counts of all workers, for Prometheus", _TEXT, 401),
)


def openapi(limits: RequestLimits, needs_key: bool = False) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a service with these limits, and with keys or without."""
    kinds = {
        each for operation in _OPERATIONS for each in (operation.request, operation.answer) if isinstance(each, type)
    }
    kinds |= {api_types.ProblemDetails, api_types.StreamLine, api_types.StreamError, api_types.PredictOptions}
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, definitions = models_json_schema(
        [(kind, "validation") for kind in ordered], ref_template="#/components/schemas/{model}"
    )
    schemas = _with_limits(definitions["$defs"], limits)
    paths: dict[str, Any] = {}
    for operation in _OPERATIONS:
        described = _described(operation, needs_key)
        if operation.request is api_types.PredictBody:
            _add_stream(described, schemas)
        paths.setdefault(operation.path, {})[operation.method] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "freerun serve",
            "version": VERSION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Sequence-to-sequence models behind HTTP. " + _limits_text(limits),
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _limits_text(limits: RequestLimits) -> str:
    return (
        f"A request may have {limits.max_bytes:,} bytes and {limits.max_texts:,} texts, unless it is a stream; each "
        f"text may have {limits.max_characters:,} characters and {limits.max_tokens:,} tokens."
    )


def _with_limits(schemas: dict[str, Any], limits: RequestLimits) -> dict[str, Any]:
    """Add the limits, which are settings of the service, to the types."""
    for name in ("PredictBody", "PredictOptions"):
        properties = schemas[name]["properties"]
        properties["beam_size"]["maximum"] = limits.max_beam_size
        for option, maximum in (("num_hypotheses", limits.max_beam_size), ("max_length", limits.max_length)):
            properties[option]["anyOf"][0]["maximum"] = maximum
    schemas["PredictBody"]["properties"]["texts"]["maxItems"] = limits.max_texts
    schemas["ScoreBody"]["properties"]["pairs"]["maxItems"] = limits.max_texts
    schemas["TranslateBody"]["properties"]["alternatives"]["maximum"] = limits.max_beam_size - 1
    return schemas


def _described(operation: _Operation, needs_key: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method}{operation.path.replace('{name}', 'model').replace('/', '_')}",
        "responses": {"200": _answer(operation)},
    }
    if operation.description:
        described["description"] = operation.description
    if "{name}" in operation.path:
        described["parameters"] = [
            {
                "name": "name",
                "in": "path",
                "required": True,
                "schema": {"type": "string"},
                "description": "The name of a model.",
            }
        ]
    if operation.request is not None:
        schema = _reference(operation.request)
        content = {each: {"schema": schema} for each in operation.request_types}
        described["requestBody"] = {"required": True, "content": content}
    if 401 in operation.errors and needs_key:
        described["security"] = [{"bearer": []}, {"header": []}]
    from_pages = (403,) if operation.method == "post" else ()
    for status in sorted({*operation.errors, *_ANYWHERE, *from_pages}):
        described["responses"][str(status)] = _rejection(status)
    return described


def _add_stream(described: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    """Add the form of a request whose lines are texts and whose options are query parameters."""
    described["parameters"] += _query_parameters(schemas)
    line = [{"type": "string"}, _reference(api_types.StreamLine)]
    one_line = {"schema": {"description": "For streams: one line.", "anyOf": line}}
    described["requestBody"]["content"] |= {
        _STREAM: one_line,
        _LINES: one_line,
        _TEXT: {"schema": {"description": "For streams: lines of text.", "type": "string"}},
    }
    answers = [_reference(api_types.Predicted), _reference(api_types.StreamError)]
    described["responses"]["200"]["content"][_STREAM] = {
        "schema": {"description": "For streams: one line.", "anyOf": answers}
    }


def _query_parameters(schemas: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the options of a stream; those of sampling have a dot in their names."""
    fields = dict(schemas["PredictOptions"]["properties"])
    del fields["sample"]
    fields |= {f"sample.{name}": field for name, field in schemas["Sample"]["properties"].items()}
    return [
        {
            "name": name,
            "in": "query",
            "schema": _in_query(field),
            "description": f"For streams. {field['description']}",
        }
        for name, field in fields.items()
    ]


def _in_query(field: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a value in a query, where it can be left out, but not null."""
    [value] = [each for each in field.get("anyOf", [field]) if each != {"type": "null"}]
    schema = {**field, **value}
    return {
        key: each
        for key, each in schema.items()
        if key not in ("anyOf", "title", "description") and (key, each) != ("default", None)
    }


def _answer(operation: _Operation) -> dict[str, Any]:
    kind = operation.answer
    if not isinstance(kind, type):
        schema: dict[str, Any] = {"type": "string" if kind == _TEXT else "object"}
        return {"description": "OK", "content": {kind: {"schema": schema}}}
    schema = _reference(kind)
    if operation.is_list:
        schema = {"type": "array", "items": schema}
    return {"description": "OK", "content": {_JSON: {"schema": schema}}}


def _rejection(status: int) -> dict[str, Any]:
    rejection: dict[str, Any] = {
        "description": _STATUSES[status],
        "content": {_PROBLEM: {"schema": _reference(api_types.ProblemDetails)}},
    }
    if status == 503:
        rejection["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return rejection


def _reference(kind: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def openapi_document(limits: RequestLimits, needs_key: bool = False) -> Document:
    """Return what GET /openapi.json answers."""
    return Document.of(to_json(openapi(limits, needs_key), indent=1), _JSON)


def docs_page(limits: RequestLimits, needs_key: bool = False) -> Document:
    """Return the same as a page to read, which needs no script."""
    environment = Environment(
        loader=PackageLoader("freerun.server", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"type_name": type_name, "bounds": bounds, "prose": prose}
    page = environment.get_template("docs_page.html").render(
        api=openapi(limits, needs_key), statuses=_STATUSES, version=VERSION
    )
    return Document.of(page.encode(), "text/html; charset=utf-8")
