"""Schedules of teacher_prob: closed forms, in [0, 1], monotone, no overflow."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from freerun.forcing.teacher_prob import UpdateSchedule, at_position, at_update
from freerun.forcing.training_batch import Update

SHARES = st.floats(0.0, 1.0)
TIMES = st.floats(0.0, 1e9)
FALLING = st.one_of(
    st.fixed_dictionaries({"kind": st.just("constant"), "teacher_prob": SHARES}),
    st.fixed_dictionaries({"kind": st.just("linear"), "k": SHARES, "c": st.floats(1e-9, 10), "minimum": st.just(0.0)}),
    st.fixed_dictionaries({"kind": st.just("exponential"), "k": st.floats(1e-6, 1 - 1e-9)}),
    st.fixed_dictionaries({"kind": st.just("inverse_sigmoid"), "k": st.floats(1.0, 1e6)}),
)
RISING = st.fixed_dictionaries(
    {"kind": st.just("increasing"), "start": SHARES, "end": st.just(1.0), "c": st.floats(1e-9, 10)}
)


def test_a_schedule_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        schedule(kind="constant").teacher_prob = 0.1


def schedule(**settings):
    return TypeAdapter(UpdateSchedule).validate_python(settings)


@given(st.one_of(FALLING, RISING), st.lists(TIMES, min_size=2, max_size=20))
def test_values_are_probabilities_and_monotone(settings, times):
    values = [schedule(**settings).value(i) for i in sorted(times)]
    assert all(0.0 <= value <= 1.0 for value in values)
    if settings["kind"] == "increasing":
        assert values == sorted(values)
    else:
        # sigmoid and exponential are monotone to within rounding
        assert all(later <= earlier + 1e-15 for earlier, later in pairwise(values))


@given(st.integers(0, 5000))
def test_closed_forms(i):
    assert schedule(kind="constant", teacher_prob=0.3).value(i) == 0.3
    assert schedule(kind="linear", k=0.9, c=1e-3, minimum=0.1).value(i) == max(0.1, 0.9 - 1e-3 * i)
    assert schedule(kind="exponential", k=0.999).value(i) == pytest.approx(0.999**i, rel=1e-9)
    assert schedule(kind="inverse_sigmoid", k=300.0).value(i) == pytest.approx(300 / (300 + math.exp(i / 300)))
    assert schedule(kind="increasing", start=0.2, end=0.7, c=1e-3).value(i) == min(0.7, 0.2 + 1e-3 * i)


def test_the_inverse_sigmoid_is_half_at_k_log_k():
    assert schedule(kind="inverse_sigmoid", k=500.0).value(500 * math.log(500)) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("settings", [{"kind": "inverse_sigmoid", "k": 1.0}, {"kind": "exponential", "k": 0.5}])
def test_no_overflow_at_a_billion_updates(settings):
    assert schedule(**settings).value(1e9) == 0.0


@pytest.mark.parametrize(
    ("settings", "number", "epoch", "expected"),
    [
        ({"warmup": 10.0}, 1, 0.0, 1.0),
        ({"warmup": 10.0}, 10, 0.0, 1.0),
        ({"warmup": 10.0}, 11, 0.0, 0.5),
        ({"warmup": 10.0}, 21, 0.0, 0.4),
        ({}, 1, 0.0, 0.5),
        ({"unit": "epochs", "warmup": 2.0}, 900, 1.75, 1.0),
        ({"unit": "epochs", "warmup": 2.0}, 900, 4.0, 0.48),
    ],
)
def test_time_counts_from_the_end_of_the_warm_up(settings, number, epoch, expected):
    linear = schedule(kind="linear", k=0.5, c=0.01, **settings)
    assert at_update(linear, Update(number, 1, epoch=epoch)) == pytest.approx(expected)


def test_a_rising_schedule_waits_at_its_start():
    rising = schedule(kind="increasing", start=0.25, c=0.1, warmup=5.0)
    assert [at_update(rising, Update(number, 1)) for number in (1, 5, 6, 7)] == [0.25, 0.25, 0.25, 0.35]


@given(FALLING.filter(lambda settings: settings["kind"] != "constant"), st.integers(1, 50), SHARES)
def test_by_position_the_later_and_the_later_in_training_the_fewer_right_tokens(settings, t, teacher_prob):
    position = schedule(**settings)
    here = at_position(position, t, teacher_prob)
    assert here == position.value(t * (1 - teacher_prob))
    assert at_position(position, t + 1, teacher_prob) <= here + 1e-15
    assert at_position(position, t, teacher_prob / 2) <= here + 1e-15
    assert at_position(position, t, 1.0) == position.value(0)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "constant", "teacher_prob": 1.1},
        {"kind": "constant", "teacher_prob": -0.1},
        {"kind": "linear", "c": 0.0},
        {"kind": "linear", "k": 1.5},
        {"kind": "linear", "minimum": -0.1},
        {"kind": "exponential", "k": 1.0},
        {"kind": "exponential", "k": 0.0},
        {"kind": "inverse_sigmoid", "k": 0.9},
        {"kind": "increasing", "start": -0.5},
        {"kind": "increasing", "c": -1.0},
        {"kind": "increasing", "start": 0.6, "end": 0.5},
        {"kind": "linear", "k": 0.5, "minimum": 0.6},
        {"kind": "constant", "warmup": -1.0},
        {"kind": "constant", "unit": "steps"},
        {"kind": "constant", "k": 2.0},
    ],
)
def test_constants_out_of_range_are_refused(settings):
    with pytest.raises(ValidationError):
        schedule(**settings)


def test_bounds_may_be_equal():
    assert schedule(kind="linear", k=0.5, minimum=0.5).value(9) == 0.5
    assert schedule(kind="increasing", start=0.5, end=0.5).value(9) == 0.5
