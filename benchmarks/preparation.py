"""Measures the preparation of large data, and how training starts from it.

    python benchmarks/preparation.py --pairs 10000000 --work DIR [--processes 2] [--json FILE] [--keep]

Writes synthetic pairs of about 10 source characters and 10 target symbols (a tenth of the sources has several targets),
prepares them with the command line, and trains on the result: with one process and two, from the start and resumed in
the middle of an epoch. Reported are pairs per second and core of the whole preparation (pairs / (seconds x cores)), the
largest sum of all processes' anonymous memory (RssAnon of /proc), the seconds until the first update, and the pairs per
second of training beside those of a small corpus of the same kind. Nothing else may run. POSIX with /proc only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
SYMBOLS = np.frombuffer(
    "".join(f"{first}{second} " for first in "ABDEFGHIJKLM" for second in "AEH").encode(), np.uint8
).reshape(-1, 3)
LONGEST = 14
CHUNK = 500_000
SETTINGS = [
    "model.hidden_size=256",
    "model.num_layers=1",
    "model.embedding_size=128",
    "training.batch_size=64",
    "training.updates=300",
    "evaluation.every=0",
    "evaluation.max_sources=50",
]


# -- the pairs ---------------------------------------------------------------------------------------------------------


def write_pairs(path: Path, pairs: int) -> None:
    """Write synthetic pairs to a TSV file."""
    random = np.random.default_rng(0)
    known = random.choice(LETTERS, (200_000, LONGEST)), random.integers(6, LONGEST + 1, 200_000)
    with path.open("wb") as file:
        for start in range(0, pairs, CHUNK):
            file.write(_chunk(min(CHUNK, pairs - start), random, known))


def _chunk(size: int, random: np.random.Generator, known: tuple[Any, Any]) -> bytes:
    sources, source_lengths = random.choice(LETTERS, (size, LONGEST)), random.integers(6, LONGEST + 1, size)
    again = np.flatnonzero(random.random(size) < 0.1)
    chosen = random.integers(0, len(known[0]), len(again))
    sources[again], source_lengths[again] = known[0][chosen], known[1][chosen]
    targets = random.choice(SYMBOLS, (size, LONGEST)).reshape(size, -1)
    target_lengths = 3 * random.integers(6, LONGEST + 1, size) - 1
    ends = np.full((size, 1), 9, np.uint8), np.full((size, 1), 10, np.uint8)
    together = np.concatenate([sources, ends[0], targets, ends[1]], axis=1)
    inside = np.concatenate(
        [
            np.arange(LONGEST) < source_lengths[:, None],
            np.ones((size, 1), np.bool_),
            np.arange(3 * LONGEST) < target_lengths[:, None],
            np.ones((size, 1), np.bool_),
        ],
        axis=1,
    )
    return together[inside].tobytes()


# -- processes ---------------------------------------------------------------------------------------------------------


class Memory:
    """The largest sum, over a process and its descendants, of anonymous and of all resident memory, in MB."""

    def __init__(self, process: int) -> None:
        self._process, self.anonymous, self.resident = process, 0.0, 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.2):
            found = [_memory(each) for each in _family(self._process)]
            self.anonymous = max(self.anonymous, sum(each[0] for each in found))
            self.resident = max(self.resident, sum(each[1] for each in found))


def _family(process: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    family = [process]
    for each in family:
        family += parents.get(each, [])
    return family


def _memory(process: int) -> tuple[float, float]:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    values = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    anonymous = int(values.get("RssAnon", 0))
    return anonymous / 1000, (anonymous + int(values.get("RssFile", 0)) + int(values.get("RssShmem", 0))) / 1000


def run(arguments: Sequence[str], until: Callable[[], bool] | None = None) -> dict[str, float]:
    """Run freerun; return its seconds and memory. ``until``: it is watched, and the seconds until it is True, too."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "freerun", *arguments], stderr=subprocess.PIPE, text=True)
    memory = Memory(process.pid)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
    reader.start()
    seen = 0.0
    while process.poll() is None:
        if until is not None and not seen and until():
            seen = time.perf_counter() - start
        time.sleep(0.02)
    reader.join()
    memory.stop()
    if process.returncode not in (0, 143):
        sys.exit("".join(lines[-20:]))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "first": seen, "anonymous": memory.anonymous, "resident": memory.resident}


def events(directory: Path) -> list[dict[str, Any]]:
    """Return the events of a run's journal so far."""
    path = directory / "journal.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def train(data: Path, out: Path, processes: int, *more: str) -> dict[str, float]:
    """Train; return seconds until the first update, memory, and pairs per second from then on."""
    settings = [*SETTINGS, "training.journal_every=1", "training.checkpoint_every=150", *more]
    options = [part for setting in settings for part in ("--set", setting)]
    before = len([event for event in events(out) if event["event"] == "update"])
    resumes = ["--resume"] if out.exists() else []

    def has_updated() -> bool:
        return len([event for event in events(out) if event["event"] == "update"]) > before

    figures = run(
        ["train", str(data), "--out", str(out), "--processes", str(processes), *options, *resumes], has_updated
    )
    updates = [event["pairs_per_second"] for event in events(out) if event["event"] == "update"]
    return {**figures, "pairs_per_second": statistics.median(updates[before + 20 :])}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--work", type=Path, required=True, help="directory for pairs and prepared data")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--keep", action="store_true", help="keep what is in the directory, and use it")
    parser.add_argument("--only-prepare", action="store_true", help="do not train")
    options = parser.parse_args()
    work: Path = options.work
    if not options.keep:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    large, small = work / "pairs.tsv", work / "small.tsv"
    if not large.exists():
        write_pairs(large, options.pairs)
    if not small.exists():
        write_pairs(small, min(options.pairs, 100_000))
    found: dict[str, Any] = {"pairs": options.pairs, "bytes": large.stat().st_size, "cores": os.cpu_count()}
    prepared = work / "prepared"
    if not (prepared / "manifest.json").exists():
        tokens = ["--source-tokens", "char", "--target-tokens", "whitespace"]
        figures = run(
            ["data", "prepare", str(large), "--out", str(prepared), "--processes", str(options.processes), *tokens]
        )
        figures["per_core"] = options.pairs / figures["seconds"] / (os.cpu_count() or 1)
        found["prepare"] = figures
        print(json.dumps({"prepare": figures}), flush=True)
    for processes in () if options.only_prepare else (1, 2):
        for name, data in (("small", small), ("prepared", prepared)):
            out = work / f"run-{name}-{processes}"
            shutil.rmtree(out, ignore_errors=True)
            found[f"{name}, {processes}"] = train(data, out, processes)
            print(json.dumps({f"{name}, {processes}": found[f"{name}, {processes}"]}), flush=True)
        out = work / f"run-prepared-{processes}"
        found[f"resumed, {processes}"] = train(prepared, out, processes, "training.updates=400")
        print(json.dumps({f"resumed, {processes}": found[f"resumed, {processes}"]}), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
