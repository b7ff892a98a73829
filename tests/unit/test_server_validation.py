"""Requests as objects of their types: mistakes are named, and found without looking at all of them."""

from __future__ import annotations

import time

import pytest

from freerun.server.api_types import (
    DetectBody,
    PredictBody,
    PredictOptions,
    Sample,
    ScoreBody,
    StreamLine,
    TranslateBody,
)
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
        (PredictBody, [], "body: expected an object."),
        (PredictBody, {}, "texts: it is missing."),
        (PredictBody, {"texts": "a"}, "texts: expected an array."),
        (PredictBody, {"texts": []}, "texts: expected at least 1 item."),
        (PredictBody, {"texts": [1]}, "texts/0: expected a string."),
        (PredictBody, {"texts": ["a"], "features": [1]}, "features/0: expected a string or an array."),
        (PredictBody, {"texts": ["a"], "features": [["a", 1]]}, "features/0/1: expected a string."),
        (PredictBody, {"texts": ["a"], "beam_size": "2"}, "beam_size: expected an integer."),
        (PredictBody, {"texts": ["a"], "beam_size": 0}, "beam_size: expected at least 1."),
        (PredictBody, {"texts": ["a"], "length_penalty": 11}, "length_penalty: expected at most 10."),
        (PredictBody, {"texts": ["a"], "length_penalty": None}, "length_penalty: expected a number."),
        (PredictBody, {"texts": ["a"], "attention": 1}, "attention: expected true or false."),
        (PredictBody, {"texts": ["a"], "sample": 1}, "sample: expected an object."),
        (PredictBody, {"texts": ["a"], "sample": {"top_p": 0}}, "sample/top_p: expected more than 0."),
        (ScoreBody, {"pairs": [{"source": "a", "target": "b"}, 1]}, "pairs/1: expected an object."),
        (TranslateBody, {"q": 1, "source": "a", "target": "b"}, "q: expected a string or an array."),
        (TranslateBody, {"q": [1], "source": "a", "target": "b"}, "q/0: expected a string."),
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
    assert [each["pointer"] for each in errors] == [pointer]
    assert "there is no such key" in detail


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ({"text": ["a"]}, "text: there is no such key. Did you mean texts?"),
        ({"texts": ["a"], "beam": 3}, "beam: there is no such key. Did you mean beam_size?"),
        (
            {"texts": ["a"], "sample": {"zzz": 1}},
            "there is no such key. Expected one of temperature, top_k, top_p, seed.",
        ),
        ({"te\nxts": 1}, '"te\\nxts": there is no such key. Did you mean texts?'),
    ],
)
def test_a_misspelled_key_is_corrected_before_anything_is_missing(value, detail):
    assert problem(PredictBody, value)[0].endswith(detail)


def test_all_mistakes_are_listed():
    _, errors = problem(PredictBody, {"texts": ["a"], "beam_size": 0, "prefix": 1})
    assert errors == [
        {"pointer": "/beam_size", "detail": "expected at least 1"},
        {"pointer": "/prefix", "detail": "expected a string"},
    ]


def test_words_are_ours_for_every_mistake_that_the_types_allow():
    """pydantic's own words are Python's: a type of mistake that is not in the list would show them."""
    odd = [None, True, 1, -1, 0, 1.5, 1e300, 10**30, "", "a", "nan", [], [1], [[]], {}, {"a": 1}]
    for kind in (PredictBody, ScoreBody, TranslateBody, DetectBody, StreamLine, Sample):
        valid = {"texts": ["a"], "pairs": [{"source": "a", "target": "b"}], "q": "a", "source": "a", "target": "b"}
        complete = {name: valid[name] for name in kind.model_fields if name in valid}
        for name in kind.model_fields:
            for check in (validated, validated_fields):
                for value in odd:
                    try:
                        check(kind, {**complete, name: value})
                    except Problem as error:
                        for each in error.members["errors"]:
                            assert each["detail"].startswith(("expected ", "it is missing", "there is no such key"))


def test_clients_of_libretranslate_may_send_more_keys_and_no_format():
    request = {"q": "a", "source": "x", "target": "y", "more": 1}
    for given in ("text", "", None):
        assert validated(TranslateBody, {**request, "format": given}).format == "text"
    expected = 'format: expected "text": a model would translate markup as well.'
    assert problem(TranslateBody, {**request, "format": "html"})[0] == expected


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
    assert len(errors) == 1
    assert time.process_time() - began < 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"NaN", b'"\\ud800"', b"[" * 10**6, b'{"a":' * 10**5])
def test_what_is_not_json_is_rejected(content):
    with pytest.raises(Problem, match="The line is not JSON") as caught:
        parsed_json(content, "line")
    assert caught.value.status == 400
