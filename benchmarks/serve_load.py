"""Loads ``freerun serve`` with more than it can answer, or for a long time.

    python benchmarks/serve_load.py overload --model MODEL --words FILE [--factor 10] [--seconds 60] [--json OUT]
    python benchmarks/serve_load.py soak --model MODEL --words FILE [--minutes 20 | --hours H] [--json OUT]
    python benchmarks/serve_load.py tables OUT [OUT ...]

``overload``: requests with one text and a beam of 5 arrive at a fixed rate, whether or not former ones were answered:
``--factor`` times what the service can answer, which wrk measures before with 64 connections. Reported are statuses,
latencies from the sending of a request to the end of its answer, memory, and how long after the end of the load the
latency of a probe is at most twice its former median.

``soak``: requests of every kind arrive at 70 % of the rate that 64 clients reach with them. Reported are those that
were not answered as expected, answers with other outputs than the same request had before, and memory and open files
every minute. The file of ``--json`` is written anew every minute, so a run that is killed leaves its figures.

The service has one worker on core 0, unless ``--workers`` says otherwise; the client is on core 1. Nothing else may
run. Linux, with wrk installed. ``tables`` prints the tables of former measurements.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from http_client import Answer, Clients, Request
from service import (
    CLIENT_CORE,
    SERVER_CORE,
    Service,
    conditions,
    freerun_service,
    markdown,
    open_files,
    pin,
    resident_mebibytes,
    words_of,
    wrk,
)

BEAM = 5
CLIENTS = 64
MODEL = "model"
PREDICT = f"/v1/models/{MODEL}/predict"
SCORE = f"/v1/models/{MODEL}/score"
UTILISATION = 0.7
"""Of the measured capacity, in a soak."""
QUANTILES = {"median": 0.5, "90 %": 0.9, "99 %": 0.99, "99.9 %": 0.999, "longest": 1.0}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return the quantiles of seconds in milliseconds."""
    ordered = sorted(values)
    return {
        name: round(1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))], 2)
        for name, part in QUANTILES.items()
        if ordered
    }


def memory(service: Service) -> dict[str, float]:
    """Return the resident MiB of each process: the supervisor's first, then the workers'."""
    return {str(process): round(resident_mebibytes(process), 2) for process in service.processes}


# -- requests at a fixed rate ------------------------------------------------------------------------------------------


async def arrivals(
    clients: Clients,
    rate: float,
    seconds: float,
    next_request: Callable[[], Request],
    answered: Callable[[Request, Answer], None],
) -> list[float]:
    """Send requests at a fixed rate, however many wait; return how late each was sent, in seconds."""
    start, number, late = time.perf_counter(), 0, []
    running: set[asyncio.Task[Answer]] = set()
    while (now := time.perf_counter() - start) < seconds:
        for each in range(number, int(now * rate)):
            late.append(now - each / rate)
            request = next_request()
            task = asyncio.create_task(clients.ask(request))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda done, request=request: answered(request, done.result()))
        number = max(number, int(now * rate))
        await asyncio.sleep(0.001)
    return late


# -- overload ----------------------------------------------------------------------------------------------------------


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
    """Return the seconds until eleven requests have a median of at most twice the former one; 120 if none do."""
    start = time.perf_counter()
    while time.perf_counter() - start < 120:
        began = time.perf_counter()
        if await probe(clients, request, 11) <= 2 * former:
            return began - start
        await asyncio.sleep(0.02)
    return 120.0


async def watched(service: Service, found: list[dict[str, Any]]) -> None:
    """Add the memory of all processes every second."""
    start = time.perf_counter()
    while True:
        found.append({"seconds": round(time.perf_counter() - start, 1), "mebibytes": memory(service)})
        await asyncio.sleep(1)


async def overload_of(service: Service, options: argparse.Namespace, capacity: float) -> dict[str, Any]:
    """Load a service, and return what happened."""
    words = words_of(options.words, 512)
    requests = [Request.of("predict", PREDICT, {"texts": [word], "beam_size": BEAM}) for word in words]
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
        bodies = [json.dumps({"texts": [word], "beam_size": BEAM}) for word in words_of(options.words, 512)]
        capacity = wrk(service, PREDICT, bodies, CLIENTS, 5)["per_second"]
        print(f"capacity: {capacity:,.0f} requests per second", file=sys.stderr, flush=True)
        pin(CLIENT_CORE)
        return asyncio.run(overload_of(service, options, capacity))


def core_of(options: argparse.Namespace) -> int | None:
    """Return the core of the service; several workers may run on all."""
    return SERVER_CORE if options.workers == 1 else None


