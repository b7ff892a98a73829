"""Since when a request may have waited for the event loop."""

from __future__ import annotations

import asyncio
import time

import pytest

from freerun.server.arrival_clock import ArrivalClock

BUSY = 0.05
"""Seconds that a turn of the loop takes in these tests."""


async def turns(number):
    for _ in range(number):
        await asyncio.sleep(0)


def run(test):
    return asyncio.run(test())


def test_without_load_a_request_has_just_arrived():
    async def test():
        clock, loop = ArrivalClock(), asyncio.get_running_loop()
        await asyncio.sleep(BUSY)
        for _ in range(3):
            assert loop.time() - clock.arrived() < BUSY / 2
            await asyncio.sleep(BUSY)

    run(test)


def test_what_is_read_after_a_busy_turn_may_have_waited_for_one_and_its_answer_will_for_three():
    async def test():
        clock, loop = ArrivalClock(), asyncio.get_running_loop()
        start = loop.time()
        clock.arrived()
        time.sleep(BUSY)  # the loop is busy
        await asyncio.sleep(0)
        now = loop.time()
        arrived = clock.arrived()
        assert now - start >= BUSY
        assert arrived == pytest.approx(start - 3 * (now - start), abs=BUSY / 2)
        assert clock.arrived() == arrived  # the same for all that is read in a turn

    run(test)


def test_a_turn_without_requests_ends_the_wait():
    async def test():
        clock, loop = ArrivalClock(), asyncio.get_running_loop()
        clock.arrived()
        time.sleep(BUSY)
        await turns(4)
        assert loop.time() - clock.arrived() < BUSY / 2

    run(test)
