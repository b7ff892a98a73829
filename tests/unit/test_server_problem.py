"""Refusals as RFC 9457 describes them."""

from __future__ import annotations

import json

import pytest

from freerun.server.problem import Problem, invalid, over_limit, unavailable


def test_a_problem_names_itself_and_its_reason():
    assert Problem(404, "Nothing here.").as_json() == {
        "type": Problem(404, "Nothing here.").as_json()["type"],
        "title": "Not Found",
        "status": 404,
        "detail": "Nothing here.",
        "error": "Nothing here.",
    }


def test_an_answer_has_the_type_of_problems_and_the_problems_headers():
    response = Problem(401, "No.", headers={"WWW-Authenticate": "Bearer"}).response()
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == "Bearer"
    assert json.loads(response.body)["detail"] == "No."


def test_an_exceeded_limit_is_named():
    problem = over_limit("max-texts", 10, "Too many.")
    assert (problem.status, problem.as_json()["limit"], problem.as_json()["maximum"]) == (413, "max-texts", 10)
    assert over_limit("max-length", 10, "Too long.", 422).status == 422


def test_mistakes_are_listed():
    errors = [{"pointer": "/texts", "detail": "missing"}]
    assert invalid("Wrong.", errors).as_json()["errors"] == errors
    assert "errors" not in invalid("Wrong.").as_json()


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.4, "1"), (2.6, "3"), (60.0, "60")])
def test_what_may_succeed_later_says_when(seconds, header):
    problem = unavailable("Full.", seconds, limit="queue")
    assert (problem.status, problem.headers) == (503, {"Retry-After": header})
    assert problem.members == {"limit": "queue"}
