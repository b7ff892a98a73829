"""The thread that decodes batches: errors, time limits, a full queue, and texts that nobody waits for any longer."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field

import pytest

from freerun.errors import DataError
from freerun.runtime.interruptible import stop_flag
from freerun.server.batch_runner import BatchRunner, FailedText
from freerun.server.counts import CountTable
from freerun.server.fair_queue import Job
from freerun.server.problem import Problem


@dataclass(frozen=True)
class Doubling:
    """Doubles numbers. It fails for 13, and waits at 0 until it may go on."""

    model: str = "m"
    gate: threading.Event = field(default_factory=threading.Event, compare=False)
    batches: list = field(default_factory=list, compare=False)
    error: Exception = field(default_factory=lambda: ValueError("unlucky"), compare=False)

    def run(self, items):
        self.batches.append(list(items))
        if 0 in items:
            assert self.gate.wait(10)
        if 13 in items:
            raise self.error
        return [2 * item for item in items]

    def count(self, counts, results):
        counts.add("texts", self.model, by=len(results))


class Log:
    def __init__(self):
        self.failures = []

    def failure(self, event, error, trace=False, **values):
        self.failures.append((event, str(error), trace))


class Running:
    """A runner, with what it counts and logs."""

    def __init__(self, capacity=100):
        self.table = CountTable(1, ["m"])
        self.log = Log()
        self.runner = BatchRunner(capacity, self.table.row(0), self.log)
        self.call = Doubling()

    def submit(self, *items, timeout=10.0):
        job = Job(
            call=self.call, model="m", costs=[1] * len(items), items=items, lengths=[1] * len(items), width=1, rows=64
        )
        self.runner.submit(job, timeout)
        return job

    def count(self, name):
        counts = self.table.row(0)
        return counts._numbers[counts._columns[(name, "m")]]

    async def busy(self):
        """Let the thread wait inside of a call."""
        job = self.submit(0)
        while not self.call.batches:
            await asyncio.sleep(0.001)
        return job


def run(test, **options):
    async def body():
        running = Running(**options)
        try:
            return await asyncio.wait_for(test(running), 20)
        finally:
            running.call.gate.set()
            while running.runner.waiting:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)  # the thread hands out its last results

    return asyncio.run(body())


def test_results_come_in_the_order_of_the_texts():
    async def test(running):
        return await running.submit(*range(1, 10)).handle

    assert run(test) == [2 * number for number in range(1, 10)]


def test_texts_that_wait_while_another_batch_runs_are_decoded_together():
    async def test(running):
        first = await running.busy()
        others = [running.submit(1, 2), running.submit(3)]
        running.call.gate.set()
        assert [await job.handle for job in (first, *others)] == [[0], [2, 4], [6]]
        return running.call.batches

    assert [sorted(batch) for batch in run(test)] == [[0], [1, 2, 3]]


def test_an_error_hits_only_the_request_whose_text_it_is():
    async def test(running):
        await running.busy()
        good, bad = running.submit(1, 2), running.submit(3, 13)
        running.call.gate.set()
        assert await good.handle == [2, 4]
        assert await bad.handle == [6, FailedText()]
        return running

    running = run(test)
    problem = FailedText().problem()
    assert problem.status == 500
    assert "unlucky" not in problem.detail
    assert running.log.failures == [("a text could not be decoded", "unlucky", True)]
    assert running.count("texts") == 4


def test_an_error_of_a_known_kind_is_logged_without_a_traceback():
    async def test(running):
        running.call = Doubling(error=DataError("x", "is wrong", "Expected y", "Fix it"))
        assert await running.submit(13).handle == [FailedText()]
        return running.log.failures

    [(_, _, trace)] = run(test)
    assert not trace


def test_the_thread_survives_errors():
    async def test(running):
        for _ in range(3):
            assert await running.submit(13).handle == [FailedText()]
        return await running.submit(4).handle

    assert run(test) == [8]


def test_a_full_queue_rejects_a_request_and_says_when_to_come_back():
    async def test(running):
        await running.busy()
        running.submit(*range(1, 4))
        assert running.runner.has_room(2)
        assert not running.runner.has_room(3)
        with pytest.raises(Problem) as caught:
            running.submit(7, 8, 9)
        return caught.value

    problem = run(test, capacity=5)
    assert problem.status == 503
    assert problem.members == {"limit": "queue", "maximum": 5}
    assert problem.detail == "The queue is full: 3 texts are ahead. Try again later."
    assert int(problem.headers["Retry-After"]) >= 1


def test_a_request_that_could_not_be_answered_in_time_is_rejected_at_once():
    async def test(running):
        await running.busy()
        running.runner._speeds["m"] = 2.0, 2.0
        running.submit(*range(1, 6))
        assert running.runner.waiting == 5
        assert running.runner.wait_estimate() == 5.0
        running.submit(7, timeout=6.25)
        with pytest.raises(Problem, match="The wait would be too long: 6 texts are ahead"):
            running.submit(8, timeout=6.25)

    run(test)


def test_the_estimate_follows_what_was_measured():
    async def test(running):
        running.runner._speeds["m"] = 1.0, 1.0
        for _ in range(5):
            await running.submit(1, 2).handle
        return running.runner._speeds["m"]

    seconds, cost = run(test)
    assert 0.8**5 < seconds < 0.8**5 + 0.1
    assert cost == pytest.approx(0.8**5 + 2 * (1 - 0.8**5) / (1 - 0.8))


def test_long_texts_and_wide_beams_wait_longer():
    """The estimate is of their cost, so a slow text does not make short ones be rejected."""

    async def test(running):
        await running.busy()
        running.runner._speeds["m"] = 1.0, 1.0
        running.runner.submit(
            Job(call=running.call, model="m", items=[1], lengths=[30], costs=[60], width=2, rows=64), 1000.0
        )
        return running.runner.wait_estimate()

    assert run(test) == 60.0


def test_what_is_left_of_a_cancelled_request_is_not_decoded():
    async def test(running):
        await running.busy()
        cancelled, other = running.submit(1, 2, 3), running.submit(4)
        running.runner.cancel(cancelled)
        running.runner.cancel(cancelled)
        running.call.gate.set()
        assert await other.handle == [8]
        assert running.count("skipped_texts") == 3
        assert running.runner.waiting == 0
        return running.call.batches

    assert run(test) == [[0], [4]]


def test_a_request_that_was_given_up_during_its_batch_does_not_disturb_the_others():
    async def test(running):
        given_up = await running.busy()
        given_up.handle.set_exception(TimeoutError())
        running.runner.cancel(given_up)
        other = running.submit(5)
        running.call.gate.set()
        with pytest.raises(TimeoutError):
            await given_up.handle
        return await other.handle

    assert run(test) == [10]


def test_a_batch_that_no_client_waits_for_is_stopped():
    @dataclass(frozen=True)
    class Endless(Doubling):
        def run(self, items):
            self.batches.append(list(items))
            end = time.monotonic() + 30
            while not stop_flag().value and time.monotonic() < end:
                time.sleep(0.01)
            raise RuntimeError("stopped")

    async def test(running):
        running.call = Endless()
        one, two = running.submit(1), running.submit(2)
        while not running.call.batches:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        running.runner.cancel(one)
        await asyncio.sleep(0.1)
        assert running.call.batches in ([[1]], [[1, 2]])  # the other one is still waited for
        running.runner.cancel(two)
        running.call = Doubling()
        assert await running.submit(4).handle == [8]
        assert running.log.failures == []
        return time.monotonic() - began

    assert run(test) < 15


def test_texts_that_are_decoded_alone_after_an_error_are_not_started_for_clients_that_are_gone():
    async def test(running):
        job = running.submit(13, 1, 0, 2, 3)
        while not running.call.batches:
            await asyncio.sleep(0.001)
        running.runner.cancel(job)
        running.call.gate.set()
        await running.submit(4).handle
        return running.call.batches

    assert run(test) == [[13, 1, 0, 2, 3], [4]]


def test_batches_are_counted():
    async def test(running):
        await running.submit(1, 2, 3).handle
        return {sample.name: sample.value for family in running.table.collect() for sample in family.samples}

    samples = run(test)
    assert samples["freerun_batch_texts_sum"] == 3
    assert samples["freerun_batch_texts_count"] == 1
    assert samples["freerun_texts_total"] == 3
