"""The options of ``freerun serve``: names of models, codes of languages, and settings that do not fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from freerun.errors import ConfigError
from freerun.server.serve_settings import RequestLimits, ServeSettings, parse_languages, parse_models


@pytest.mark.parametrize(
    ("argument", "name", "path"),
    [
        ("en=runs/english", "en", "runs/english"),
        ("runs/english", "english", "runs/english"),
        ("runs/english/best", "english", "runs/english/best"),
        ("runs/my model!", "my-model-", "runs/my model!"),
        ("runs/..hidden", "hidden", "runs/..hidden"),
        ("runs/a=b", "a-b", "runs/a=b"),
        ("en=a=b", "en", "a=b"),
        ("/", "model", "/"),
        ("en-US_2.1=x", "en-US_2.1", "x"),
    ],
)
def test_a_model_has_the_name_that_is_given_or_that_of_its_directory(argument, name, path):
    assert parse_models([argument]) == {name: Path(path)}


@pytest.mark.parametrize("name", ["", "a b", "-a", ".a", "é", "a" * 65, "a\nb"])
def test_a_name_that_no_address_can_have_is_rejected(name):
    with pytest.raises(ConfigError, match="cannot be the name of a model"):
        parse_models([f"{name}=x"])


def test_two_models_of_one_name_are_rejected():
    with pytest.raises(ConfigError, match="two models have the name"):
        parse_models(["a/x", "b/x"])


MODELS = {"en": Path("a"), "ko": Path("b")}


def test_the_codes_of_a_model_are_its_name_unless_they_are_given():
    assert parse_languages(["en=en:ja"], MODELS) == {"en": ("en", "ja"), "ko": ("ko", "ko")}


@pytest.mark.parametrize("argument", ["en", "en=en", "en=:ja", "en=en:", "=en:ja", "en=e n:ja", "en=en:ja:de"])
def test_what_is_no_pair_of_codes_is_rejected(argument):
    with pytest.raises(ConfigError, match="is not a pair of codes"):
        parse_languages([argument], MODELS)


def test_codes_of_an_unknown_model_are_rejected_with_the_names_that_there_are():
    with pytest.raises(ConfigError, match=r"no model has the name .*de.* Expected one of en, ko"):
        parse_languages(["de=de:ja"], MODELS)


def test_two_models_cannot_have_the_same_pair_of_codes():
    with pytest.raises(ConfigError, match="two models translate x to y"):
        parse_languages(["en=x:y", "ko=x:y"], MODELS)


def settings(**values):
    return ServeSettings(models={}, **values)


def test_a_queue_has_room_for_one_request_at_least():
    assert settings(queue=50, limits=RequestLimits(max_texts=50)).queue == 50
    with pytest.raises(ConfigError, match=r"room for 49 texts, but a request may have 50.*Use --queue 50 or more"):
        settings(queue=49, limits=RequestLimits(max_texts=50))


@pytest.mark.parametrize("origin", ["*", "https://example.org", "http://localhost:3000"])
def test_origins_are_a_scheme_and_a_host(origin):
    assert settings(cors=(origin,)).cors == (origin,)


@pytest.mark.parametrize("origin", ["", "example.org", "https://example.org/", "ftp://a", "https://a b", "null"])
def test_what_is_no_origin_is_rejected(origin):
    with pytest.raises(ConfigError, match="is not an origin"):
        settings(cors=("https://example.org", origin))


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("example.org", False),
    ],
)
def test_which_addresses_only_this_machine_can_reach(host, local):
    assert settings(host=host).is_local is local


@pytest.mark.parametrize("name", ["example.org", "a", "my_service", "xn--e1afmkfd.example", "host-1"])
def test_the_name_of_a_host_is_accepted(name):
    assert ServeSettings(models={}, host_names=[name]).host_names == [name]


@pytest.mark.parametrize("name", ["", "https://example.org", "example.org:80", "example.org/", "a b", ".a", "-a"])
def test_what_is_no_name_of_a_host_is_rejected(name):
    with pytest.raises(ConfigError, match="is not the name of a host"):
        ServeSettings(models={}, host_names=[name])
