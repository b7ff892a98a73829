"""Learning-rate schedules: pure functions in [0, 1] with a closed form, at every update a run may reach."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freerun.training.schedules import constant, cosine, halving, inverse_sqrt

UPDATES = st.integers(1, 10**9)
WARMUPS = st.integers(1, 10**6)
EPOCHS = st.floats(0.01, 100)


@st.composite
def schedules(draw):
    """A schedule and the end of its warm-up."""
    warmup = draw(WARMUPS)
    kind = draw(st.sampled_from(["constant", "inverse_sqrt", "cosine", "halving"]))
    if kind == "constant":
        return constant(warmup), warmup
    if kind == "inverse_sqrt":
        return inverse_sqrt(warmup), warmup
    if kind == "cosine":
        return cosine(draw(UPDATES), warmup, draw(st.floats(0, 1))), warmup
    updates_per_epoch = draw(st.floats(0.1, 10**6))
    return halving(updates_per_epoch, draw(st.floats(0, 100)), draw(EPOCHS), warmup), warmup


@given(schedules(), UPDATES)
def test_a_factor_is_a_number_between_0_and_1(case, update):
    schedule, _ = case
    assert 0.0 <= schedule(update) <= 1.0
    assert schedule(update) == schedule(update)


@given(schedules(), UPDATES, UPDATES)
def test_a_schedule_never_rises_after_its_warmup(case, one, other):
    schedule, warmup = case
    early, late = sorted((max(one, warmup), max(other, warmup)))
    assert schedule(late) <= schedule(early) + 1e-15


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 10**6))
def test_a_warmup_rises_in_equal_steps_up_to_1(warmup, update, updates):
    update = min(update, warmup)
    flat = [constant(warmup), inverse_sqrt(warmup), cosine(warmup + updates, warmup), halving(10.0, 200.0, 1.0, warmup)]
    assert [schedule(update) for schedule in flat] == [update / warmup] * 4


@given(UPDATES)
def test_a_constant_without_warmup_is_1(update):
    assert constant()(update) == 1.0


@given(WARMUPS, UPDATES)
def test_inverse_sqrt_falls_with_the_square_root(warmup, update):
    update += warmup
    assert inverse_sqrt(warmup)(update) == pytest.approx(math.sqrt(warmup) / math.sqrt(update), rel=1e-12)
    assert inverse_sqrt(warmup)(4 * warmup) == 0.5


@given(st.integers(2, 10**9), st.floats(0, 1), st.floats(0, 1))
def test_cosine_follows_its_formula(updates, share, final):
    update = max(1, round(share * updates))
    expected = final + (1 - final) * math.cos(math.pi / 2 * update / updates) ** 2
    assert cosine(updates, 0, final)(update) == pytest.approx(expected, abs=1e-9)


@given(WARMUPS, st.integers(1, 10**6), st.floats(0, 1), UPDATES)
def test_cosine_ends_at_its_final_value_and_stays_there(warmup, rest, final, beyond):
    schedule = cosine(warmup + rest, warmup, final)
    assert schedule(warmup + rest) == pytest.approx(final, abs=1e-12)
    assert schedule(warmup + rest + beyond) == pytest.approx(final, abs=1e-12)


@given(st.integers(2, 10**4), st.integers(0, 50), st.integers(1, 8), st.integers(0, 40), st.data())
def test_halving_halves_after_every_interval(updates_per_epoch, start, every, number, data):
    """With whole numbers of updates the place of each halving is exact: the first update of an interval is halved."""
    first = 1 + (start + every * number) * updates_per_epoch
    within = data.draw(st.integers(0, every * updates_per_epoch - 1))
    schedule = halving(float(updates_per_epoch), float(start), float(every))
    assert schedule(first + within) == 0.5**number
    if start:
        assert schedule(start * updates_per_epoch) == 1.0


@given(st.integers(1, 500), st.integers(1, 7), st.integers(0, 12), st.integers(1, 8), st.integers(1, 10**5))
def test_halving_is_exact_where_an_epoch_is_no_whole_number_of_updates(batches, accumulate, start, every, update):
    """Against fractions: ``accumulate`` batches make an update, places are tenths of an epoch, which floats are not."""
    epochs_done = Fraction((update - 1) * accumulate, batches)
    halvings = max(0, (epochs_done - Fraction(start, 10)) // Fraction(every, 10))
    schedule = halving(batches / accumulate, start / 10, every / 10)
    assert schedule(update) == 0.5 ** min(halvings, 1000)


def test_sutskevers_schedule():
    """0.7 at first; halved every half epoch after 5 epochs: three times by the end of epoch 6.5."""
    schedule = halving(updates_per_epoch=100.0)
    factors = {1: 1, 500: 1, 550: 1, 551: 1 / 2, 600: 1 / 2, 601: 1 / 4, 650: 1 / 4, 651: 1 / 8, 750: 1 / 16}
    assert {update: schedule(update) for update in factors} == factors


@pytest.mark.parametrize("update", [10**9, 10**12])
def test_nothing_overflows_in_a_long_run(update):
    factors = [
        halving(0.5, 0.0, 0.01)(update),
        inverse_sqrt(1)(update),
        cosine(10**9, 0)(update),
        cosine(1, 10**6)(update),
    ]
    assert all(0.0 <= factor < 1e-4 for factor in factors)
    assert factors[0] > 0


def test_an_interval_that_no_update_can_show_halves_the_rate_away():
    schedule = halving(10.0, 0.0, 5e-324)
    assert (schedule(1), schedule(2)) == (1.0, 0.5**1000)
