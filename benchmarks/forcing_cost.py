"""The cost of each forcing strategy relative to teacher forcing: median time of an update, one thread.

LSTM 256 x 2, batches of 64 pairs, no dropout, CMUdict (the built-in data, or --pairs FILE). The strategies take turns
over the same batches, so a slow phase of the machine affects all of them. An update is the trainer's: batch, losses,
gradients, clipping, step.

    python benchmarks/forcing_cost.py [--pairs FILE] [--rounds 5] [--updates 20] [--hidden 256] [--layers 2]
        [--attention none] [--input-feeding] [--dropout 0.0] [--json]

``*_loop`` are not strategies of freerun: they step the decoder under autograd, which replay avoids.
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
from freerun.experiment.dataset import TrainingData
from freerun.forcing.loss import Losses, Term, smoothed_nll
from freerun.forcing.replay import encode
from freerun.forcing.rollout import uniforms
from freerun.forcing.scheduled_sampling import ScheduledSampling, aligned_draw
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.seq2seq import Seq2Seq
from freerun.training.learner import Learner
from freerun.training.order import BatchOrder

HALF = {"kind": "constant", "teacher_prob": 0.5}
FORCING = {
    "teacher": {},
    "scheduled_sampling": {"schedule": HALF},
    "scheduled_sampling_passes": {"strategy": "scheduled_sampling", "schedule": HALF, "passes": 2},
    "free_running": {},
    # both gates open from the first update on
    "professor": {"warmup": 0, "model_gate": 0.0, "discriminator_gate": 1.0, "hidden_size": 128},
    "professor_mmd": {"strategy": "professor", "warmup": 0, "adversary": "mmd"},
    "optimal_completion": {},
    "minimum_risk": {"samples": 8},
    "self_critical": {},
    "input_corruption": {"kind": "raml"},
    "teacher_loop": {"strategy": "scheduled_sampling", "schedule": {"kind": "constant", "teacher_prob": 1.0}},
    "scheduled_sampling_loop": {"strategy": "scheduled_sampling", "schedule": HALF},
}


class Loop(ScheduledSampling):
    """Scheduled sampling as it is usually written: each step samples the next one's token, all under autograd."""

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Compute the same loss as ``ScheduledSampling``."""
        encoded, masks = encode(model, batch, update)
        tables, draw, fed_B = model.decoder.tables(), aligned_draw(self.settings), batch.target_in_BT[:, 0]
        draws_BT = self._draws(batch, update, self.settings.schedule.value(0.0))
        numbers_BT = uniforms(update, "draws", *draws_BT.shape)
        logits = []
        for t in range(draws_BT.shape[1]):
            features_BF, encoded = model.decoder.step(fed_B, encoded, tables, masks.target_step(t) if masks else None)
            logits.append(model.decoder.logits(features_BF))
            if t + 1 < draws_BT.shape[1]:
                drawn_B = draw.tokens(logits[-1].detach(), numbers_BT[:, t + 1])
                fed_B = torch.where(draws_BT[:, t + 1], drawn_B, batch.target_in_BT[:, t + 1])
        loss, nll = smoothed_nll(batch.at_real_positions(torch.stack(logits)), batch.target_N)
        return Losses({"nll": Term(loss, batch.num_tokens)}, {"nll": (nll.item(), batch.num_tokens)})


def config(pairs: Path, name: str, args: argparse.Namespace) -> Config:
    """Return the configuration of one strategy."""
    model = {
        "num_layers": args.layers,
        "attention": args.attention,
        "input_feeding": args.input_feeding,
        "dropout": args.dropout,
    }
    training = {"batch_size": 64, "precision": args.precision}
    return config_of(pairs, args.hidden, model, training, forcing={"strategy": name, **FORCING[name]})


def learner(config: Config, data: TrainingData, order: BatchOrder, loop: bool) -> Learner:
    """Return a new model that learns by the strategy."""
    result = new_learner(config, data, order)
    if loop:
        result.strategy = Loop(result.strategy.settings, result.strategy.objective)
    return result


def main() -> None:
    """Measure, and print one line per strategy."""
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--attention", default="none", choices=["none", "luong", "bahdanau"])
    parser.add_argument("--input-feeding", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "auto"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    configs, data = prepared(
        args.pairs,
        lambda pairs: {name: config(pairs, name, args) for name in FORCING},
    )
    order = order_of(configs["teacher"].training, data.corpus)
    learners = {name: learner(config, data, order, name.endswith("_loop")) for name, config in configs.items()}
    rounds = milliseconds_per_update(learners, lambda: first_batches(order, args.updates), args.rounds)
    medians = {name: statistics.median(times) for name, times in rounds.items()}
    if args.json:
        print(json.dumps({"ms_per_update": medians, "rounds": rounds}))
        return
    for name, median in medians.items():
        print(f"{name} {median:.1f} ms/update {median / medians['teacher']:.2f}x")


if __name__ == "__main__":
    main()
