"""Times freerun on a GPU, compared with a plain encoder-decoder of torch.nn.LSTM in the same run.

    python benchmarks/gpu.py [--json] [--rounds 5] [--updates 50] [--hidden 512] [--batch 256]

Training: updates per second and pairs per second with teacher forcing (without attention, with Luong's and with
Bahdanau's), scheduled sampling and professor forcing; the plain model's training, padded, under the same autocast, in
which torch runs nn.LSTM in float16 whatever the type. Decoding: sources per second, greedy and with a beam of 5. All
on the built-in CMUdict, medians of rounds in which all take turns. Without a GPU: one sentence on standard error, and
exit code 77. ``--check`` does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from updates import arguments, config_of, first_batches, prepared

from freerun.build import build_learner, model_sizes, new_model, order_of
from freerun.config import Config
from freerun.data.batching import Batch
from freerun.experiment.dataset import TrainingData
from freerun.forcing.training_batch import TrainingBatch
from freerun.models.device import choose_device, deterministic, device_label
from freerun.models.torch_stepper import TorchStepper
from freerun.search.methods import Beam
from freerun.search.searcher import StepperSearcher, search_in_batches
from freerun.training.learner import Learner
from freerun.training.precision import autocast

PLAIN = "plain torch.nn.LSTM"
NO_GPU = 77
"""The exit code by which test runners know that a test does not apply."""
MAX_SOURCES, ROWS = 512, 256

KINDS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "no attention": ({"attention": "none"}, {"strategy": "teacher"}),
    "Luong attention": ({"attention": "luong"}, {"strategy": "teacher"}),
    "Bahdanau attention": ({"attention": "bahdanau"}, {"strategy": "teacher"}),
    "scheduled sampling": (
        {"attention": "none"},
        {"strategy": "scheduled_sampling", "schedule": {"kind": "constant", "teacher_prob": 0.5}},
    ),
    "professor forcing": ({"attention": "none"}, {"strategy": "professor", "warmup": 0, "model_gate": 0.0}),
}


class Plain(nn.Module):
    """An encoder-decoder as tutorials write it: nn.LSTM over padded batches, no attention."""

    def __init__(self, source: int, target: int, size: int) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(source, size), nn.Embedding(target, size)
        self.encoder, self.decoder = nn.LSTM(size, size), nn.LSTM(size, size)
        self.output = nn.Linear(size, target)

    def forward(self, batch: TrainingBatch) -> Tensor:
        """Return the mean loss of a token."""
        _, state = self.encoder(self.source(batch.source_BS.t()))
        features, _ = self.decoder(self.target(batch.target_in_BT.t()), state)
        logits = self.output(features).flatten(0, 1).float()
        loss: Tensor = nn.functional.cross_entropy(logits, batch.target_out_BT.t().flatten(), ignore_index=0)
        return loss


class PlainTrainer:
    """Updates of the plain model with Adam and clipping."""

    def __init__(self, data: TrainingData, size: int, device: torch.device, precision: str) -> None:
        self.model = Plain(len(data.source.vocabulary), len(data.target.vocabulary), size).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3, fused=True)
        self.device, self.precision = device, precision

    def updates(self, batches: Sequence[Batch]) -> None:
        """Make an update of each batch, and read its loss as any training does."""
        for batch in batches:
            self._update(batch)

    def _update(self, batch: Batch) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.precision, self.device.type):
            loss = self.model(TrainingBatch.of(batch, self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        loss.item()


def configs(options: argparse.Namespace) -> Callable[[Path], dict[str, Config]]:
    """Return a function from the pairs to the configuration of each kind of training."""
    training = {"batch_size": options.batch, "device": str(options.device), "threads": 0}
    return lambda pairs: {
        name: config_of(pairs, options.hidden, model, training, forcing=forcing)
        for name, (model, forcing) in KINDS.items()
    }


def learner_of(config: Config, data: TrainingData, device: torch.device) -> Learner:
    """Return a learner whose model is on the device."""
    order = order_of(config.training, data.corpus)
    model = new_model(config, model_sizes(config.model, data.source, data.target)).to(device)
    return build_learner(config, model, order)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the time that the work and the device take."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return the milliseconds per update and per source of everything that was timed."""
    device: torch.device = options.device
    made, data = prepared(options.pairs, configs(options))
    learners = {name: learner_of(config, data, device) for name, config in made.items()}
    precision = learners["no attention"].precision
    plain = PlainTrainer(data, options.hidden, device, precision)
    order = order_of(next(iter(made.values())).training, data.corpus)
    batches = list(first_batches(order, options.updates))

    def updates(learner: Learner, start: int) -> None:
        for number, batch in enumerate(batches, start=start):
            learner.update(number, [batch])

    times: dict[str, list[float]] = {name: [] for name in [*learners, PLAIN]}
    with deterministic(device, precision):
        for number in range(options.rounds + 1):
            for name, learner in learners.items():
                times[name].append(seconds(partial(updates, learner, number * len(batches) + 1), device))
            times[PLAIN].append(seconds(partial(plain.updates, batches), device))
    per_update = {name: [1000 * each / len(batches) for each in rounds[1:]] for name, rounds in times.items()}
    return {
        "device": device_label(device),
        "torch": torch.__version__,
        "precision": precision,
        "hidden": options.hidden,
        "batch": options.batch,
        "pairs_per_update": statistics.mean(batch.num_pairs for batch in batches),
        "milliseconds_per_update": {name: statistics.median(each) for name, each in per_update.items()},
        "milliseconds_per_source": decoding(learners["Luong attention"], data, device, options.rounds),
    }


