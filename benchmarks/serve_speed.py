"""Measures ``freerun serve``: requests per second, what HTTP costs, and what batches give.

    python benchmarks/serve_speed.py --a MODEL --b MODEL --words FILE [--seconds 6] [--rounds 5] [--json OUT]
    python benchmarks/serve_speed.py --tables OUT

Model A is small, exported with int8, and searched greedily: its requests show what HTTP costs. Model B has a beam of 5:
its requests show what batches give, next to a plain handler in Starlette (``plain_handler.py``). The service has one
worker, on core 0; wrk is on core 1. ``Predictor.predict`` and ``predict_batch`` are measured in processes on core 0
that have nothing else to do. All take turns in every round, and medians of the rounds are reported. Nothing else may
run. Linux, with wrk installed. ``--tables`` prints the tables of a former measurement.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from serve_tables import MANY, SIZES, SOME, Figures, as_text
from service_process import (
    BEAM,
    SERVER_CORE,
    Service,
    conditions,
    free_port,
    freerun_service,
    on_core,
    words_of,
    wrk,
)

# -- a predictor in a process of its own -------------------------------------------------------------------------------


def work(options: argparse.Namespace) -> None:
    """Predict on request: for each line on standard input, the number of texts in a call, write the figures as JSON."""
    import freerun
    from freerun.search.methods import Beam

    predictor = freerun.load(options.work, threads=1, precision=options.precision)
    search = Beam(options.beam_size, 1)
    words = words_of(options.words, options.texts)
    predictor.predict_batch(words, search)
    print("ready", flush=True)
    for line in sys.stdin:
        calls = list(chunks(words, int(line)))
        times: list[float] = []
        end = time.perf_counter() + options.seconds
        while time.perf_counter() < end:
            call = calls[len(times) % len(calls)]
            start = time.perf_counter()
            if len(call) == 1:
                predictor.predict(call[0], search)
            else:
                predictor.predict_batch(call, search)
            times.append(1e6 * (time.perf_counter() - start))
        print(json.dumps({"mean_us": statistics.mean(times), "median_us": statistics.median(times)}), flush=True)


class Alone:
    """A process that predicts on request, on the service's core."""

    def __init__(self, model: Path, precision: str, beam: int, options: argparse.Namespace) -> None:
        command = [
            *on_core(SERVER_CORE),
            sys.executable,
            __file__,
            "--work",
            str(model),
            "--precision",
            precision,
            "--beam-size",
            str(beam),
        ]
        command += ["--words", str(options.words), "--seconds", str(options.seconds / 3), "--texts", str(options.texts)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit("a predictor ended before its time")
        return line

    def measured(self, size: int) -> Figures:
        """Return microseconds per call with so many texts."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{size}\n")
        self._process.stdin.flush()
        figures: Figures = json.loads(self._answer())
        return figures

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def chunks(words: Sequence[str], size: int) -> Iterator[list[str]]:
    """Yield the words in lists of this size, as many as are full."""
    for first in range(0, len(words) - size + 1, size):
        yield list(words[first : first + size])


def bodies(words: Sequence[str], size: int, **values: Any) -> list[str]:
    """Return requests with so many texts each."""
    return [json.dumps({"texts": texts, **values}) for texts in chunks(words, size)]


# -- the two measurements ----------------------------------------------------------------------------------------------


class HttpCost:
    """Model A: what a request costs beyond its prediction."""

    def __init__(self, options: argparse.Namespace, opened: ExitStack) -> None:
        self._options = options
        self._words = words_of(options.words, options.texts)
        self._alone = Alone(options.a, "int8", 1, options)
        opened.callback(self._alone.close)
        queue = str(2 * MANY * SIZES[-1])  # room for a request of every client: none is refused
        self._service = opened.enter_context(freerun_service({"a": options.a}, "--precision", "int8", "--queue", queue))

    def round(self) -> dict[str, Figures]:
        """Measure everything once."""
        seconds = self._options.seconds
        found = {}
        for connections in (1, MANY):
            found[f"live, {connections}"] = wrk(self._service, "/live", [], connections, seconds)
        for size in SIZES:
            found[f"alone, {size} texts"] = self._alone.measured(size)
            for connections in (1, SOME, MANY) if size == 1 else (1, SOME):
                each = seconds if size == 1 else seconds / 2
                found[f"{size} texts, {connections}"] = wrk(
                    self._service, "/v1/models/a/predict", bodies(self._words, size), connections, each
                )
        return found


class Batches:
    """Model B: what batches give."""

    def __init__(self, options: argparse.Namespace, opened: ExitStack) -> None:
        self._options = options
        self._words = words_of(options.words, options.texts)
        self._alone = Alone(options.b, "fp32", BEAM, options)
        opened.callback(self._alone.close)
        self._service = opened.enter_context(freerun_service({"b": options.b}))
        port = free_port()
        script = Path(__file__).with_name("plain_handler.py")
        command = [str(script), str(options.b), "--port", str(port), "--beam-size", str(BEAM)]
        self._plain = Service(command, SERVER_CORE, port)
        opened.callback(self._plain.close)
        self._check()

    def _check(self) -> None:
        """Make sure that both answer with the same outputs."""
        request = {"texts": self._words[:20]}
        mine = self._service.post("/v1/models/b/predict", {**request, "beam_size": BEAM})
        other = self._plain.post("/predict", request)
        mine, other = ([each["hypotheses"][0]["text"] for each in answer["predictions"]] for answer in (mine, other))
        if mine != other:
            sys.exit("the service and the plain handler give different outputs")

    def round(self) -> dict[str, Figures]:
        """Measure everything once."""
        found = {f"alone, {size} texts": self._alone.measured(size) for size in (1, MANY, 512)}
        for connections in (1, MANY):
            found[f"service, {connections}"] = wrk(
                self._service,
                "/v1/models/b/predict",
                bodies(self._words, 1, beam_size=BEAM),
                connections,
                self._options.seconds,
            )
            found[f"plain, {connections}"] = wrk(
                self._plain, "/predict", bodies(self._words, 1), connections, self._options.seconds
            )
        return found


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of all rounds: measurement -> contender -> a list."""
    found: dict[str, dict[str, list[Figures]]] = {"a": {}, "b": {}}
    with ExitStack() as opened:
        contenders = {"a": HttpCost(options, opened), "b": Batches(options, opened)}
        for number in range(options.rounds):
            for name, contender in contenders.items():
                for kind, figures in contender.round().items():
                    found[name].setdefault(kind, []).append(figures)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure and print, or predict for another process that measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", type=Path, help="a model exported with int8, searched greedily")
    parser.add_argument("--b", type=Path, help=f"a model searched with a beam of {BEAM}")
    parser.add_argument("--words", type=Path, help="texts: the first column of this file")
    parser.add_argument("--texts", type=int, default=1024, help="different texts [1024]")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement in a round [6]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--tables", type=Path, help="print the tables of this file")
    parser.add_argument("--work", type=Path, metavar="MODEL", help="predict for a process that measures")
    parser.add_argument("--precision", default="fp32", help="of a process that predicts")
    parser.add_argument("--beam-size", type=int, default=1, help="of a process that predicts")
    options = parser.parse_args()
    if options.tables:
        print(as_text(json.loads(options.tables.read_text())))
        return
    if options.work:
        work(options)
        return
    if not (options.a and options.b and options.words):
        parser.error("--a, --b and --words are required")
    document = {**conditions(), "figures": measured(options)}
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(as_text(document))


if __name__ == "__main__":
    main()
