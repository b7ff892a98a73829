"""The numbers in the summary are those of the measures."""

from __future__ import annotations

import re

import pytest

from freerun.diagnostics.diagnosis import diagnose
from freerun.diagnostics.record import EncodedPairs
from freerun.diagnostics.summary import summary
from tests.planted import BOUND, SOURCE, TARGET, Planted, derails, errs_at_random, items_of, never_errs, words
from tests.unit.test_diagnostics_states import history


def measures(rule, count=80):
    items = items_of(*words(count))
    stepper = Planted(EncodedPairs.of(items, SOURCE, TARGET), rule)
    return diagnose(stepper, items, SOURCE, TARGET, bound=BOUND, states_of=history).measures


def numbers(sentence):
    return [float(number.replace(",", "")) for number in re.findall(r"-?\d[\d,]*(?:\.\d+)?", sentence)]


def of(estimate, scale=1, plus=0):
    return [plus + scale * end for end in estimate[:3]]


def test_every_number_is_read_back():
    found = measures(errs_at_random(0.25))
    excess, recovery, switch, road, states, identity = map(numbers, summary(found))
    known = found.excess_error
    assert excess == pytest.approx(
        [*of(known.excess, 0.01, 1), *of(known.free, 100), *of(known.teacher, 100)], abs=0.051
    )
    two, one = found.recovery.curve[1], found.recovery.curve[0]
    assert recovery == pytest.approx(
        [found.recovery.with_error, 80, 2, *of(two.recovered, 100), *of(one.ratio)], abs=0.051
    )
    most = max(found.prefix_switch, key=lambda each: each.own.n)
    assert switch == pytest.approx([most.length, *of(most.right, 100), *of(most.own, 100), most.own.n], abs=0.051)
    worst = found.road_exam[-1]
    assert road == pytest.approx([*of(found.road_exam[0].errors, 100), 40, *of(worst.ratio)], abs=0.051)
    divergence = found.state_divergence
    assert states == pytest.approx(
        [*of(divergence.classifier_accuracy, 100), 50, divergence.sources, divergence.p_value], abs=0.051
    )
    assert identity == [found.identity.right_free, 80, 80, 80]


def test_what_is_undefined_is_said():
    told = " ".join(summary(measures(never_errs, 30)))
    for part in ("makes no error on 30 sources", "No output has an error on 30", "No output left its reference"):
        assert part in told
    assert "Fewer than 20 sources" in told
    assert "None" not in told and "nan" not in told


def test_a_difference_that_is_not_significant_is_reported_as_such():
    assert "The difference is not significant" in summary(measures(errs_at_random(0.2)))[0]
    assert "not significant" not in summary(measures(derails))[0]