def decoding(learner: Learner, data: TrainingData, device: torch.device, rounds: int) -> dict[str, float]:
    """Return the milliseconds per source of searches, on a model that has learned a little."""
    sources = [data.source.encode(text) for text in data.sample.sources[:MAX_SOURCES]]
    searcher = StepperSearcher(lambda: TorchStepper(learner.model))

    def search(beam: Beam) -> None:
        for _ in search_in_batches(searcher, sources, [40] * len(sources), beam, batch_size=ROWS):
            pass

    found = {}
    for name, beam in (("greedy", Beam(1)), ("beam 5", Beam(5))):
        times = [seconds(partial(search, beam), device) for _ in range(rounds + 1)][1:]
        found[name] = 1000 * statistics.median(times) / len(sources)
    return found


def as_text(result: Mapping[str, Any]) -> str:
    """Return the figures as a table in Markdown."""
    updates, pairs = result["milliseconds_per_update"], result["pairs_per_update"]
    plain = updates[PLAIN]
    where = f"{result['device']}, torch {result['torch']}, {result['precision']}"
    lines = [
        f"{where}: LSTM {result['hidden']}, batches of {result['batch']}.",
        "",
        "| training | ms an update | pairs/s | plain / this |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {ms:.2f} | {1000 * pairs / ms:,.0f} | {plain / ms:.2f} |" for name, ms in updates.items()]
    lines += ["", "| decoding | ms a source | sources/s |", "|---|---|---|"]
    lines += [f"| {name} | {ms:.3f} | {1000 / ms:,.0f} |" for name, ms in result["milliseconds_per_source"].items()]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cuda", help="of a trial of this program: cpu")
    parser.add_argument("--check", action="store_true", help="only say whether there is a GPU")
    parser.set_defaults(hidden=512, updates=50)
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print(f"There is no GPU that torch {torch.__version__} can use; nothing was run.", file=sys.stderr)
        sys.exit(NO_GPU)
    options.device = choose_device(options.device)
    if options.check:
        print(device_label(options.device))
        return
    result = measured(options)
    print(json.dumps(result, indent=1) if options.json else as_text(result))


if __name__ == "__main__":
    main()
