"""The cost of a prediction in torch, the exported graphs and the compiled library, alone and in batches.

    python predict_speed.py --model MODEL --pairs FILE [--texts 400] [--rounds 10] [--precision fp32 int8]

Measures the CPU time of this process on one thread, so other work on a shared machine does not count. Alone, one text
at a time: the mean over texts of the best round of each, and the mean of all rounds. In batches: the best round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import freerun
from freerun.data.readers import read_pairs
from freerun.runtime.bundle import read_bundle
from freerun.runtime.compiled_greedy import can_run

Run = Callable[[str], object]


def main() -> None:
    """Measure, and print one line per way of running the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "int8"])
    args = parser.parse_args()
    texts = list(dict.fromkeys(pair.source for pair in read_pairs(args.pairs)))[: args.texts]
    bundle = read_bundle(args.model)
    ways = {"torch": freerun.load(args.model, threads=1, runtime="torch")}
    for precision in args.precision:
        ways[f"onnx {precision}"] = freerun.load(args.model, threads=1, runtime="onnx", precision=precision)
        if can_run(bundle, precision):
            ways[f"compiled {precision}"] = freerun.load(args.model, threads=1, precision=precision)
    print(f"{len(texts)} texts, µs per text {'alone: best':>14s} {'mean':>8s} {'in batches':>12s}")
    for name, model in ways.items():
        best, mean = alone(model.predict, texts, args.rounds if name != "torch" else 1)
        batch = min(timed(model.predict_batch, texts) for _ in range(args.rounds)) / len(texts)
        print(f"{name:22s} {best:14.1f} {mean:8.1f} {batch:12.1f}", flush=True)


def alone(predict: Run, texts: Sequence[str], rounds: int) -> tuple[float, float]:
    """Return the mean over texts of the best round, and the mean of all rounds, in microseconds."""
    for text in texts[:50]:
        predict(text)
    times = [[timed(predict, text) for text in texts] for _ in range(rounds)]
    best = [min(each) for each in zip(*times, strict=True)]
    return sum(best) / len(texts), sum(map(sum, times)) / len(texts) / rounds


def timed(run: Callable[..., object], argument: object) -> float:
    """Return the CPU time of one call in microseconds."""
    start = time.process_time_ns()
    run(argument)
    return (time.process_time_ns() - start) / 1e3


if __name__ == "__main__":
    main()
