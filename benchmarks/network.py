"""What a network costs: expected efficiency of 2 to 256 processes, and a check of the model behind it.

    python benchmarks/network.py [--json] [--rounds 3] [--updates 20] [--hidden 256] [--pairs FILE]

The model: an update takes ``compute + sum + 2 (R - 1) / R * bytes / bandwidth + 2 (R - 1) * message`` with R processes,
one on each machine. ``compute`` is the time without others; ``sum``, what adding up takes beside the network; both are
measured here. ``message`` is assumed. Efficiency is compute / update.

The check: 2 and 4 processes on this machine, which add up through gloo over a loopback interface that is slowed down to
1 or 10 Gbit/s for each of them (``tc qdisc ... tbf``, as root). Where that is not possible, they sleep for as long as
such a network would take. On two cores 4 processes compute more slowly, so the check compares with as many independent
trainings at once. Nothing else may run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from processes import NETWORKS, Worker, figures_of, free_port
from updates import arguments

MESSAGE = 50e-6
"""Seconds per message: an assumption for Ethernet, with what gloo adds."""
UNLIMITED = 1e9
"""Gbit/s of a network that takes no time."""
SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
SPEEDS = (1.0, 10.0, 100.0)
"""Gbit/s."""
CHECKED = ((2, 1.0), (2, 10.0), (4, 1.0), (4, 10.0))


def seconds_on_network(size: int, count: float, gbits: float, message: float = MESSAGE) -> float:
    """Return the seconds that gradients of ``count`` bytes travel in an update of ``size`` processes."""
    return 2 * (size - 1) * (count * 8 / (size * gbits * 1e9) + message)


def medians(rounds: list[list[Mapping[str, float]]], key: str) -> float:
    """Return the median over rounds of the mean over processes."""
    return statistics.median(statistics.mean(each[key] for each in figures) for figures in rounds)


@contextlib.contextmanager
def slow_loopback(gbits: float) -> Iterator[bool]:
    """Slow down the loopback interface to so many Gbit/s within the block; False if this user cannot."""
    kind = ["root", "tbf", "rate", f"{round(gbits * 1000)}mbit", "burst", "256kb", "latency", "400ms"]
    try:
        done = subprocess.run(["tc", "qdisc", "add", "dev", "lo", *kind], capture_output=True, check=False)
        can = done.returncode == 0
    except OSError:
        can = False
    try:
        yield can
    finally:
        if can:
            subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)


def measured(options: argparse.Namespace, size: int, gbits: float | None) -> dict[str, list[Any]]:
    """Return network -> for each round the figures of each of ``size`` processes; None: each trains on its own."""
    options.network = gbits
    port = str(free_port())
    places = [
        {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(n)} for n in range(size)
    ]
    workers = [Worker(options, 1, place if gbits else None) for place in places]
    for worker in workers:
        worker.answer()
    found: dict[str, list[Any]] = {network: [] for network in NETWORKS}
    for number in range(options.rounds + 1):
        for network, rounds in found.items():
            figures = figures_of(workers, network)
            if number:  # the first round warms up
                rounds.append(figures)
    for worker in workers:
        worker.close()
    return found


def check(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return measured and expected milliseconds per update of 2 and 4 processes."""
    rows = []
    for size in sorted({size for size, _ in CHECKED}):
        alone, quick = measured(options, size, None), measured(options, size, UNLIMITED)
        for gbits in [speed for checked, speed in CHECKED if checked == size]:
            with slow_loopback(size * gbits) as is_slow:  # all send through one interface
                slow = measured(options, size, UNLIMITED if is_slow else gbits)
            for network in NETWORKS:
                compute, count = medians(alone[network], "update"), medians(slow[network], "bytes")
                summing = medians(quick[network], "update") - compute
                expected = compute + summing + 1000 * seconds_on_network(size, count, gbits, 0.0)
                found = medians(slow[network], "update")
                names = ("network", "size", "gbits", "compute", "sum", "expected", "found", "bytes", "real")
                values = (network, size, gbits, compute, summing, expected, found, count, is_slow)
                rows.append(dict(zip(names, values, strict=True)))
    return rows


def expectations(rows: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Return network -> speed -> the efficiency of each size, from what 2 processes measured."""
    tables = {}
    for network in NETWORKS:
        first = next(row for row in rows if row["network"] == network and row["size"] == 2)
        tables[network] = [
            [
                first["compute"]
                / (first["compute"] + first["sum"] + 1000 * seconds_on_network(size, first["bytes"], gbits))
                for size in SIZES
            ]
            for gbits in SPEEDS
        ]
    return tables


def as_text(rows: list[dict[str, Any]]) -> str:
    """Return both tables in Markdown."""
    head = "| network | processes | Gbit/s | alone, at once | sums | expected | found | found / expected |"
    lines = [head, "|" + "---|" * 8]
    for row in rows:
        times = " | ".join(f"{row[name]:.1f} ms" for name in ("compute", "sum", "expected", "found"))
        place = f"{row['network']} | {row['size']} | {row['gbits']:g}, {'tc' if row['real'] else 'asleep'}"
        lines.append(f"| {place} | {times} | {row['found'] / row['expected']:.2f} |")
    for network, table in expectations(rows).items():
        lines += ["", f"| {network} | " + " | ".join(map(str, SIZES)) + " |", "|" + "---|" * (len(SIZES) + 1)]
        lines += [
            f"| {gbits:g} Gbit/s | " + " | ".join(f"{value:.2f}" for value in values) + " |"
            for gbits, values in zip(SPEEDS, table, strict=True)
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__).parse_args()
    rows = check(options)
    print(json.dumps({"check": rows, "efficiency": expectations(rows)}, indent=1) if options.json else as_text(rows))


if __name__ == "__main__":
    main()
