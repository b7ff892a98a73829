"""Throughput and memory of training as dimensions grow, on synthetic pairs: where does cost grow faster than work?

Every setting is trained in a separate process, to measure its peak memory. One dimension is varied at a time, from
hidden 256, batch 64, vocabulary 100, length 10, 20,000 pairs and one thread. LSTM, one layer, no attention, no dropout.

    python benchmarks/scaling.py [--only hidden,batch,...] [--seconds 4] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE = {"hidden": 256, "batch": 64, "vocabulary": 100, "length": 10, "pairs": 20_000, "threads": 1}
SIZES = {
    "hidden": [64, 128, 256, 512, 1024],
    "batch": [16, 32, 64, 128, 256, 512],
    "vocabulary": [50, 500, 5_000, 32_000],
    "length": [5, 10, 50, 200],
    "pairs": [10_000, 100_000, 1_000_000, 10_000_000],
    "threads": [1, 2],
}


def write_pairs(path: Path, pairs: int, vocabulary: int, length: int) -> None:
    """Write random tokens, equally long on both sides on average, up to a fifth shorter or longer."""
    draw = random.Random(0)
    names = [f"t{number}" for number in range(vocabulary)]
    shortest, longest = int(0.8 * length), int(1.2 * length)
    # slices of one long text are as random as sampling each pair, and ten times as fast
    text = draw.choices(names, k=1_000_003)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(pairs):
            starts = draw.randrange(len(text) - longest), draw.randrange(len(text) - longest)
            sides = (" ".join(text[start : start + draw.randint(shortest, longest)]) for start in starts)
            file.write("\t".join(sides) + "\n")


def measure(size: dict[str, int], path: Path, seconds: float) -> dict[str, float]:
    """Train for some seconds, in this process, and return what was measured."""
    import torch
    from update_cost import operations
    from updates import load, new_learner

    from freerun.build import order_of
    from freerun.config import parse_config
    from freerun.forcing.registry import settings_of
    from freerun.training.progress import Progress

    torch.set_num_threads(size["threads"])
    dev = path.with_name("dev.tsv")
    dev.write_text("t1\tt1\n", encoding="utf-8")
    model = {"embedding_size": size["hidden"], "hidden_size": size["hidden"], "num_layers": 1, "dropout": 0.0}
    raw = {
        "data": {"train": str(path), "dev": str(dev), "source_tokens": "whitespace", "target_tokens": "whitespace"},
        "model": {**model, "attention": "none"},
        "training": {"batch_size": size["batch"], "threads": size["threads"]},
    }
    config = parse_config(raw, "scaling", settings_of)
    before, start = _memory(), time.perf_counter()
    data = load(config)
    order, progress = order_of(config.training, data.corpus), Progress()
    order.take(Progress())
    reading, loaded = time.perf_counter() - start, _memory()
    learner = new_learner(config, data, order)
    taken, work, pairs = [], [], []
    number, begun = 0, time.perf_counter()
    while number < 8 or time.perf_counter() - begun < seconds:
        number += 1
        batch = order.take(progress)
        start = time.perf_counter()
        learner.update(number, [batch])
        taken.append(time.perf_counter() - start)
        work.append(operations(learner.model.sizes, batch))
        pairs.append(batch.num_pairs)
    rate = statistics.median(done / each for done, each in zip(pairs[3:], taken[3:], strict=True))
    return {
        "pairs_per_second": rate,
        "ms_per_update": statistics.median(taken[3:]) * 1000,
        "gflop_per_second": statistics.median(w / each for w, each in zip(work[3:], taken[3:], strict=True)) / 1e9,
        "peak_memory_mb": _memory() / 1e6,
        "corpus_memory_mb": (loaded - before) / 1e6,
        "tokens": float(data.corpus.sources.lengths.sum() + data.corpus.targets.lengths.sum()),
        "reading_seconds": reading,
    }


def _memory() -> float:
    """Return the peak memory of this process in bytes."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure every setting, and print a table for each dimension."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SIZES))
    parser.add_argument("--most-pairs", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(json.loads(args.one), args.path, args.seconds)))
        return
    results = []
    for name in args.only.split(","):
        print(f"\n| {name} | pairs/s | ms per update | GFLOP/s | peak memory | corpus | B per token | reading |")
        print("|---" * 8 + "|")
        for value in SIZES[name]:
            size = {**BASE, name: value}
            if size["pairs"] > args.most_pairs:
                continue
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "pairs.tsv"
                write_pairs(path, size["pairs"], size["vocabulary"], size["length"])
                command = [sys.executable, __file__, "--one", json.dumps(size), "--path", str(path)]
                command += ["--seconds", str(args.seconds)]
                environment = {**os.environ, "OMP_NUM_THREADS": str(size["threads"])}
                result = json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)
            results.append({**size, "varied": name, **result})
            bytes_per_token = 1e6 * result["corpus_memory_mb"] / result["tokens"]
            print(
                f"| {value:,} | {result['pairs_per_second']:,.0f} | {result['ms_per_update']:.1f} | "
                f"{result['gflop_per_second']:.0f} | {result['peak_memory_mb']:,.0f} MB | "
                f"{result['corpus_memory_mb']:,.0f} MB | {bytes_per_token:.1f} | {result['reading_seconds']:.1f} s |",
                flush=True,
            )
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
