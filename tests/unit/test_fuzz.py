"""Some hundreds of damaged bundles and texts; ``make fuzz`` tries many more."""

from __future__ import annotations

import pytest

from tests.fuzz.bundles import Bundles
from tests.fuzz.texts import Texts


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return Bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return Texts(tmp_path_factory.mktemp("texts"))


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
