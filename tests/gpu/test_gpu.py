"""A GPU against the CPU: values, gradients, rollouts, predictions; the same bytes again; when an update waits."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch

import freerun
from freerun.architecture import ATTENTIONS, CELLS
from freerun.data.builtin import make_dataset
from freerun.errors import ConfigError, Interrupted, TrainingError
from freerun.forcing import professor, rollout
from freerun.models import dropout, random_tensors
from freerun.models.device import choose_device, deterministic, read_numbers
from freerun.models.random_tensors import coin_flips, uniform
from freerun.randomness import CounterGenerator
from freerun.training import learner as learning
from tests.devices import HALF, WAITING, WITHOUT_WAITING, batches, learner, steps_of
from tests.networks import SOME_OF_ALL

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="benchmarks/gpu.py --check says why there is no GPU"),
]
GPU = torch.device("cuda", 0)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}


def on(device, name, settings, dtype=torch.float64, **sizes):
    """A learner that drops everything there is to drop; on the CPU it has the reference loop, not torch's kernels."""
    backend = "auto" if torch.device(device).type == "cuda" else "reference"
    return learner(name, settings, device, rate=0.1, dtype=dtype, backend=backend, **SOME_OF_ALL, **sizes)


def run(each):
    """The steps of three updates, and the weights after them."""
    return steps_of(each), {name: value.detach().cpu() for name, value in each.model.named_parameters()}


@pytest.fixture
def numbers_of_a_cpu(monkeypatch):
    """Random numbers of a CPU, moved to the device, so that results can be compared."""

    def uniforms(generator, *shape, device):
        return torch.from_numpy(generator.uniform(*shape)).to(device)

    def flips(generator, probability, *shape, device):
        return torch.from_numpy(generator.coin_flips(probability, *shape)).to(device)

    monkeypatch.setattr(rollout, "uniform", uniforms)
    monkeypatch.setattr(dropout, "coin_flips", flips)


