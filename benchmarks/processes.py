"""Measures what a second core gives: two threads in one training, beside two trainings of one thread each.

    python benchmarks/processes.py [--json] [--rounds 5] [--updates 20] [--hidden 256] [--pairs FILE]

The ceiling is what the machine can give: the pairs per second of two independent trainings at once, summed, divided by
those of one alone. Every training is a process with the environment that the command line sets, and waits until it is
its turn; the kinds take turns in every round, and medians of the rounds are compared. Nothing else may run.

LSTM, one layer, batches of 64 per process, on the built-in CMUdict: without attention, and with the attention that is
chosen without a configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from updates import arguments, config_of, first_batches, new_learner, prepared

from freerun.build import order_of
from freerun.cli import set_wait_policy
from freerun.config import Config

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "no attention": {"attention": "none"},
    "default attention": {"attention": "bahdanau", "bidirectional": True},
}
ONE, TWO_AT_ONCE, TWO_THREADS = "one alone", "two at once", "two threads"


def configs(options: argparse.Namespace) -> Callable[[Path], dict[str, Config]]:
    """Return a function from the pairs to the configuration of each network."""
    return lambda pairs: {
        name: config_of(pairs, options.hidden, {"num_layers": 1, **model}, {"batch_size": 64})
        for name, model in NETWORKS.items()
    }


# -- a training, in a process of its own -------------------------------------------------------------------------------


def work(options: argparse.Namespace) -> None:
    """Train on request: for each line on standard input, which names a network, write the pairs per second."""
    import torch

    torch.set_num_threads(options.work)
    made, data = prepared(options.pairs, configs(options))
    order = order_of(next(iter(made.values())).training, data.corpus)
    batches = list(first_batches(order, options.updates))
    learners = {name: new_learner(config, data, order) for name, config in made.items()}
    pairs, number = sum(batch.num_pairs for batch in batches), 0
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for batch in batches:
            number += 1
            learners[line.strip()].update(number, [batch])
        print(pairs / (time.perf_counter() - start), flush=True)


class Worker:
    """A process that trains on request."""

    def __init__(self, options: argparse.Namespace, threads: int) -> None:
        command = [sys.executable, __file__, "--work", str(threads), "--hidden", str(options.hidden)]
        command += ["--updates", str(options.updates), *(["--pairs", str(options.pairs)] if options.pairs else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

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
        self._process.communicate()


# -- the comparison ----------------------------------------------------------------------------------------------------


def throughput(workers: Sequence[Worker], network: str) -> float:
    """Return the pairs per second of several trainings at once, summed."""
    for worker in workers:
        worker.ask(network)
    return sum(float(worker.answer()) for worker in workers)


def measured(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return network -> kind -> the pairs per second of each round."""
    one, other, both = Worker(options, 1), Worker(options, 1), Worker(options, 2)
    kinds = {ONE: [one], TWO_AT_ONCE: [one, other], TWO_THREADS: [both]}
    found: dict[str, dict[str, list[float]]] = {network: {kind: [] for kind in kinds} for network in NETWORKS}
    for number in range(options.rounds + 1):
        for network, rounds in found.items():
            for kind, workers in kinds.items():
                value = throughput(workers, network)
                if number:  # the first round warms up
                    rounds[kind].append(value)
    for worker in (one, other, both):
        worker.close()
    return found


def as_text(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return the medians, and the ratios of rounds, as a table in Markdown."""
    lines = ["| network | one alone | two at once | two threads | ceiling | two threads / one | of the ceiling |"]
    lines.append("|---|---|---|---|---|---|---|")
    for network, rounds in found.items():
        values = [f"{statistics.median(each):,.0f} pairs/s" for each in rounds.values()]
        ceiling, threads = (
            statistics.median(a / b for a, b in zip(rounds[kind], rounds[ONE], strict=True))
            for kind in (TWO_AT_ONCE, TWO_THREADS)
        )
        lines.append(
            f"| {network} | {' | '.join(values)} | {ceiling:.2f} x | {threads:.2f} x | {threads / ceiling:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print, or train for another process that measures."""
    parser = arguments(__doc__)
    parser.add_argument("--work", type=int, metavar="THREADS", help="train for a process that measures")
    options = parser.parse_args()
    set_wait_policy(os.environ)
    if options.work:
        work(options)
        return
    found = measured(options)
    print(json.dumps(found, indent=1) if options.json else as_text(found))


if __name__ == "__main__":
    main()
