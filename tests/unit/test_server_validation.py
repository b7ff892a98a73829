"""Requests as objects of their types: mistakes are named, and found without looking at all of them."""

from __future__ import annotations

import time

import pytest

from freerun.server.api_types import PredictBody, PredictOptions, ScoreBody, TranslateBody
from freerun.server.problem import Problem
from freerun.server.validation import parsed_json, validated, validated_fields


def problem(kind, value, check=validated):
    with pytest.raises(Problem) as caught:
        check(kind, value)
    assert caught.value.status == 422
    return caught.value.detail, caught.value.members["errors"]


@pytest.mark.parametrize(
    ("kind", "value", "detail"),
    [
        (PredictBody, [], "body: Input should be an object."),
        (PredictBody, {}, "texts: Field required."),
        (PredictBody, {"texts": "a"}, "texts: Input should be a valid array."),
        (PredictBody, {"texts": [1]}, "texts/0: Input should be a valid string."),
        (PredictBody, {"texts": ["a"], "beam_size": "2"}, "beam_size: Input should be a valid integer."),
        (PredictBody, {"texts": ["a"], "sample": 1}, "sample: Input should be an object."),
        (ScoreBody, {"pairs": [{"source": "a", "target": "b"}, 1]}, "pairs/1: Input should be an object."),
    ],
)
def test_a_mistake_is_named_in_the_words_of_json(kind, value, detail):
    assert problem(kind, value)[0] == detail


@pytest.mark.parametrize(
    ("kind", "value", "pointer"),
    [
        (PredictBody, {"texts": ["a"], "beam": 3}, "/beam"),
        (PredictBody, {"texts": ["a"], "sample": {"seeds": 1}}, "/sample/seeds"),
        (ScoreBody, {"pairs": [{"source": "a", "target": "b"}, {"source": "a", "target": "b", "x": 1}]}, "/pairs/1/x"),
    ],
)
def test_an_unknown_key_is_a_mistake_wherever_it_is(kind, value, pointer):
    detail, errors = problem(kind, value)
    assert errors[0]["pointer"] == pointer
    assert "There is no such key" in detail


def test_clients_of_libretranslate_may_send_more_keys_and_no_format():
    request = {"q": "a", "source": "x", "target": "y", "more": 1}
    for given in ("text", "", None):
        assert validated(TranslateBody, {**request, "format": given}).format == "text"
    assert "format" in problem(TranslateBody, {**request, "format": "html"})[0]


def test_fields_of_a_query_are_strings():
    options = validated_fields(PredictOptions, {"beam_size": "3", "token_scores": "false", "sample": {"seed": "4"}})
    assert (options.beam_size, options.token_scores, options.sample.seed) == (3, False, 4)
    assert problem(PredictOptions, {"beam_size": "x"}, validated_fields)[0].startswith("beam_size: ")
    assert problem(PredictOptions, {"beam": "1"}, validated_fields)[1][0]["pointer"] == "/beam"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (PredictBody, {"texts": [1] * 10**6}),
        (PredictBody, {"texts": ["a"], "features": [1] * 10**6}),
        (PredictBody, {"texts": ["a"], "features": [[1] * 10**6]}),
        (PredictBody, {"texts": ["a"], **{f"k{n}": 1 for n in range(10**5)}}),
        (ScoreBody, {"pairs": [1] * 10**6}),
        (ScoreBody, {"pairs": [{"source": "a", "target": "b", **{f"k{n}": 1 for n in range(10**5)}}]}),
        (TranslateBody, {"q": [1] * 10**6, "source": "a", "target": "b"}),
    ],
    ids=["texts", "features", "one text's features", "keys", "pairs", "keys of a pair", "q"],
)
def test_a_million_mistakes_are_one(kind, value):
    """pydantic would take seconds and gigabytes to name them all."""
    began = time.process_time()
    _, errors = problem(kind, value)
    assert len(errors) <= 2  # a text, or a list of them
    assert time.process_time() - began < 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"NaN", b'"\\ud800"', b"[" * 10**6, b'{"a":' * 10**5])
def test_what_is_not_json_is_rejected(content):
    with pytest.raises(Problem, match="The body is not JSON") as caught:
        parsed_json(content)
    assert caught.value.status == 400
