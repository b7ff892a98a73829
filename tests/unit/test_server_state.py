"""What the routes of a worker share, without HTTP: time limits and held bytes."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from pydantic_core import to_json

from freerun.search.methods import Beam, Greedy
from freerun.server.api_types import PredictOptions
from freerun.server.prediction_routes import json_size, prediction_json
from freerun.server.problem import Problem
from freerun.server.serve_settings import ServeSettings
from freerun.server.service_state import ClientGone, ServiceState

LARGE = 100_000


def state(timeout=10.0):
    unused = dict.fromkeys(("keys", "runner", "counts", "table", "log", "rules"))
    return ServiceState(settings=ServeSettings(models={}, timeout=timeout), models={}, **unused)


def request(**values):
    sent = asyncio.Event()
    connection = SimpleNamespace(is_gone=False, flow=SimpleNamespace(drain=sent.wait), sent=sent)
    return {"connection": connection, "arrived": asyncio.get_running_loop().time(), **values}


def test_small_bodies_are_parsed_at_once_and_large_ones_in_another_thread():
    async def test():
        shared, scope = state(), request()
        threads = [await shared.parsed(scope, size, threading.current_thread) for size in (10, LARGE)]
        threads.append(await shared.written(scope, LARGE, threading.current_thread))
        return len(set(threads)), threads[0]

    assert asyncio.run(test()) == (3, threading.main_thread())


def test_a_request_whose_body_waits_for_others_keeps_its_deadline():
    async def test():
        shared, go_on = state(timeout=0.2), threading.Event()
        first = asyncio.ensure_future(shared.parsed(request(deadline=None), LARGE, go_on.wait, 10))
        await asyncio.sleep(0.01)
        started = []
        began = time.monotonic()
        with pytest.raises(Problem) as caught:
            await shared.parsed(request(), LARGE, started.append, 1)
        seconds = time.monotonic() - began
        go_on.set()
        assert await first
        return caught.value, seconds, started

    problem, seconds, started = asyncio.run(test())
    assert (problem.status, problem.members["limit"]) == (503, "timeout")
    assert seconds < 5
    assert started == []


def test_a_body_whose_client_has_gone_meanwhile_is_not_parsed():
    async def test():
        shared, scope, started = state(), request(), []
        scope["connection"].is_gone = True
        with pytest.raises(ClientGone):
            await shared.parsed(scope, LARGE, started.append, 1)
        with pytest.raises(ClientGone):
            await shared.results(None, scope)
        return started

    assert asyncio.run(test()) == []


def test_bytes_are_held_until_the_client_has_read_the_answer():
    async def test():
        shared, scope = state(), request()
        shared.hold(scope, 400_000_000)
        releasing = asyncio.ensure_future(shared.release_when_sent(scope))
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="Too many large requests"):
            shared.hold(request(), 200_000_000)
        scope["connection"].sent.set()
        await releasing
        shared.hold(request(), 200_000_000)
        return shared.held

    assert asyncio.run(test()) == 200_000_000


def test_the_size_of_an_answer_is_about_right(bundles):
    from freerun.loading import load

    predictor = load(bundles["characters"])
    for search in (Greedy(), Beam(4, 4)):
        [prediction] = predictor.predict_batch(["abcabcabcabc"], search)
        size = len(to_json(prediction_json(prediction, PredictOptions())))
        assert size / 4 < json_size(prediction) < 2 * size
