"""The queue of texts, whatever arrives, is cancelled and is taken."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from freerun.server.fair_queue import FairQueue, Job

CAPACITY = 60
CALLS = st.sampled_from(["a", "b", "c"])
LENGTHS = st.lists(st.sampled_from([1, 5, 64, 65, 300, 5000, 40_000]), min_size=1, max_size=12)
ROWS = 8


class Queue(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.queue = FairQueue(CAPACITY)
        self.waiting = {}  # job: the numbers of its texts, in order
        self.decoded = Counter()
        self.unskipped = 0

    @rule(call=CALLS, lengths=LENGTHS, width=st.integers(1, 12))
    def add(self, call, lengths, width):
        if not self.queue.has_room(len(lengths)):
            assert len(self.queue) + len(lengths) > CAPACITY
            return
        job = Job(
            call=call,
            model="m",
            costs=[each * width for each in lengths],
            items=list(range(len(lengths))),
            lengths=lengths,
            width=width,
            rows=ROWS,
        )
        self.waiting[job] = list(range(len(lengths)))
        self.queue.add(job)

    @rule(seconds=st.floats(0, 100))
    def take(self, seconds):
        batch = self.queue.take()
        if batch is None:
            assert not any(self.numbers_that_count().values())
            return
        self.queue.charge(batch.key, seconds)
        rows = cost = 0
        for job, number in batch.parts:
            assert not job.is_cancelled
            assert job.call == batch.call
            self.decoded[job, number] += 1
            same_length = [each for each in self.waiting[job] if self.key(job, each) == self.key(job, number)]
            assert number == same_length[0]  # in order within a job, where the lengths are similar
            self.waiting[job].remove(number)
            rows, cost = rows + job.width, cost + job.costs[number]
        assert len(batch.parts) == 1 or (rows <= ROWS and cost <= 50_000)

    @staticmethod
    def key(job, number):
        return sum(job.lengths[number] > bound for bound in (64, 256, 1024, 4096))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        job = data.draw(st.sampled_from(list(self.waiting)))
        self.queue.cancel(job)

    def numbers_that_count(self):
        return {job: numbers for job, numbers in self.waiting.items() if not job.is_cancelled}

    @invariant()
    def no_text_is_lost_or_decoded_twice(self):
        assert all(count == 1 for count in self.decoded.values())
        waiting = self.numbers_that_count()
        assert len(self.queue) == sum(map(len, waiting.values())) <= CAPACITY
        assert self.queue.costs["m"] == sum(job.costs[number] for job, numbers in waiting.items() for number in numbers)

    def teardown(self):
        while (batch := self.queue.take()) is not None:
            for job, number in batch.parts:
                self.waiting[job].remove(number)
        assert not any(self.numbers_that_count().values())
        assert len(self.queue) == 0


TestQueue = Queue.TestCase


def job(call, texts):
    return Job(call=call, model="m", costs=[1] * texts, items=range(texts), lengths=[1] * texts, width=1, rows=1)


def busy(queue, calls, seconds, until):
    """Keep all classes full until a time; return the seconds that each has been given."""
    used = dict.fromkeys(calls, 0.0)
    for call in calls:
        queue.add(job(call, 10_000))
    while sum(used.values()) < until:
        batch = queue.take()
        queue.charge(batch.key, seconds[batch.call])
        used[batch.call] += seconds[batch.call]
    return used


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 1.0), min_size=2))
def test_no_class_takes_more_than_its_share(seconds):
    used = busy(FairQueue(10**9), list(seconds), seconds, until=50.0)
    fair = sum(used.values()) / len(used)
    for call, given_time in used.items():
        assert given_time == pytest.approx(fair, abs=2 * max(seconds.values())), call


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 4), st.floats(0.01, 1.0)), max_size=80),
    st.floats(0.01, 1.0),
)
def test_a_class_waits_a_bounded_time_whatever_arrives(arrivals, seconds):
    """Between two of its batches, each other class gets its own share, and one batch more at most."""
    queue = FairQueue(10**9)
    queue.add(job("mine", 1000))
    classes, longest, waited, mine = {"mine"}, seconds, 0.0, 0
    for call, texts, cost in arrivals:
        queue.add(job(call, texts))
        classes.add(call)
        batch = queue.take()
        cost = seconds if batch.call == "mine" else cost
        longest = max(longest, cost)
        queue.charge(batch.key, cost)
        waited = 0.0 if batch.call == "mine" else waited + cost
        mine += batch.call == "mine"
        assert waited <= 2 * longest * len(classes)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_new_classes_without_end_do_not_starve_an_old_one(arrivals, seconds):
    """As if each request had a seed of its own: those that came before are served once, and then it is its turn."""
    queue = FairQueue(10**9)
    queue.add(job("mine", 1000))
    others, since = 0, 0
    for count in arrivals:
        for _ in range(count):
            others += 1
            queue.add(job(("other", others), 1))
        batch = queue.take()
        queue.charge(batch.key, seconds)
        since = 0 if batch.call == "mine" else since + 1
        assert since <= others + 1
