"""Edit distance, symbol error rate and sequence accuracy, computed by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from freerun.metrics.accuracy import edit_distances, exact_matches, ratio, sequence_accuracy, symbol_error_rate
from freerun.metrics.edit_distance import closest_reference, edit_distance

HYPOTHESES = [["k", "ae", "t"], [], ["d", "ao"], ["a", "b"]]
REFERENCES = [[["k", "ae", "t"], ["k"]], [["x", "y"], ["x"]], [["d", "ao", "g"]], [["b", "a"]]]


def test_tokens_are_compared_whole():
    assert edit_distance(["ae", "t"], ["a", "e", "t"]) == 2
    assert edit_distance("kitten", "sitting") == 3


def test_the_closest_reference_has_the_smallest_distance():
    assert closest_reference("ab", ["xyz", "abc", "zz"]) == (1, 3)


@pytest.mark.parametrize("references", [["ab", "abcd"], ["abcd", "ab"]])
def test_of_equally_close_references_the_longest_counts(references):
    assert closest_reference("abc", references) == (1, 4)


def test_without_references_there_is_no_closest():
    with pytest.raises(ValueError, match="no reference"):
        closest_reference("abc", [])


def test_distances_and_lengths_of_each_source():
    distances, lengths = edit_distances(HYPOTHESES, REFERENCES)
    assert distances.tolist() == [0, 1, 1, 2]
    assert lengths.tolist() == [3, 1, 3, 2]


def test_the_symbol_error_rate_divides_sums():
    assert symbol_error_rate(edit_distances(HYPOTHESES, REFERENCES)) == pytest.approx(4 / 9)


def test_the_symbol_error_rate_of_empty_references_is_undefined():
    assert math.isnan(symbol_error_rate(edit_distances([["a"]], [[[]]])))


def test_any_reference_makes_an_exact_match():
    matches = exact_matches([*HYPOTHESES, ["k"]], [*REFERENCES, REFERENCES[0]])
    assert matches.tolist() == [True, False, False, False, True]
    assert sequence_accuracy(matches) == pytest.approx(2 / 5)


def test_a_tuple_matches_a_list_of_the_same_tokens():
    assert exact_matches([("a", "b")], [[["a", "b"]]]).tolist() == [True]


def test_as_many_outputs_as_sources():
    with pytest.raises(ValueError, match="zip"):
        edit_distances(HYPOTHESES[:3], REFERENCES)
    with pytest.raises(ValueError, match="zip"):
        exact_matches(HYPOTHESES[:3], REFERENCES)


def test_a_ratio_of_sums():
    assert ratio(np.array([1, 2]), np.array([1, 3])) == 0.75
    assert math.isnan(ratio(np.array([]), np.array([])))
    assert math.isnan(sequence_accuracy(np.array([], bool)))


@pytest.mark.parametrize(("package", "module"), [("rapidfuzz", "edit_distance"), ("sacrebleu", "bleu")])
def test_a_missing_package_is_answered_with_the_line_that_installs_it(package, module):
    program = f"import sys; sys.modules[{package!r}] = None; import freerun.metrics.{module}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"MissingExtraError: {package}: this package is not installed" in result.stderr
    assert "pip install 'freerun[train]'" in result.stderr
