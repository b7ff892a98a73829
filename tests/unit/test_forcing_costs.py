"""What outputs cost, by hand; the oracle's definitions are compared in test_forcing_sequence_level.py."""

from __future__ import annotations

import pytest

from freerun.forcing.costs import COSTS
from freerun.symbols import UNK


@pytest.mark.parametrize(
    ("name", "output", "cost"),
    [
        ("symbol_error_rate", [4, 5], 0.0),
        ("symbol_error_rate", [4, 5, 6, 7], 0.25),  # the closer of the two references, of length 4
        ("symbol_error_rate", [], 1.0),
        ("sequence_error", [4, 5, 6, 8], 0.0),
        ("sequence_error", [4], 1.0),
        ("bleu", [4, 5, 6, 8], 0.0),
        ("bleu", [7, 7], 1.0),
    ],
)
def test_costs_by_hand(name, output, cost):
    assert COSTS[name](output, [[4, 5], [4, 5, 6, 8]]) == pytest.approx(cost, abs=1e-12)


@pytest.mark.parametrize(("name", "cost"), [("symbol_error_rate", 0.5), ("sequence_error", 1.0)])
def test_no_output_is_right_by_a_reference_that_cannot_be_written(name, cost):
    assert min(COSTS[name](output, [[4, UNK]]) for output in ([4], [4, 4], [4, 5], [])) == cost


def test_what_costs_nothing_to_begin_with_stays_so():
    assert COSTS["symbol_error_rate"]([], [[]]) == 0.0
    assert COSTS["symbol_error_rate"]([4, 5], [[]]) == 2.0
