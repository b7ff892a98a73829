"""What an update of training costs, part by part, beside the least it could cost on this machine.

LSTM, batches of --batch pairs, no dropout, teacher forcing, CMUdict (the built-in data, or --pairs FILE). Backends and
precisions take turns over the same batches. The floor of products is their number of operations by the machine's peak,
measured here with a large product of that type; the optimiser's is its bytes by the bandwidth of a large copy.

    python benchmarks/update_cost.py [--pairs FILE] [--rounds 5] [--updates 20] [--hidden 256] [--attention] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from freerun.architecture import Architecture
from freerun.build import learner_of, model_sizes, new_model, order_of
from freerun.config import Config, parse_config
from freerun.data.batching import Batch
from freerun.data.builtin import make_dataset
from freerun.experiment.prepare import DataSource, TrainingData, load_data
from freerun.forcing.registry import settings_of
from freerun.training.learner import Learner
from freerun.training.precision import bf16_is_fast
from freerun.training.progress import Progress

PARTS = {
    "products": ("mm", "addmm", "addmm_", "bmm", "baddbmm", "mkldnn_rnn_layer", "mkldnn_rnn_layer_backward"),
    "cells, and what calls them": ("_Sequence", "_SequenceBackward"),
    "sigmoid, tanh, exp": ("sigmoid_", "sigmoid", "tanh", "exp", "_log_softmax", "_softmax"),
    "sums and factors": (
        *("mul", "mul_", "add", "add_", "sub", "sub_", "addcmul", "addcmul_", "lerp", "sum", "div_", "neg", "cat"),
        *("sigmoid_backward", "tanh_backward"),
    ),
    "copies": ("copy_", "clone", "stack", "fill_", "zero_"),
    "looking up and adding to rows": ("index_select", "index", "embedding_dense_backward", "gather", "scatter_add_"),
    "clipping": ("linalg_vector_norm", "_foreach_norm", "_foreach_mul_"),
    "optimiser": ("_fused_adam_",),
}


def operations(sizes: Architecture, batch: Batch) -> float:
    """Floating-point operations of an update's products: for each one forward there are two backward."""
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
    """Operations a second of a large product."""
    left, right = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    return 2 * 1024**3 / _fastest(lambda: torch.mm(left, right))


def bandwidth() -> float:
    """Bytes a second, read and written, of a large copy."""
    source, target = torch.zeros(2**23), torch.zeros(2**23)
    return 2 * 4 * 2**23 / _fastest(lambda: target.copy_(source))


def _fastest(call: object, times: int = 5) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()  # type: ignore[operator]
        taken.append(time.perf_counter() - start)
    return min(taken)


def config_of(pairs: Path, args: argparse.Namespace, backend: str, precision: str) -> Config:
    """The configuration of one kind of update."""
    raw = {
        "data": {"train": str(pairs), "source_tokens": "char", "target_tokens": "whitespace"},
        "model": {
            "embedding_size": args.hidden,
            "hidden_size": args.hidden,
            "num_layers": args.layers,
            "dropout": 0.0,
            "attention": "luong" if args.attention else "none",
            "reverse_source": False,
        },
        "training": {"batch_size": args.batch, "threads": 1, "precision": precision, "backend": backend},
    }
    return parse_config(raw, "update_cost", settings_of)


def learner(config: Config, data: TrainingData) -> Learner:
    """A new model that learns."""
    sizes = model_sizes(config.model, len(data.source.vocabulary), len(data.target.vocabulary))
    return learner_of(config, new_model(config, sizes), order_of(config.training, data.corpus))


def parts_of(each: Learner, batches: Sequence[Batch]) -> dict[str, float]:
    """Milliseconds an update by part; what torch's own functions do not account for is the rest."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for number, batch in enumerate(batches):
            each.update(1000 + number, [batch])
    found = dict.fromkeys(PARTS, 0.0)
    for event in profile.key_averages():
        for part, names in PARTS.items():
            if event.key.removeprefix("aten::") in names:
                found[part] += event.self_cpu_time_total / 1000 / len(batches)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--attention", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    precisions = ["fp32", "bf16"] if bf16_is_fast() else ["fp32"]
    kinds = [(backend, precision) for precision in precisions for backend in ("fused", "auto")]
    with tempfile.TemporaryDirectory() as folder:
        pairs = args.pairs or make_dataset("cmudict", Path(folder))["train"]
        configs = {kind: config_of(pairs, args, *kind) for kind in kinds}
        first = configs[kinds[0]]
        data = load_data(first, DataSource.open(first.data, lambda text: None), lambda text: None)
    order, progress = order_of(first.training, data.corpus), Progress()
    batches = [order.take(progress) for _ in range(args.updates)]
    learners = {kind: learner(config, data) for kind, config in configs.items()}
    times: dict[tuple[str, str], list[float]] = {kind: [] for kind in kinds}
    for round_ in range(args.rounds + 1):  # the first warms up
        for kind, each in learners.items():
            start = time.perf_counter()
            for number, batch in enumerate(batches):
                each.update(1 + number + round_ * args.updates, [batch])
            times[kind].append((time.perf_counter() - start) / args.updates * 1000)
    medians = {kind: statistics.median(found[1:]) for kind, found in times.items()}
    sizes = learners[kinds[0]].model.sizes
    work = statistics.mean(operations(sizes, batch) for batch in batches)
    rows = statistics.mean(batch.num_pairs for batch in batches)
    # weight, gradient and two moments are read, and all but the gradient written
    moved = 7 * 4 * learners[kinds[0]].model.num_parameters()
    peaks = {precision: peak(torch.bfloat16 if precision == "bf16" else torch.float32) for precision in precisions}
    floors = {precision: work / peaks[precision] * 1000 for precision in precisions}
    result = {
        "ms_per_update": {" ".join(kind): value for kind, value in medians.items()},
        "pairs_per_second": {" ".join(kind): rows / value * 1000 for kind, value in medians.items()},
        "gflop_per_update": work / 1e9,
        "peak_gflop_per_second": {precision: value / 1e9 for precision, value in peaks.items()},
        "floor_of_products_ms": floors,
        "floor_of_optimiser_ms": moved / bandwidth() * 1000,
        "parts_ms": {" ".join(kind): parts_of(learners[kind], batches) for kind in kinds},
    }
    print(json.dumps(result) if args.json else as_text(result))


def as_text(result: dict[str, dict[str, float] | float]) -> str:
    """The result as lines and a table."""
    medians, rates = result["ms_per_update"], result["pairs_per_second"]
    assert isinstance(medians, dict) and isinstance(rates, dict)
    lines = [f"{kind}: {value:.1f} ms an update, {rates[kind]:,.0f} pairs/s" for kind, value in medians.items()]
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
