"""Requests of every kind for a long time: part of ``serve_load.py``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from http_client import Answer, Clients, Request, arrivals
from request_mixture import Mixture, outputs_of
from service_process import (
    CLIENT_CORE,
    MODEL,
    Service,
    conditions,
    core_of,
    freerun_service,
    markdown,
    memory,
    open_files,
    pin,
    quantiles,
    words_of,
)

CLIENTS = 64
UTILISATION = 0.7
"""Of the measured capacity."""


class Soak:
    """The answers of a minute, and what was wrong with answers so far."""

    def __init__(self) -> None:
        self._known: dict[Request, int] = {}
        self.failures: Counter[str] = Counter()
        self.first_failures: list[str] = []
        self.differences = 0
        self.start_minute()

    def start_minute(self) -> None:
        """Forget the last minute."""
        self._counts: Counter[str] = Counter()
        self._seconds: list[float] = []

    def add(self, request: Request, answer: Answer) -> None:
        """Check an answer."""
        self._counts[request.kind] += 1
        self._seconds.append(answer.seconds)
        if answer.status != request.expected:
            self._fail(request, answer.error or f"{answer.status}", answer)
            return
        try:
            outputs = hash(repr(outputs_of(request.kind, answer.body)))
        except (ValueError, KeyError, TypeError) as error:
            self._fail(request, type(error).__name__, answer)
            return
        self.differences += self._known.setdefault(request, outputs) != outputs

    def _fail(self, request: Request, what: str, answer: Answer) -> None:
        self.failures[f"{request.kind}: {what}"] += 1
        if len(self.first_failures) < 20:
            self.first_failures.append(f"{request.kind}: {what}: {answer.body[:300]!r}")

    def minute(self, service: Service) -> dict[str, Any]:
        """Return the figures of the last minute, and start the next one."""
        found = {
            "requests": dict(sorted(self._counts.items())),
            "ms": quantiles(self._seconds),
            "mebibytes": memory(service),
            "open_files": {str(process): open_files(process) for process in service.processes},
        }
        self.start_minute()
        return found

    def as_json(self) -> dict[str, Any]:
        """Return what was wrong so far."""
        wrong = {"failures": dict(self.failures), "first_failures": self.first_failures}
        return {**wrong, "different_outputs": self.differences}


async def capacity_for(service: Service, mixture: Mixture, seconds: float) -> float:
    """Return the requests per second that clients reach who send the next request once they have an answer."""
    clients, end, number = Clients(service.port, CLIENTS), time.perf_counter() + seconds, 0

    async def client() -> None:
        nonlocal number
        while time.perf_counter() < end:
            await clients.ask(mixture.next())
            number += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    clients.close()
    return number / seconds


async def soak_of(service: Service, options: argparse.Namespace, document: dict[str, Any]) -> None:
    """Load a service for a long time, and add the figures to the document every minute."""
    mixture, soak = Mixture(service, words_of(options.words, 400)), Soak()
    document["capacity_per_second"] = await capacity_for(service, mixture, options.calibrate)
    rate = document["rate"] = UTILISATION * document["capacity_per_second"]
    print(f"{rate:,.0f} requests per second", file=sys.stderr, flush=True)
    clients = Clients(service.port, options.connections)
    minutes = document["minutes"] = []

    async def note() -> None:
        while True:
            await asyncio.sleep(60 * options.minute)
            minutes.append(soak.minute(service))
            document.update(soak.as_json())
            write(options.json, document)
            print(json.dumps({"minute": len(minutes), **minutes[-1]}), file=sys.stderr, flush=True)

    seconds = 3600 * options.hours if options.hours else 60 * options.minutes
    noting = asyncio.create_task(note())
    late = await arrivals(clients, rate, seconds + 0.5, mixture.next, soak.add)
    noting.cancel()
    end = time.perf_counter() + 60
    while clients.busy and time.perf_counter() < end:
        await asyncio.sleep(0.05)
    document.update(soak.as_json(), unanswered=clients.busy, sent=len(late), sent_late_ms=quantiles(late))
    document["log"] = Path(service.log.name).read_text().splitlines()[-20:]


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Start a service and load it for a long time."""
    document = conditions()
    with freerun_service({MODEL: options.model}, "--workers", str(options.workers), core=core_of(options)) as service:
        pin(CLIENT_CORE)
        asyncio.run(soak_of(service, options, document))
    return document


def soak_table(document: Mapping[str, Any]) -> str:
    """Return the figures of a soak in Markdown: every tenth of its minutes."""
    minutes = document["minutes"]
    step = max(1, len(minutes) // 10)
    chosen = sorted({1, *range(step - 1, len(minutes), step), len(minutes) - 1} & set(range(len(minutes))))
    rows = []
    for number in chosen:
        each = minutes[number]
        supervisor, *workers = (f"{value:.1f}" for value in each["mebibytes"].values())
        files = " + ".join(map(str, each["open_files"].values()))
        requests = f"{sum(each['requests'].values()):,}"
        row = [str(number + 1), requests, f"{each['ms']['median']:.1f}", f"{each['ms']['99 %']:.1f}"]
        rows.append([*row, supervisor, " + ".join(workers), files])
    head = ["minute", "requests", "median, ms", "99 %, ms", "supervisor, MiB", "workers, MiB", "open files"]
    second, last = (sum(minutes[n]["mebibytes"].values()) for n in (min(1, len(minutes) - 1), -1))
    total = sum(sum(each["requests"].values()) for each in minutes)
    load = (
        f"{document['rate']:,.0f} requests per second of {document['capacity_per_second']:,.0f}; "
        f"{len(minutes)} minutes, {total:,} requests."
    )
    failures = "".join(f", {name} ({number})" for name, number in document["failures"].items())
    end = (
        f"Failed: {sum(document['failures'].values())}{failures}. "
        f"Answers with other outputs than before: {document['different_outputs']}. "
        f"Memory of all processes: {second:.1f} MiB after the second minute, {last:.1f} MiB in the end "
        f"({100 * (last / second - 1):+.1f} %)."
    )
    return "\n\n".join([load, markdown(head, rows), end])


def write(path: Path | None, document: Mapping[str, Any]) -> None:
    """Write the figures so far, so that a reader sees a whole file at any time."""
    if path is not None:
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(temporary, path)
