"""Which waiting texts are decoded together, and in which order."""

from __future__ import annotations

import pytest

from freerun.server.fair_queue import FairQueue, Job


def job(call="a", texts=1, length=5, width=1, rows=64):
    return Job(
        call=call,
        model="m",
        costs=[length * width] * texts,
        items=list(range(texts)),
        lengths=[length] * texts,
        width=width,
        rows=rows,
    )


def queue_of(*jobs, capacity=10_000):
    queue = FairQueue(capacity)
    for each in jobs:
        queue.add(each)
    return queue


def numbers(batch, one):
    return [number for each, number in batch.parts if each is one]


def test_an_empty_queue_has_no_batch():
    queue = FairQueue(3)
    assert queue.take() is None
    assert len(queue) == 0


def test_texts_of_several_requests_share_a_batch():
    one, two = job(texts=2), job(texts=3)
    batch = queue_of(one, two).take()
    assert batch.call == "a"
    assert numbers(batch, one) == [0, 1]
    assert numbers(batch, two) == [0, 1, 2]


def test_texts_with_other_options_wait_for_a_batch_of_their_own():
    queue = queue_of(job("a"), job("b"), job("a"))
    assert [len(queue.take().parts) for _ in range(2)] == [2, 1]
    assert queue.take() is None


@pytest.mark.parametrize(("short", "long", "batches"), [(64, 65, 2), (1, 64, 1), (256, 257, 2), (65, 256, 1)])
def test_short_and_long_texts_are_not_decoded_together(short, long, batches):
    queue = queue_of(job(length=short), job(length=long))
    assert sum(queue.take() is not None for _ in range(3)) == batches


def test_each_request_has_an_equal_share_of_a_batch():
    large, small = job(texts=100, rows=20), job(texts=10, rows=20)
    batch = queue_of(large, small).take()
    assert (len(numbers(batch, large)), len(numbers(batch, small))) == (10, 10)


def test_a_batch_has_at_most_as_many_rows_as_its_texts_allow():
    queue = queue_of(job(texts=10, width=3, rows=10))
    assert [len(queue.take().parts) for _ in range(4)] == [3, 3, 3, 1]


def test_a_text_that_is_wider_than_a_batch_is_decoded_alone():
    queue = queue_of(job(texts=2, width=100, rows=10))
    assert [len(queue.take().parts) for _ in range(2)] == [1, 1]


def test_long_texts_make_small_batches():
    queue = queue_of(job(texts=20, length=6000, rows=1000))
    assert [len(queue.take().parts) for _ in range(3)] == [8, 8, 4]


def test_the_queue_says_how_much_room_there_is():
    queue = queue_of(job(texts=7), capacity=10)
    assert queue.has_room(3)
    assert not queue.has_room(4)
    queue.take()
    assert queue.has_room(10)


def test_cancelled_texts_are_left_out():
    one, two = job(texts=3), job(texts=2)
    queue = queue_of(one, two)
    queue.cancel(one)
    assert [number for _, number in queue.take().parts] == [0, 1]
    assert len(queue) == 0


def test_a_queue_of_cancelled_texts_is_empty_after_a_look():
    one, two = job("a"), job("b")
    queue = queue_of(one, two)
    queue.cancel(one)
    queue.cancel(two)
    assert queue.take() is None
    assert len(queue) == 0


def take_and_charge(queue, seconds):
    batch = queue.take()
    queue.charge(batch.key, seconds[batch.call])
    return batch.call


def test_classes_share_time_not_turns():
    seconds = {"slow": 0.3, "quick": 0.1}
    queue = queue_of(job("slow", texts=100, rows=1), job("quick", texts=100, rows=1))
    served = [take_and_charge(queue, seconds) for _ in range(80)]
    assert served.count("quick") == pytest.approx(60, abs=2)


def test_a_class_that_was_empty_gets_no_credit_for_the_time():
    queue = queue_of(job("old", texts=200, rows=1))
    for _ in range(100):
        take_and_charge(queue, {"old": 1.0})
    queue.add(job("new", texts=100, rows=1))
    served = [take_and_charge(queue, {"old": 1.0, "new": 1.0}) for _ in range(20)]
    assert served.count("new") == pytest.approx(10, abs=1)


def test_a_class_pays_for_the_time_that_it_has_just_used():
    queue = queue_of(job("old", texts=1), job("other", texts=50, rows=1))
    take_and_charge(queue, {"old": 5.0})
    queue.add(job("old", texts=1))
    served = [take_and_charge(queue, {"old": 5.0, "other": 1.0}) for _ in range(5)]
    assert served.count("other") >= 4


def test_short_requests_between_do_not_add_up_to_a_long_wait():
    """Each of them is served before the class that used time meanwhile, which must not fall behind for good."""
    seconds = {"busy": 0.1, "short": 0.002}
    queue = queue_of(job("busy", texts=2000, rows=1))
    for _ in range(600):
        batch = queue.take()
        if batch.call == "busy":
            queue.add(job("short"))  # it arrives while a batch is decoded
        queue.charge(batch.key, seconds[batch.call])
    queue.add(job("flood", texts=1000, rows=1))
    served = [take_and_charge(queue, {"busy": 0.1, "flood": 0.1, "short": 0.1}) for _ in range(20)]
    assert served.count("busy") >= 8


def test_requests_that_are_all_different_do_not_starve_the_others():
    """As if each had a seed of its own, so that each is a class that has used no time yet."""
    queue = queue_of(job("mine", texts=500, rows=1), *[job(number) for number in range(10)])
    served = []
    for number in range(10, 210):
        queue.add(job(number))
        batch = queue.take()
        queue.charge(batch.key, 0.1)
        served.append(batch.call)
    assert served.count("mine") >= 200 / 20


def test_classes_that_are_gone_are_forgotten():
    queue = FairQueue(10)
    for number in range(1000):
        queue.add(job(number))
        queue.charge(queue.take().key, 0.1)
    assert len(queue._used) <= 65
