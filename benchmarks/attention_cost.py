"""The cost of an update with each attention, relative to Luong's, which is computed after the recurrence.

LSTM, teacher forcing, no dropout, one thread, CMUdict (the built-in data, or --pairs FILE). The attentions and
precisions take turns over the same batches, so a slow phase of the machine affects all of them. An update is the
trainer's: batch, loss, gradients, clipping, step.

    python benchmarks/attention_cost.py [--pairs FILE] [--rounds 5] [--updates 20] [--hidden 256] [--batch 64]
        [--layers 1] [--bidirectional] [--dropout 0.0] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from updates import arguments, config_of, first_batches, milliseconds_per_update, new_learner, prepared

from freerun.build import order_of
from freerun.config import Config
from freerun.training.precision import bf16_is_fast

ATTENTIONS = {
    "none": {"attention": "none"},
    "luong": {"attention": "luong"},
    "luong, input feeding": {"attention": "luong", "input_feeding": True},
    "luong concat, input feeding": {"attention": "luong", "attention_score": "concat", "input_feeding": True},
    "bahdanau": {"attention": "bahdanau"},
}


def config(pairs: Path, args: argparse.Namespace, attention: str, precision: str) -> Config:
    """Return the configuration of one kind of update."""
    model = {
        "num_layers": args.layers,
        "bidirectional": args.bidirectional,
        "dropout": args.dropout,
        "reverse_source": False,
        **ATTENTIONS[attention],
    }
    return config_of(pairs, args.hidden, model, {"batch_size": args.batch, "precision": precision})


def main() -> None:
    """Measure, and print one line per attention and precision."""
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--bidirectional", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    precisions = ["fp32", "bf16"] if bf16_is_fast() else ["fp32"]
    kinds = [(attention, precision) for precision in precisions for attention in ATTENTIONS]
    configs, data = prepared(args.pairs, lambda pairs: {kind: config(pairs, args, *kind) for kind in kinds})
    order = order_of(configs[kinds[0]].training, data.corpus)
    learners = {kind: new_learner(config, data, order) for kind, config in configs.items()}
    rounds = milliseconds_per_update(learners, lambda: first_batches(order, args.updates), args.rounds)
    medians = {kind: statistics.median(times) for kind, times in rounds.items()}
    ratios = {kind: medians[kind] / medians["luong", kind[1]] for kind in kinds}
    if args.json:
        figures = {" ".join(kind): [round(medians[kind], 2), round(ratios[kind], 3)] for kind in kinds}
        print(json.dumps({"ms_per_update_and_ratio": figures}))
        return
    for kind in kinds:
        print(f"{kind[0]}, {kind[1]}: {medians[kind]:.1f} ms/update, {ratios[kind]:.2f}x")


if __name__ == "__main__":
    main()
