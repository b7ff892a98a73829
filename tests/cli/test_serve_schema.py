"""The service answers as its own description says, whatever schemathesis thinks of."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from freerun.server.openapi import openapi
from freerun.server.serve_settings import DEFAULT_LIMITS

CHECKS = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
NAMES = st.sampled_from(["words", "summary", "none"])
OPERATIONS = [
    (method.upper(), path) for path, methods in openapi(DEFAULT_LIMITS)["paths"].items() for method in methods
]


def conforms(service, method, path, examples):
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operation = schema[path][method]

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(), name=NAMES)
    def check(case, name):
        if "{name}" in path:
            case.path_parameters = {"name": name}
        response = case.call()
        assert response.status_code < 500 or response.status_code == 503, response.text
        case.validate_response(response, checks=CHECKS)

    check()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_conform_to_the_description(service, method, path):
    conforms(service, method, path, 60 if method == "POST" else 5)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_many_answers_conform_to_the_description(service, method, path):
    conforms(service, method, path, 3000 if method == "POST" else 50)
