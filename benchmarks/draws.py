"""The cost of an update's random numbers, compared with torch's CPU generator: minimum of many rounds, one thread.

    python benchmarks/draws.py [--rounds 200] [--json]

Both generate the same arrays, alternating and including seeding: dropout masks [steps, rows, units] in fp32, uniform
numbers [rows, steps] in fp64, and initial weights in fp32.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor

from freerun.forcing.rollout import uniforms
from freerun.forcing.training_batch import Update
from freerun.models.dropout import draw_mask
from freerun.randomness import CounterGenerator, seed_of

RATE = 0.3
LIKE = torch.zeros(1)
Draw = Callable[[], object]


def torch_generator() -> torch.Generator:
    """Return torch's generator as freerun 0.1.0 seeded it."""
    return torch.Generator().manual_seed(seed_of(1, "benchmark", 5, 0, 0))


def torch_mask(*shape: int) -> Tensor:
    """Return a mask as freerun 0.1.0 generated it."""
    return torch.empty(*shape).bernoulli_(1.0 - RATE, generator=torch_generator()).div_(1.0 - RATE)


def pairs_of_draws() -> dict[str, tuple[Draw, Draw]]:
    """Return the calls of freerun and of torch by name."""
    update, generator = Update(5, 1), CounterGenerator(1, "benchmark", 5, 0, 0)
    found: dict[str, tuple[Draw, Draw]] = {}
    for shape in ((20, 64, 512), (20, 64, 256), (8, 64, 256), (20, 64, 1)):
        found[f"mask {shape}"] = (
            lambda shape=shape: draw_mask(shape, RATE, generator, LIKE),
            lambda shape=shape: torch_mask(*shape),
        )
    for shape in ((64, 20), (512, 30)):
        found[f"uniform {shape}"] = (
            lambda shape=shape: uniforms(update, "draws", *shape),
            lambda shape=shape: torch.rand(*shape, generator=torch_generator(), dtype=torch.float64),
        )
    weight = (1024, 256)
    found[f"uniform weights {weight}"] = (
        lambda: torch.from_numpy(generator.uniform(*weight)).mul_(2.0).sub_(1.0).mul_(0.1).float(),
        lambda: torch.empty(*weight).uniform_(-0.1, 0.1, generator=torch_generator()),
    )
    found[f"normal weights {weight}"] = (
        lambda: torch.from_numpy(generator.normal(*weight)),
        lambda: torch.empty(*weight).normal_(generator=torch_generator()),
    )
    return found


def seconds(draw: Draw) -> float:
    """Return the time of one call."""
    began = time.perf_counter()
    draw()
    return time.perf_counter() - began


def main() -> None:
    """Measure, and print one line per array: the µs of freerun and of torch, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    for name, draws in pairs_of_draws().items():
        rounds = [[seconds(draw) for draw in draws] for _ in range(options.rounds)]
        ours, others = (min(times) * 1e6 for times in zip(*rounds, strict=True))
        result[name] = {"us": round(ours, 1), "torch_us": round(others, 1), "ratio": round(ours / others, 3)}
    if options.json:
        print(json.dumps(result))
        return
    for name, each in result.items():
        print(f"{name}: {each['us']:.1f} µs, torch {each['torch_us']:.1f} µs, {each['ratio']:.2f}x")


if __name__ == "__main__":
    main()
