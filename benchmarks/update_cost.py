"""The cost of a training update, part by part, compared with its lower bound on this machine.

LSTM, batches of --batch pairs, no dropout, teacher forcing, CMUdict (the built-in data, or --pairs FILE). Backends and
precisions take turns over the same batches. The lower bound of the matmuls is their number of operations divided by the
machine's peak, which is measured with a large matmul of the same type; that of the optimizer is the number of its bytes
divided by the bandwidth of a large copy.

    python benchmarks/update_cost.py [--pairs FILE] [--rounds 5] [--updates 20] [--hidden 256] [--attention] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from updates import arguments, config_of, first_batches, milliseconds_per_update, new_learner, prepared

from freerun.architecture import Architecture
from freerun.build import order_of
from freerun.config import Config
from freerun.data.batching import Batch
from freerun.training.learner import Learner
from freerun.training.precision import bf16_is_fast

PARTS = {
    "matmuls": ("mm", "addmm", "addmm_", "bmm", "baddbmm", "mkldnn_rnn_layer", "mkldnn_rnn_layer_backward"),
    "cells and their callers": ("_Sequence", "_SequenceBackward"),
    "sigmoid, tanh, exp": ("sigmoid_", "sigmoid", "tanh", "exp", "_log_softmax", "_softmax"),
    "elementwise": (
        *("mul", "mul_", "add", "add_", "sub", "sub_", "addcmul", "addcmul_", "lerp", "sum", "div_", "neg", "cat"),
        *("sigmoid_backward", "tanh_backward"),
    ),
    "copies": ("copy_", "clone", "stack", "fill_", "zero_"),
    "row lookup and accumulation": ("index_select", "index", "embedding_dense_backward", "gather", "scatter_add_"),
    "clipping": ("linalg_vector_norm", "_foreach_norm", "_foreach_mul_"),
    "optimizer": ("_fused_adam_",),
}


def operations(sizes: Architecture, batch: Batch) -> float:
    """Return the floating-point operations of an update's matmuls: each forward one has two backward."""
    rows, source = batch.source.shape
    target = batch.target_in.shape[1]
    hidden, layers = sizes.hidden_size, sizes.num_layers
    directions = 2 if sizes.bidirectional else 1
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[sizes.cell] * hidden
    recurrent = gates * hidden * rows * (source * directions + target) * layers
    first = sizes.embedding_size * gates
    tables = first * (min(sizes.source_vocabulary, rows * source) * directions)
    tables += first * min(sizes.target_vocabulary, rows * target)
    above = gates * rows * (layers - 1) * (source * hidden * directions**2 + target * hidden)
    output = batch.num_tokens * hidden * sizes.target_vocabulary
    attention = 0.0
    if sizes.attention != "none":
        memory = hidden * directions
        step = source * (hidden + memory) + (memory + hidden) * hidden
        attention = rows * (source * memory * hidden + target * step)
    return 3 * 2 * (recurrent + tables + above + output + attention)


def peak(dtype: torch.dtype) -> float:
    """Return the operations per second of a large matmul."""
    left, right = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    return 2 * 1024**3 / _fastest(lambda: torch.mm(left, right))


def bandwidth() -> float:
    """Return the bytes per second, read and written, of a large copy."""
    source, target = torch.zeros(2**23), torch.zeros(2**23)
    return 2 * 4 * 2**23 / _fastest(lambda: target.copy_(source))


def _fastest(call: object, times: int = 5) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()  # type: ignore[operator]
        taken.append(time.perf_counter() - start)
    return min(taken)


def config(pairs: Path, args: argparse.Namespace, backend: str, precision: str) -> Config:
    """Return the configuration of one kind of update."""
    model = {
        "num_layers": args.layers,
        "dropout": 0.0,
        "attention": "luong" if args.attention else "none",
        "reverse_source": False,
    }
    return config_of(pairs, args.hidden, model, {"batch_size": args.batch, "precision": precision, "backend": backend})


def parts_of(learner: Learner, batches: Sequence[Batch]) -> dict[str, float]:
    """Return the milliseconds per update of each part, as far as torch's functions account for them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for number, batch in enumerate(batches):
            learner.update(1000 + number, [batch])
    parts = dict.fromkeys(PARTS, 0.0)
    for event in profile.key_averages():
        for part, names in PARTS.items():
            if event.key.removeprefix("aten::") in names:
                parts[part] += event.self_cpu_time_total / 1000 / len(batches)
    return parts


def main() -> None:
    """Measure, and print the result."""
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--attention", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    precisions = ["fp32", "bf16"] if bf16_is_fast() else ["fp32"]
    kinds = [(backend, precision) for precision in precisions for backend in ("fused", "auto")]
    configs, data = prepared(args.pairs, lambda pairs: {kind: config(pairs, args, *kind) for kind in kinds})
    order = order_of(configs[kinds[0]].training, data.corpus)
    batches = list(first_batches(order, args.updates))
    learners = {kind: new_learner(config, data, order) for kind, config in configs.items()}
    rounds = milliseconds_per_update(learners, lambda: batches, args.rounds)
    medians = {kind: statistics.median(times) for kind, times in rounds.items()}
    sizes = learners[kinds[0]].model.sizes
    work = statistics.mean(operations(sizes, batch) for batch in batches)
    rows = statistics.mean(batch.num_pairs for batch in batches)
    # weight, gradient and two moments are read, and all but the gradient written
    moved = 7 * 4 * learners[kinds[0]].model.num_parameters()
    peaks = {precision: peak(torch.bfloat16 if precision == "bf16" else torch.float32) for precision in precisions}
    bounds = {precision: work / peaks[precision] * 1000 for precision in precisions}
    result = {
        "ms_per_update": {" ".join(kind): value for kind, value in medians.items()},
        "pairs_per_second": {" ".join(kind): rows / value * 1000 for kind, value in medians.items()},
        "gflop_per_update": work / 1e9,
        "peak_gflop_per_second": {precision: value / 1e9 for precision, value in peaks.items()},
        "lower_bound_of_matmuls_ms": bounds,
        "lower_bound_of_optimizer_ms": moved / bandwidth() * 1000,
        "parts_ms": {" ".join(kind): parts_of(learners[kind], batches) for kind in kinds},
    }
    print(json.dumps(result) if args.json else as_text(result))


def as_text(result: dict[str, dict[str, float] | float]) -> str:
    """Return the result as lines and a table."""
    medians, rates = result["ms_per_update"], result["pairs_per_second"]
    assert isinstance(medians, dict) and isinstance(rates, dict)
    lines = [f"{kind}: {value:.1f} ms per update, {rates[kind]:,.0f} pairs/s" for kind, value in medians.items()]
    lines += [f"{key}: {value}" for key, value in result.items() if key not in ("ms_per_update", "parts_ms")]
    parts = result["parts_ms"]
    assert isinstance(parts, dict)
    lines += ["", "| part, ms | " + " | ".join(parts) + " |", "|---" * (len(parts) + 1) + "|"]
    for name in PARTS:
        lines.append(f"| {name} | " + " | ".join(f"{parts[kind][name]:.2f}" for kind in parts) + " |")  # type: ignore[index]
    rest = [medians[kind] - sum(parts[kind].values()) for kind in parts]  # type: ignore[attr-defined]
    return "\n".join([*lines, "| the rest | " + " | ".join(f"{value:.2f}" for value in rest) + " |"])


if __name__ == "__main__":
    main()
