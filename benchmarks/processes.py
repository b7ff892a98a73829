"""Measures what a second core gives: two threads in one training, and two processes, beside two independent trainings.

    python benchmarks/processes.py [--json] [--rounds 5] [--updates 20] [--hidden 256] [--pairs FILE]

The ceiling is what the machine can give: the pairs per second of two independent trainings at once, summed, divided by
those of one alone. Every training is a process with the environment that the command line sets, and waits until it is
its turn; the kinds take turns in every round, and medians of the rounds are compared. Nothing else may run.

The two processes share every update, of two batches; what adding up their gradients takes is measured, too: in all,
with the time that a process waits for the other one, and in bytes. Two more processes have half of the batch each, so
that their updates are as large as those of two threads.

LSTM, one layer, batches of 64 per process, on the built-in CMUdict: without attention, and with the attention that is
chosen without a configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from updates import arguments, config_of, first_batches, prepared

from freerun.build import build_learner, model_sizes, new_model, order_of
from freerun.cli import set_wait_policy
from freerun.config import Config
from freerun.distributed.rendezvous import joined
from freerun.training.order import BatchOrder

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "no attention": {"attention": "none"},
    "default attention": {"attention": "bahdanau", "bidirectional": True},
}
ONE, TWO_AT_ONCE, TWO_THREADS, TWO_PROCESSES = "one alone", "two at once", "two threads", "two processes"
HALF_BATCHES = "two processes, half batches"
BATCH = 64


def configs(options: argparse.Namespace, processes: int) -> Callable[[Path], dict[str, Config]]:
    """Return a function from the pairs to the configuration of each network."""
    return lambda pairs: {
        name: config_of(
            pairs, options.hidden, {"num_layers": 1, **model}, {"batch_size": BATCH, "accumulate": processes}
        )
        for name, model in NETWORKS.items()
    }


# -- a training, in a process of its own -------------------------------------------------------------------------------


def work(options: argparse.Namespace) -> None:
    """Train on request: for each line on standard input, which names a network, write the figures as JSON."""
    import torch

    torch.set_num_threads(options.work)
    with joined(60) as ranks:
        made, data = prepared(options.pairs, configs(options, ranks.size))
        order = order_of(next(iter(made.values())).training, data.corpus)
        # the batches that two processes share, for all kinds: others would have other lengths
        shared = BatchOrder(data.corpus, 1, options.batch, None, together=max(2, ranks.size))
        batches = list(first_batches(shared, options.updates * max(2, ranks.size)))[ranks.rank :: max(2, ranks.size)]
        learners = {
            name: build_learner(
                config, new_model(config, model_sizes(config.model, data.source, data.target)), order, ranks
            )
            for name, config in made.items()
        }
        if options.network:
            ranks.processes = ()  # then nothing is added up in shared memory
            ranks.add_up = through_network(ranks.add_up, options.network, ranks.size)
        pairs, number, adding = sum(batch.num_pairs for batch in batches), 0, Stopwatch()
        ranks.add_up = adding.timed(ranks.add_up)
        print("ready", flush=True)
        for line in sys.stdin:
            adding.seconds, start = 0.0, time.perf_counter()
            for batch in batches:
                number += 1
                learners[line.strip()].update(number, [batch])
            seconds = time.perf_counter() - start
            milliseconds = {"update": seconds, "adding": adding.seconds}
            figures = {"pairs_per_second": pairs / seconds, "bytes": adding.bytes}
            each = {name: 1000 * value / len(batches) for name, value in milliseconds.items()}
            print(json.dumps({**figures, **each}), flush=True)


def through_network(function: Callable[..., Any], gbits: float, ranks: int) -> Callable[..., Any]:
    """Return the function, slowed down by what its bytes would take on a network of so many Gbit/s.

    Each process sends its gradients but its own share, and then its share to all others.
    """

    def call(tensors: Sequence[Any], *arguments: Any) -> Any:
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        time.sleep(2 * (ranks - 1) / ranks * size * 8 / (gbits * 1e9))
        return function(tensors, *arguments)

    return call


class Stopwatch:
    """Adds up the time of a function's calls."""

    def __init__(self) -> None:
        self.seconds, self.bytes = 0.0, 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with the time of each call added up."""

        def call(tensors: Sequence[Any], *arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(tensors, *arguments)
            self.seconds += time.perf_counter() - start
            self.bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            return result

        return call


class Worker:
    """A process that trains on request; ``place``: the variables of one of several processes."""

    def __init__(
        self, options: argparse.Namespace, threads: int, place: Mapping[str, str] | None = None, batch: int = BATCH
    ) -> None:
        command = [sys.executable, __file__, "--work", str(threads), "--hidden", str(options.hidden)]
        command += ["--batch", str(batch)]
        command += ["--updates", str(options.updates), *(["--pairs", str(options.pairs)] if options.pairs else [])]
        command += ["--network", str(options.network)] if options.network and place else []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(place or {})}
        )

    def ask(self, network: str) -> None:
        """Start the updates of a network."""
        assert self._process.stdin is not None
        self._process.stdin.write(network + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Wait for the updates, and return what the process wrote."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            sys.exit("a training ended before its time")
        return line

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()


# -- the comparison ----------------------------------------------------------------------------------------------------


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def figures_of(workers: Sequence[Worker], network: str) -> list[dict[str, float]]:
    """Return the figures of several trainings at once."""
    for worker in workers:
        worker.ask(network)
    return [json.loads(worker.answer()) for worker in workers]


def two_ranks(options: argparse.Namespace, batch: int) -> list[Worker]:
    """Return two processes that share updates, with batches of so many pairs each."""
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [Worker(options, 1, {**meeting, "RANK": str(rank)}, batch) for rank in range(2)]


def measured(options: argparse.Namespace) -> dict[str, dict[str, list[list[dict[str, float]]]]]:
    """Return network -> kind -> for each round the figures of each process."""
    one, other, both = Worker(options, 1), Worker(options, 1), Worker(options, 2)
    ranks, halves = two_ranks(options, BATCH), two_ranks(options, BATCH // 2)
    for worker in (one, other, both, *ranks, *halves):
        worker.answer()
    kinds = {ONE: [one], TWO_AT_ONCE: [one, other], TWO_THREADS: [both], TWO_PROCESSES: ranks, HALF_BATCHES: halves}
    found: dict[str, dict[str, list[Any]]] = {network: {kind: [] for kind in kinds} for network in NETWORKS}
    for number in range(options.rounds + 1):
        for network, rounds in found.items():
            for kind, workers in kinds.items():
                figures = figures_of(workers, network)
                if number:  # the first round warms up
                    rounds[kind].append(figures)
    for worker in (one, other, both, *ranks, *halves):
        worker.close()
    return found


def throughput(figures: Sequence[Mapping[str, float]]) -> float:
    """Return the pairs per second of all processes."""
    return sum(each["pairs_per_second"] for each in figures)


def as_text(found: Mapping[str, Mapping[str, Sequence[Sequence[Mapping[str, float]]]]]) -> str:
    """Return the medians, and the ratios of rounds, as a table in Markdown."""
    lines = [
        "| network | kind | pairs/s | of one alone | of the ceiling | adding up, per update |",
        "|---|---|---|---|---|---|",
    ]
    for network, rounds in found.items():
        alone, ceiling = ([throughput(each) for each in rounds[kind]] for kind in (ONE, TWO_AT_ONCE))
        for kind, figures in rounds.items():
            speeds = [throughput(each) for each in figures]
            times, of_ceiling = (
                statistics.median(a / b for a, b in zip(speeds, others, strict=True)) for others in (alone, ceiling)
            )
            adding = ""
            if kind in (TWO_PROCESSES, HALF_BATCHES):
                parts = [statistics.median(each[0][key] for each in figures) for key in ("adding", "update", "bytes")]
                adding = f"{parts[0]:.1f} of {parts[1]:.1f} ms, {parts[2] / 1e6:.1f} MB"
            speed = f"{statistics.median(speeds):,.0f}"
            lines.append(f"| {network} | {kind} | {speed} | {times:.2f} x | {of_ceiling:.2f} | {adding} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print, or train for another process that measures."""
    parser = arguments(__doc__)
    parser.add_argument("--work", type=int, metavar="THREADS", help="train for a process that measures")
    parser.add_argument("--batch", type=int, metavar="PAIRS", help="of a process that trains", default=BATCH)
    parser.add_argument("--network", type=float, metavar="GBITS", help="pretend that a network is between processes")
    options = parser.parse_args()
    set_wait_policy(os.environ)
    if options.work:
        work(options)
        return
    found = measured(options)
    print(json.dumps(found, indent=1) if options.json else as_text(found))


if __name__ == "__main__":
    main()