def check_agreement(name, settings, dtype, **sizes):
    """Three updates: losses, gradient norms, metrics, and weights, which hold the gradients."""
    with deterministic(GPU):
        found, weights = run(on(GPU, name, settings, dtype, **sizes))
    expected, their_weights = run(on("cpu", name, settings, dtype, **sizes))
    tolerance = TOLERANCE[dtype]
    for step, other in zip(found, expected, strict=True):
        assert step.loss == pytest.approx(other.loss, rel=tolerance, abs=tolerance)
        assert step.gradient_norm == pytest.approx(other.gradient_norm, rel=tolerance, abs=tolerance)
        for metrics, others in zip(step.metrics, other.metrics, strict=True):
            assert metrics.keys() == others.keys()
            for key, pair in metrics.items():
                assert pair == pytest.approx(others[key], rel=tolerance, abs=tolerance), key
    torch.testing.assert_close(weights, their_weights, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_and_attention_computes_what_the_cpu_does(numbers_of_a_cpu, cell, attention, dtype):
    sizes = {"cell": cell, "attention": attention}
    if attention != "dot":  # which compares vectors of one size
        sizes["bidirectional"] = True
    check_agreement("teacher", {}, dtype, **sizes)


@pytest.mark.parametrize("attention", ["none", "general", "bahdanau"])
@pytest.mark.parametrize("forcing", WITHOUT_WAITING | WAITING)
def test_every_strategy_computes_what_the_cpu_does_from_the_same_numbers(numbers_of_a_cpu, forcing, attention):
    name, settings = (WITHOUT_WAITING | WAITING)[forcing]
    check_agreement(name, settings, torch.float64, attention=attention)


@pytest.mark.parametrize("size", [1, 2, 1001, 100_000])
def test_random_numbers_are_the_same_on_every_device(monkeypatch, size):
    generator = CounterGenerator(7, "test", 3)
    found = uniform(generator, size, device=GPU), coin_flips(generator, 0.3, size, device=GPU)
    monkeypatch.setattr(random_tensors, "is_asynchronous", lambda device: True)
    cpu = torch.device("cpu")
    expected = uniform(generator, size, device=cpu), coin_flips(generator, 0.3, size, device=cpu)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("attention", ["none", "general", "bahdanau"])
@pytest.mark.parametrize("forcing", WITHOUT_WAITING)
def test_an_update_waits_only_where_it_reads_its_numbers(monkeypatch, forcing, attention):
    name, settings = WITHOUT_WAITING[forcing]
    each = on(GPU, name, settings, torch.float32, attention=attention)

    def read(values):
        torch.cuda.set_sync_debug_mode("default")
        try:
            return read_numbers(values)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(learning, "read_numbers", read)
    monkeypatch.setattr(professor, "read_numbers", read)
    with deterministic(GPU):
        try:
            each.update(1, batches(1))  # allocates, and loads kernels
            torch.cuda.set_sync_debug_mode("error")
            for number in (3, 5):  # 2 and 4 would compare the gradients of two terms
                each.update(number, batches(1))
        finally:
            torch.cuda.set_sync_debug_mode("default")


# ------------------------------------------------------------------------------------------------- trainings, models

SETTINGS = {
    "model": {"embedding_size": 32, "hidden_size": 64, "dropout": 0.2, "memory_dropout": 0.1},
    "training": {"updates": 60, "batch_size": 64, "journal_every": 10, "checkpoint_every": 20, "device": "cuda"},
    "evaluation": {"every": 30, "max_sources": 100},
}
STRATEGY = {
    "teacher": {"strategy": "teacher"},
    "scheduled": {"strategy": "scheduled_sampling", "schedule": HALF},
    "professor": {"strategy": "professor", "warmup": 5, "model_gate": 0.0, "hidden_size": 16},
    "minimum risk": {"strategy": "minimum_risk", "samples": 3},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return make_dataset("reverse", tmp_path_factory.mktemp("reverse"))["train"]


class StopAt(freerun.Callback):
    """Ends a training after an update, as an error in a program would."""

    def __init__(self, update):
        self.update = update

    def on_update(self, update, metrics):
        if update == self.update:
            raise KeyboardInterrupt


class FullFrom(freerun.Callback):
    """Leaves no memory for further updates after one of them."""

    def __init__(self, update):
        self.update = update

    def on_update(self, update, metrics):
        if update == self.update:
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(GPU).total_memory
            torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved(GPU) / total, GPU)


def config(forcing="teacher", attention="none", **training):
    model = {**SETTINGS["model"], "attention": attention}
    if attention == "none":
        del model["memory_dropout"]
    return {
        **SETTINGS,
        "model": model,
        "training": {**SETTINGS["training"], **training},
        "forcing": STRATEGY[forcing],
    }


def train(pairs, out, *arguments, stop_at=None, resume=False, **options):
    callbacks = [] if stop_at is None else [StopAt(stop_at)]
    with contextlib.suppress(KeyboardInterrupt, Interrupted):
        freerun.train(pairs, config=config(*arguments, **options), out=out, callbacks=callbacks, resume=resume)
    return Path(out)


def journal(directory):
    """The events, without those and the keys that a resumed run may have differently."""
    events = [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]
    timed = [{key: value for key, value in event.items() if "second" not in key} for event in events]
    return [event for event in timed if event["event"] not in ("resume", "stop", "start")]


def files(directory):
    return {path.name: path.read_bytes() for path in sorted((directory / "last").iterdir())}


@pytest.mark.parametrize(("forcing", "attention"), [*((each, "none") for each in STRATEGY), ("teacher", "bahdanau")])
def test_a_resumed_training_ends_with_the_same_bytes(pairs, tmp_path, forcing, attention):
    undisturbed = train(pairs, tmp_path / "a", forcing, attention)
    again = train(pairs, tmp_path / "b", forcing, attention, stop_at=33)
    assert (again / "checkpoints" / "update-00000020").exists()
    train(pairs, again, forcing, attention, resume=True)
    assert files(again) == files(undisturbed)
    assert journal(again) == journal(undisturbed)


def test_a_training_learns_in_bf16_and_its_model_predicts_alike_everywhere(pairs, tmp_path):
    sizes = {"model": {"embedding_size": 64, "hidden_size": 256, "attention": "bahdanau", "bidirectional": True}}
    settings = {**SETTINGS, **sizes, "training": {"updates": 500, "batch_size": 64, "device": "cuda"}}
    settings["evaluation"] = {"every": 250}
    result = freerun.train(pairs, config=settings, out=tmp_path / "run")
    assert result.metrics["sequence_accuracy.free"] > 0.8
    sources = [line.split("\t")[0] for line in pairs.read_text().splitlines()[:200]]
    models = [freerun.load(tmp_path / "run", device=device, runtime="torch") for device in ("cuda", "cpu")]
    for search in (freerun.Greedy(), freerun.Beam(5, num_hypotheses=3), freerun.Sampling(seed=2)):
        found, expected = (model.predict_batch(sources, search) for model in models)
        assert sum(a.text == b.text for a, b in zip(found, expected, strict=True)) >= 198  # ties
        close = [a.score == pytest.approx(b.score, abs=1e-3) for a, b in zip(found, expected, strict=True)]
        assert sum(close) >= 198


def test_a_run_moves_between_devices(pairs, tmp_path):
    directory = train(pairs, tmp_path / "run", stop_at=33)
    freerun.train(out=directory, resume=True, device="cpu")
    events = [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]
    assert events[0]["device"] == "cuda"
    assert [event["device"] for event in events if event["event"] == "resume"] == ["cpu"]


def test_a_batch_too_large_for_the_gpu_is_named_and_nothing_is_lost(pairs, tmp_path):
    directory = tmp_path / "run"
    try:
        with pytest.raises(TrainingError, match="a batch of 64 pairs, padded to"):
            freerun.train(pairs, config=config(), out=directory, callbacks=[FullFrom(25)])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    freerun.train(out=directory, resume=True)
    assert files(directory) == files(train(pairs, tmp_path / "undisturbed"))


def test_a_gpu_beyond_the_last_one_is_an_error_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match="cuda:999 is requested"):
        freerun.train(tmp_path / "missing.tsv", device="cuda:999", out=tmp_path / "run")
    assert choose_device("auto").type == "cuda"
