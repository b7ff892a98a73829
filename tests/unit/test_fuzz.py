"""Some hundreds of damaged bundles, texts, arguments, configurations and requests; ``make fuzz`` tries many more."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.arguments import Arguments
from tests.fuzz.bundles import Bundles
from tests.fuzz.commands import Result, check
from tests.fuzz.configurations import Configurations
from tests.fuzz.requests import Requests
from tests.fuzz.texts import Texts


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return Bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return Texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return Arguments(tmp_path_factory.mktemp("arguments"))


@pytest.fixture(scope="module")
def configurations(tmp_path_factory):
    return Configurations(tmp_path_factory.mktemp("configurations"))


def outcomes(fuzzer, numbers):
    found = set()
    for number in numbers:
        try:
            found.add(fuzzer(number))
        except Exception as error:
            raise AssertionError(f"case {number} of {fuzzer.name}") from error
    return found


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_a_damaged_bundle_gives_a_result_or_a_bundle_error(bundles, first):
    assert outcomes(bundles, range(first, first + 100)) >= {"used", "rejected"}


def test_damaged_files_and_odd_texts_give_a_result_or_a_data_error(texts):
    assert outcomes(texts, range(500)) == {"read pairs", "read texts", "predicted", "rejected"}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 11_000, 1000))
def test_many_damaged_bundles(bundles, first):
    assert outcomes(bundles, range(first, first + 1000)) >= {"used", "rejected"}


@pytest.mark.slow
def test_many_damaged_texts(texts):
    assert outcomes(texts, range(1000, 11_000)) == {"read pairs", "read texts", "predicted", "rejected"}


@pytest.mark.slow
def test_odd_arguments_are_carried_out_or_rejected(arguments):
    assert outcomes(arguments, range(200)) == {"done", "rejected"}


def test_every_command_and_option_is_tried(arguments):
    paths = {path: {o for p in parameters for o in p.opts} for path, parameters in arguments._commands.items()}
    assert paths.keys() >= {("train",), ("predict",), ("export",), ("study",), ("data", "make"), ()}
    assert paths[("train",)] >= {"--set", "--seed", "--trust-code", "--resume"}
    draw = random.Random(1)
    tried = {part for _ in range(300) for part in arguments.arguments(draw, ("predict",))}
    assert {option for option in paths[("predict",)] if option.startswith("-")} <= tried


@pytest.mark.slow
def test_odd_configurations_are_trained_on_or_rejected(configurations):
    assert outcomes(configurations, range(150)) >= {"done", "rejected"}


@pytest.mark.parametrize(
    "result",
    [
        Result(1, "", "error: a: b. Expected c. d.\n"),
        Result(2, "", ""),
        Result(2, "", "error: a: b.\n"),
        Result(2, "", "error: a. Expected b. c.\n"),
        Result(2, "", "error: a: b. Expected c. d\n"),
        Result(2, "", "error: a: " + "b" * 3000 + ". Expected c. d.\n"),
        Result(0, "", "Traceback (most recent call last):\n"),
    ],
)
def test_whatever_does_not_help_is_a_finding(result):
    check([], Result(2, "", "error: a: b. Expected c. d.\n"))
    with pytest.raises(AssertionError):
        check([], result)


def test_what_a_command_changes_elsewhere_is_a_finding(arguments, monkeypatch):
    def meddle(_):
        (arguments._workplace.folder / "home" / "letter").touch()
        return 0

    monkeypatch.setattr("tests.fuzz.commands.main", meddle)
    with pytest.raises(AssertionError, match="changed what is outside of its directory"):
        arguments(1)
    (arguments._workplace.folder / "home" / "letter").unlink()


@pytest.mark.slow
def test_many_odd_arguments(arguments):
    assert outcomes(arguments, range(1000, 4000)) == {"done", "rejected"}


@pytest.mark.slow
def test_many_odd_configurations(configurations):
    assert outcomes(configurations, range(1000, 4000)) >= {"done", "rejected"}


@pytest.fixture(scope="module")
def damaged_requests(tmp_path_factory):
    return Requests(tmp_path_factory.mktemp("requests"))


def test_a_damaged_request_is_answered_or_its_connection_closed(damaged_requests):
    assert outcomes(damaged_requests, range(1000)) >= {"answered", "closed"}
    damaged_requests.check()


@pytest.mark.slow
def test_many_damaged_requests(damaged_requests):
    assert outcomes(damaged_requests, range(1000, 20_000)) >= {"answered", "closed"}
    damaged_requests.check()
