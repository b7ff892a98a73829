"""More requests than a service can answer, at a fixed rate: part of ``serve_load.py``."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from http_client import Answer, Clients, Request, arrivals
from service_process import (
    CLIENT_CORE,
    MODEL,
    PREDICT,
    QUANTILES,
    Service,
    core_of,
    freerun_service,
    markdown,
    memory,
    pin,
    quantiles,
    words_of,
    wrk,
)

CLIENTS = 64


@dataclass
class Outcomes:
    """The answers to an overload; ``latencies`` are those of 200, in seconds."""

    timeout: float
    counts: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)

    def add(self, _: Request, answer: Answer) -> None:
        """Count an answer."""
        if answer.status == 200:
            self.latencies.append(answer.seconds)
            self.counts["200"] += 1
        elif answer.status == 503:
            self.refusals.append(answer.seconds)
            self.counts[f"503 {json.loads(answer.body).get('limit', 'connections')}"] += 1
        else:
            self.counts[answer.error or str(answer.status)] += 1

    def as_json(self) -> dict[str, Any]:
        """Return what is written down."""
        return {
            "counts": dict(self.counts),
            "accepted_ms": quantiles(self.latencies),
            "refused_ms": quantiles(self.refusals),
            "after_the_deadline": sum(each > self.timeout for each in self.latencies),
        }


async def probe(clients: Clients, request: Request, number: int) -> float:
    """Return the median seconds of some requests, one after another; infinite if one is refused."""
    answers = [await clients.ask(request) for _ in range(number)]
    return statistics.median(each.seconds if each.status == 200 else float("inf") for each in answers)


async def seconds_to_recover(clients: Clients, request: Request, former: float) -> float:
    """Return the seconds until eleven requests had a median of at most twice the former one; infinite after 120."""
    start = time.perf_counter()
    while time.perf_counter() - start < 120:
        if await probe(clients, request, 11) <= 2 * former:
            return time.perf_counter() - start
        await asyncio.sleep(0.02)
    return float("inf")


async def watched(service: Service, found: list[dict[str, Any]]) -> None:
    """Add the memory of all processes every second."""
    start = time.perf_counter()
    while True:
        found.append({"seconds": round(time.perf_counter() - start, 1), "mebibytes": memory(service)})
        await asyncio.sleep(1)


async def overload_of(service: Service, options: argparse.Namespace, capacity: float) -> dict[str, Any]:
    """Load a service, and return what happened."""
    words = words_of(options.words, 512)
    requests = [Request.of("predict", PREDICT, {"texts": [word], "beam_size": options.beam_size}) for word in words]
    probing, clients = Clients(service.port, 1), Clients(service.port, options.connections)
    former = await probe(probing, requests[0], 101)
    outcomes, samples, shuffled = Outcomes(options.timeout), [], random.Random(0)
    watch = asyncio.create_task(watched(service, samples))
    rate = options.factor * capacity
    late = await arrivals(clients, rate, options.seconds, lambda: shuffled.choice(requests), outcomes.add)
    recovery = await seconds_to_recover(probing, requests[0], former)
    while clients.busy:
        await asyncio.sleep(0.01)
    await asyncio.sleep(2)
    watch.cancel()
    after = await probe(probing, requests[0], 101)
    return {
        "capacity_per_second": capacity,
        "rate": rate,
        "sent": len(late),
        "sent_late_ms": quantiles(late),
        "most_connections": clients.most,
        "timeout": options.timeout,
        **outcomes.as_json(),
        "probe_ms": {"before": 1000 * former, "after": 1000 * after},
        "seconds_to_recover": recovery,
        "memory": samples,
    }


def overload(options: argparse.Namespace) -> dict[str, Any]:
    """Start a service, measure what it can answer, and load it with more."""
    settings = ["--timeout", str(options.timeout), "--workers", str(options.workers)]
    with freerun_service({MODEL: options.model}, *settings, core=core_of(options)) as service:
        words = words_of(options.words, 512)
        bodies = [json.dumps({"texts": [word], "beam_size": options.beam_size}) for word in words]
        capacity = wrk(service, PREDICT, bodies, CLIENTS, 5)["per_second"]
        print(f"capacity: {capacity:,.0f} requests per second", file=sys.stderr, flush=True)
        pin(CLIENT_CORE)
        return asyncio.run(overload_of(service, options, capacity))


def overload_table(figures: Mapping[str, Any]) -> str:
    """Return what happened under overload, in Markdown."""
    total = sum(figures["counts"].values())
    counts = [[name, f"{number:,}", f"{100 * number / total:.2f} %"] for name, number in figures["counts"].items()]
    times = [
        [label, *(f"{figures[key].get(name, float('nan')):,.1f}" for name in QUANTILES)]
        for label, key in (
            ("accepted (200)", "accepted_ms"),
            ("rejected (503)", "refused_ms"),
            ("sent late by the client", "sent_late_ms"),
        )
    ]
    worker = [list(each["mebibytes"].values())[1:] for each in figures["memory"]]
    sums = [sum(each) for each in worker]
    load = (
        f"{figures['rate']:,.0f} requests per second, of which {figures['capacity_per_second']:,.0f} can be answered; "
        f"{figures['sent']:,} were due, and {figures['most_connections']:,} connections were busy at most."
    )
    before, after = figures["probe_ms"]["before"], figures["probe_ms"]["after"]
    end = (
        f"After the deadline of {figures['timeout']:g} s: {figures['after_the_deadline']} of the accepted requests. "
        f"Memory of the workers: {sums[0]:.0f} MiB before, {max(sums):.0f} MiB at most, {sums[-1]:.0f} MiB after. "
        f"A probe took {before:.2f} ms before the load; {figures['seconds_to_recover']:.2f} s after its end at most "
        f"twice that, and in the end {after:.2f} ms."
    )
    answers = markdown(["answer", "requests", "fraction"], sorted(counts))
    return "\n\n".join([load, answers, markdown(["ms", *QUANTILES], times), end])