def overload_table(figures: Mapping[str, Any]) -> str:
    """Return what happened under overload, in Markdown."""
    total = sum(figures["counts"].values())
    counts = [[name, f"{number:,}", f"{100 * number / total:.2f} %"] for name, number in figures["counts"].items()]
    times = [
        [label, *(f"{figures[key].get(name, float('nan')):,.1f}" for name in QUANTILES)]
        for label, key in (
            ("accepted (200)", "accepted_ms"),
            ("refused (503)", "refused_ms"),
            ("sent late by the client", "sent_late_ms"),
        )
    ]
    worker = [list(each["mebibytes"].values())[1:] for each in figures["memory"]]
    sums = [sum(each) for each in worker]
    return "\n\n".join(
        [
            f"{figures['rate']:,.0f} requests per second, of which {figures['capacity_per_second']:,.0f} can be "
            f"answered; {figures['sent']:,} were sent, on {figures['most_connections']:,} connections at most.",
            markdown(["answer", "requests", "fraction"], sorted(counts)),
            markdown(["ms", *QUANTILES], times),
            f"After the deadline of {figures['timeout']:g} s: {figures['after_the_deadline']} of the accepted requests. "
            f"Memory of the workers: {sums[0]:.0f} MiB before, {max(sums):.0f} MiB at most, {sums[-1]:.0f} MiB after. "
            f"A probe took {figures['probe_ms']['before']:.2f} ms before the load; "
            f"{figures['seconds_to_recover']:.2f} s after its end at most twice that, and in the end "
            f"{figures['probe_ms']['after']:.2f} ms.",
        ]
    )


# -- soak --------------------------------------------------------------------------------------------------------------


class Mixture:
    """Requests of every kind that a model can answer, and some that are refused."""

    def __init__(self, service: Service, words: Sequence[str]) -> None:
        self._details = json.loads(service.get(f"/v1/models/{MODEL}"))
        self._words, self._random = words, random.Random(1)
        known = self._details["features"]
        self._features = known["symbols"] if known else None
        predictions = service.post(PREDICT, self._texts(words))["predictions"]
        self._first = {each["source"]: each["hypotheses"][0] for each in predictions}
        self.requests = self._requests()
        self._kinds = list(self.requests)
        self._weights = [_WEIGHTS.get(kind, 1) for kind in self._kinds]

    def next(self) -> Request:
        """Return the next request."""
        (kind,) = self._random.choices(self._kinds, self._weights)
        return self._random.choice(self.requests[kind])

    def _texts(self, words: Sequence[str]) -> dict[str, Any]:
        """Return a request's texts, with features if the model needs them."""
        values: dict[str, Any] = {"texts": list(words)}
        if self._features is not None:
            values["features"] = [self._features_of(word) for word in words]
        return values

    def _features_of(self, word: str) -> list[str]:
        chosen = random.Random(word)
        return chosen.sample(self._features, min(2, len(self._features)))

    def _requests(self) -> dict[str, list[Request]]:
        found = {
            kind: [Request.of(kind, PREDICT, {**self._texts(self._some(size)), **values}) for _ in range(50)]
            for kind, (size, values) in _PREDICTED.items()
            if kind != "attention" or self._details["attention"]
        }
        found["prefix"] = [
            Request.of("prefix", PREDICT, {**self._texts([word]), "prefix": self._first[word]["tokens"][0]})
            for word in self._some(50)
            if self._first[word]["tokens"]
        ]
        found["score"] = [Request.of("score", SCORE, {"pairs": self._pairs(3)}) for _ in range(50)]
        found["stream"] = [self._stream(self._some(100)) for _ in range(20)]
        if self._features is None:
            found["translate"] = [
                Request.of(
                    "translate",
                    "/translate",
                    {"q": "\n".join(self._some(2)), "source": MODEL, "target": MODEL, "alternatives": 1},
                )
                for _ in range(50)
            ]
        found["status"] = [Request.of("status", path) for path in ("/live", "/ready", "/metrics", "/v1/models", "/")]
        found["refused"] = self._refused()
        return found

    def _some(self, number: int) -> list[str]:
        return self._random.sample(self._words, number)

    def _pairs(self, number: int) -> list[dict[str, Any]]:
        pairs = []
        for word in self._some(number):
            features = {} if self._features is None else {"features": self._features_of(word)}
            pairs.append({"source": word, "target": self._first[word]["text"], **features})
        return pairs

    def _stream(self, words: Sequence[str]) -> Request:
        lines = []
        for word in words:
            features = {} if self._features is None else {"features": self._features_of(word)}
            lines.append(json.dumps({"text": word, **features}))
        content = "".join(f"{line}\n" for line in lines).encode()
        headers = {"Accept": "application/x-ndjson", "Content-Type": "application/x-ndjson"}
        return Request.of("stream", PREDICT, content, headers=headers)

    def _refused(self) -> list[Request]:
        """Return requests with mistakes."""
        good = self._texts([self._words[0]])
        return [
            Request.of("refused", PREDICT, b"{", 400),
            Request.of("refused", PREDICT, {**good, "beam_size": 0}, 422),
            Request.of("refused", PREDICT, {**good, "beam_size": 10_000}, 422),
            Request.of("refused", PREDICT, {**good, "unknown": 1}, 422),
            Request.of("refused", PREDICT, {"texts": []}, 422),
            Request.of("refused", PREDICT, self._texts([self._words[0]] * 1001), 413),
            Request.of("refused", PREDICT, b"[" * 5000, 422),
            Request.of("refused", PREDICT, b"{}", 415, {"Content-Type": "text/plain"}),
            Request.of("refused", PREDICT, None, 405),
            Request.of("refused", "/v1/models/none/predict", good, 404),
            Request.of("refused", "/nothing", None, 404),
        ]


