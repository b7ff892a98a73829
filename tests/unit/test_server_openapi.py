"""The description of the API: it is complete, and it describes what is there."""

from __future__ import annotations

import asyncio
import html
import json
import re

import jsonschema_rs
import pytest
from starlette.routing import Route

from freerun.server import api_types
from freerun.server.connection import ConnectionRules
from freerun.server.counts import CountTable
from freerun.server.openapi import _OPERATIONS, docs_page, openapi, openapi_document
from freerun.server.serve_settings import DEFAULT_LIMITS, RequestLimits, ServeSettings
from freerun.server.service import Service
from freerun.server.service_state import ServiceState
from freerun.server.stream_route import _TYPES

DOCUMENT = openapi(DEFAULT_LIMITS)
SCHEMAS = DOCUMENT["components"]["schemas"]


def parts(value, path=""):
    """Every object in JSON, with its path."""
    if isinstance(value, dict):
        yield path, value
        for key, each in value.items():
            yield from parts(each, f"{path}/{key}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from parts(each, f"{path}/{number}")


async def routes():
    """The routes of the application."""
    table = CountTable(1, [])
    state = ServiceState(
        settings=ServeSettings(models={}),
        models={},
        keys=None,
        runner=None,
        counts=table.row(0),
        table=table,
        log=None,
        rules=ConnectionRules(read_timeout=1.0, keep_alive=1.0, maximum=1, counts=table.row(0)),
    )
    return Service(state)._routes()


def test_every_reference_leads_to_a_schema():
    references = [value["$ref"] for _, value in parts(DOCUMENT) if "$ref" in value]
    assert len(references) > 30
    assert {each.removeprefix("#/components/schemas/") for each in references} <= SCHEMAS.keys()


def test_every_schema_is_valid_and_used():
    for name, schema in SCHEMAS.items():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        is_used = f'"#/components/schemas/{name}"' in json.dumps(DOCUMENT)
        assert is_used or name in ("PredictOptions", "StreamLine")


def test_it_has_what_openapi_3_1_asks_for():
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    operations = [each for path in DOCUMENT["paths"].values() for each in path.values()]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    for path, operations_of_path in DOCUMENT["paths"].items():
        for operation in operations_of_path.values():
            given = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert given == set(re.findall(r"{(\w+)}", path))
            assert all("description" in response for response in operation["responses"].values())


def test_every_route_is_described_and_every_description_has_a_route():
    there = {
        (method.lower(), route.path)
        for route in asyncio.run(routes())
        if isinstance(route, Route)
        for method in route.methods - {"HEAD"}
    }
    described = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    documents = {("get", path) for _, path in there if path in ("/", "/docs", "/openapi.json") or "/page/" in path}
    assert there - documents == described


def test_every_key_of_a_request_is_documented():
    requests = {each.request for each in _OPERATIONS if each.request} | {api_types.StreamLine, api_types.PredictOptions}
    for kind in requests:
        assert SCHEMAS[kind.__name__]["properties"].keys() == kind.model_fields.keys()
    for name in ("PredictOptions", "Sample", "TranslateBody"):
        for key, schema in SCHEMAS[name]["properties"].items():
            assert schema.get("description") or "anyOf" in schema, (name, key)


def test_limits_are_those_of_the_service():
    schemas = openapi(RequestLimits(max_texts=7, max_beam_size=5, max_length=11))["components"]["schemas"]
    assert schemas["PredictBody"]["properties"]["texts"]["maxItems"] == 7
    assert schemas["ScoreBody"]["properties"]["pairs"]["maxItems"] == 7
    assert schemas["PredictBody"]["properties"]["beam_size"]["maximum"] == 5
    assert schemas["PredictBody"]["properties"]["max_length"]["anyOf"][0]["maximum"] == 11
    assert schemas["TranslateBody"]["properties"]["alternatives"]["maximum"] == 4


def test_errors_are_in_order_and_those_of_pages_are_of_posts_only():
    for methods in DOCUMENT["paths"].values():
        for method, operation in methods.items():
            statuses = list(operation["responses"])
            assert statuses == sorted(statuses)
            assert ("403" in statuses) == (method == "post")


def test_options_in_a_query_have_their_types_bounds_and_defaults():
    limits = RequestLimits(max_beam_size=5, max_length=11)
    operation = openapi(limits)["paths"]["/v1/models/{name}/predict"]["post"]
    schemas = {each["name"]: each["schema"] for each in operation["parameters"] if each["in"] == "query"}
    options = api_types.PredictOptions.model_fields.keys() - {"sample"}
    assert schemas.keys() == options | {f"sample.{name}" for name in api_types.Sample.model_fields}
    assert schemas["beam_size"] == {"type": "integer", "minimum": 1, "maximum": 5, "default": 1}
    assert schemas["max_length"] == {"type": "integer", "minimum": 0, "maximum": 11}
    assert schemas["prefix"] == {"type": "string", "default": ""}
    assert schemas["sample.top_p"] == {"type": "number", "exclusiveMinimum": 0, "maximum": 1}


def test_the_document_is_json():
    document = openapi_document(DEFAULT_LIMITS)
    assert json.loads(document.content) == json.loads(json.dumps(DOCUMENT))


@pytest.fixture(scope="module")
def page():
    return docs_page(DEFAULT_LIMITS).content.decode()


def test_the_page_has_every_address_type_and_status(page):
    for path in DOCUMENT["paths"]:
        assert path in page
    for name in SCHEMAS:
        assert name in page
    for status in (400, 401, 403, 404, 405, 408, 413, 415, 421, 422, 431, 500, 503):
        assert f'id="status-{status}"' in page


def test_links_within_the_page_lead_somewhere(page):
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert len(links) > 40
    assert links <= set(re.findall(r'id="([^"]+)"', page))


def test_the_page_has_types_in_words(page):
    text = " ".join(re.sub("<[^>]*>", "", page).split())
    assert "application/jsonl: string or StreamLine (For streams: one line.) text/plain: string" in text
    assert "features list of (string or list of string), or null" in text
    assert "features string or list of string, or null" in text
    assert "max_length integer or null, at least 0, at most 2,000" in text
    assert "texts required list of string, length at least 1, length at most 1,000" in text
    assert "sample.temperature number, at least 0, at most 1,000, default 1.0 For streams. Below 1 sharpens" in text
    assert '"compiled" or "onnxruntime" or "torch"' in html.unescape(text)


def test_the_page_has_no_script_and_loads_nothing_from_elsewhere(page):
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "style=" not in page


def test_keys_that_are_mistakes_are_described_as_such():
    schemas = DOCUMENT["components"]["schemas"]
    strict = {name for name, schema in schemas.items() if schema.get("additionalProperties") is False}
    assert strict == {"PairToScore", "PredictBody", "PredictOptions", "Sample", "ScoreBody", "StreamLine"}
    assert all(schemas[name]["additionalProperties"] for name in ("TranslateBody", "DetectBody"))


def test_every_type_that_a_stream_may_have_is_described():
    content = DOCUMENT["paths"]["/v1/models/{name}/predict"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", *_TYPES}