_PREDICTED: Mapping[str, tuple[int, Mapping[str, Any]]] = {
    "greedy": (1, {}),
    "beam": (1, {"beam_size": BEAM}),
    "n-best": (1, {"beam_size": 8, "num_hypotheses": 8, "length_penalty": 0.6}),
    "sampling": (1, {"num_hypotheses": 3, "sample": {"temperature": 0.8, "top_p": 0.9, "seed": 7}}),
    "attention": (1, {"attention": True}),
    "several texts": (20, {}),
}
"""Kinds of predictions: the number of texts, and options."""
_WEIGHTS = {"greedy": 8, "beam": 4, "score": 2}


def outputs_of(kind: str, body: bytes) -> Any:
    """Return what has to be the same whenever a request is repeated: its outputs, without scores."""
    if kind in ("status", "refused"):
        return None
    if kind == "stream":
        return [_texts(json.loads(line)) for line in body.splitlines()]
    answer = json.loads(body)
    if kind == "translate":
        return answer["translatedText"]
    if kind == "score":
        return [round(each["score"], 2) for each in answer["scores"]]
    return [_texts(each) for each in answer["predictions"]]


def _texts(prediction: Mapping[str, Any]) -> list[str]:
    return [each["text"] for each in prediction["hypotheses"]]


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
    failed = sum(document["failures"].values())
    return "\n\n".join(
        [
            f"{document['rate']:,.0f} requests per second of {document['capacity_per_second']:,.0f}; "
            f"{len(minutes)} minutes, {total:,} requests.",
            markdown(head, rows),
            f"Failed: {failed}{''.join(f', {name} ({number})' for name, number in document['failures'].items())}. "
            f"Answers with other outputs than before: {document['different_outputs']}. "
            f"Memory of all processes: {second:.1f} MiB after the second minute, {last:.1f} MiB in the end "
            f"({100 * (last / second - 1):+.1f} %).",
        ]
    )


# -- the command -------------------------------------------------------------------------------------------------------


def write(path: Path | None, document: Mapping[str, Any]) -> None:
    """Write the figures so far, so that a reader sees a whole file at any time."""
    if path is not None:
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(temporary, path)


def as_text(document: Mapping[str, Any]) -> str:
    """Return a measurement's tables in Markdown."""
    return overload_table(document["overload"]) if "overload" in document else soak_table(document)


def main() -> None:
    """Load a service, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="kind", required=True)
    for name in ("overload", "soak"):
        command = commands.add_parser(name)
        command.add_argument("--model", type=Path, required=True)
        command.add_argument("--words", type=Path, required=True, help="texts: the first column of this file")
        command.add_argument("--workers", type=int, default=1)
        command.add_argument("--connections", type=int, default=6000, help="at most [6000]")
        command.add_argument("--json", type=Path, help="write the figures to this file")
        if name == "overload":
            command.add_argument("--factor", type=float, default=10.0, help="of what can be answered [10]")
            command.add_argument("--seconds", type=float, default=60.0, help="of load [60]")
            command.add_argument("--timeout", type=float, default=5.0, help="of the service [5]")
        else:
            command.add_argument("--minutes", type=float, default=20.0)
            command.add_argument("--hours", type=float)
            command.add_argument("--calibrate", type=float, default=20.0, help="seconds to measure capacity [20]")
            command.add_argument("--minute", type=float, default=1.0, help="minutes between two samples [1]")
    commands.add_parser("tables").add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    if options.kind == "tables":
        print("\n\n".join(as_text(json.loads(each.read_text())) for each in options.files))
        return
    document = {**conditions(), "overload": overload(options)} if options.kind == "overload" else soak(options)
    write(options.json, document)
    print(as_text(document))


if __name__ == "__main__":
    main()
