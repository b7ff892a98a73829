"""Devices: their names, and that an update on one that runs on its own asks it for numbers only when it ends.

There is no GPU here, so two stand in for one. A CPU that is declared asynchronous takes the GPU's code path, with
numbers to compare. The "meta" device has no numbers at all: whatever asks for one fails.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from freerun.data.batching import make_batch
from freerun.errors import ConfigError
from freerun.forcing import professor, rollout
from freerun.forcing.training_batch import TrainingBatch
from freerun.models import device as devices
from freerun.models import dropout
from freerun.models.device import choose_device, device_label, read_numbers, scalar, to_device
from freerun.training import learner as learning
from tests.devices import LENGTHS, PAIRS, WAITING, WITHOUT_WAITING, batches, learner, steps_of
from tests.networks import close

META = torch.device("meta")
NETWORKS = {
    "lstm": {"bidirectional": True},
    "gru": {"cell": "gru", "attention": "general", "context": "every_step"},
    "bahdanau": {"attention": "bahdanau"},
    "input feeding": {"attention": "general", "input_feeding": True, "cell": "rnn"},
    "mingru": {"cell": "mingru"},
}


RATES = {"dropout": 0.3, "embedding_dropout": 0.2, "embedding_unit_dropout": 0.2, "memory_dropout": 0.2}


def run(name, settings, **sizes):
    """The steps of three updates, and the weights and the strategy's state after them."""
    each = learner(name, settings, **RATES, **sizes)
    return steps_of(each), dict(each.model.named_parameters()), each.strategy.state()


@pytest.fixture
def as_asynchronous(monkeypatch):
    """Declare the CPU asynchronous; random numbers stay those of a CPU, so that results can be compared."""

    def declare():
        monkeypatch.setattr(rollout, "uniform", lambda g, *shape, device: torch.from_numpy(g.uniform(*shape)))
        flips = lambda g, p, *shape, device: torch.from_numpy(g.coin_flips(p, *shape))  # noqa: E731
        monkeypatch.setattr(dropout, "coin_flips", flips)
        monkeypatch.setattr(devices, "_SYNCHRONOUS", frozenset())

    return declare


@pytest.mark.parametrize("sizes", NETWORKS)
@pytest.mark.parametrize("forcing", WITHOUT_WAITING | WAITING)
def test_an_update_has_the_same_numbers_on_an_asynchronous_device(as_asynchronous, forcing, sizes):
    name, settings = (WITHOUT_WAITING | WAITING)[forcing]
    steps, weights, state = run(name, settings, **NETWORKS[sizes])
    as_asynchronous()
    their_steps, their_weights, their_state = run(name, settings, **NETWORKS[sizes])
    for step, theirs in zip(steps, their_steps, strict=True):
        assert theirs.loss == pytest.approx(step.loss, abs=1e-9)
        assert theirs.gradient_norm == pytest.approx(step.gradient_norm, abs=1e-9)
        for metrics, their_metrics in zip(step.metrics, theirs.metrics, strict=True):
            assert metrics.keys() == their_metrics.keys()
            assert [*their_metrics.values()] == [pytest.approx(pair, abs=1e-9) for pair in metrics.values()]
    close(their_weights, weights, 1e-9)
    close(their_state, state, 1e-9)


class Reads:
    """Counts how often an update waits, and gives it ones for the numbers that the "meta" device does not have."""

    def __init__(self):
        self.count = 0

    def __call__(self, values):
        self.count += any(isinstance(value, torch.Tensor) for value in values)
        return [1.0 if isinstance(value, torch.Tensor) else value for value in values]


@pytest.mark.parametrize("sizes", NETWORKS)
@pytest.mark.parametrize("forcing", WITHOUT_WAITING)
def test_an_update_waits_for_its_device_only_as_it_ends(monkeypatch, forcing, sizes):
    name, settings = WITHOUT_WAITING[forcing]
    reads = Reads()
    for module in (learning, professor):
        monkeypatch.setattr(module, "read_numbers", reads)
    # of which this device has none
    monkeypatch.setattr(torch, "autocast", lambda *given, **named: contextlib.nullcontext())
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, rate, fused: torch.optim.SGD(parameters, rate))
    each = learner(name, settings, META, **RATES, **NETWORKS[sizes])
    for number in (1, 2):
        each.update(number, batches(1))
    assert reads.count == (4 if name == "professor" else 2)  # the discriminator's numbers are a second question


def test_the_meta_device_answers_no_question():
    # or the test above would pass whatever an update asks
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones(1, device=META).item()
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.ones(1, device=META).any())
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(3, device=META).nonzero()


def test_a_batch_is_the_same_on_every_device(monkeypatch):
    batch = make_batch(PAIRS, np.arange(len(PAIRS)))
    here = TrainingBatch.of(batch)
    monkeypatch.setattr(devices, "_SYNCHRONOUS", frozenset())
    there = TrainingBatch.of(batch)
    for name in ("source_BS", "source_lengths_B", "target_in_BT", "target_out_BT", "target_lengths_B", "real_N"):
        torch.testing.assert_close(getattr(there, name), getattr(here, name), rtol=0, atol=0)


def test_arrays_keep_shape_and_order_in_one_copy(monkeypatch):
    monkeypatch.setattr(devices, "_SYNCHRONOUS", frozenset())
    arrays = [np.array([[1, 2], [3, 4]], np.uint16), np.zeros((2, 0), np.int64), np.array([5, -6])]
    assert [each.tolist() for each in to_device(arrays, "cpu")] == [[[1, 2], [3, 4]], [[], []], [5, -6]]


def test_a_number_stays_on_an_asynchronous_device_until_it_is_read(monkeypatch):
    monkeypatch.setattr(devices, "_SYNCHRONOUS", frozenset())
    value = scalar(torch.tensor(2.5, requires_grad=True))
    assert isinstance(value, torch.Tensor) and not value.requires_grad
    assert read_numbers([1.0, value, 3, scalar(torch.tensor(7))]) == [1.0, 2.5, 3, 7.0]
    assert read_numbers([]) == []


def test_raml_replaces_as_many_tokens_as_it_draws():
    # the lengths come from the arrays of the batch, which a device does not have to be asked for
    each = learner("input_corruption", {"kind": "raml", "temperature": 1000.0}, **RATES)
    (metrics,) = each.update(1, batches(1)).metrics
    changed, positions = metrics["effective_rate"]
    assert positions == sum(LENGTHS) - len(LENGTHS)
    assert 0.5 * positions < changed <= positions  # at such a temperature 4 of 5 tokens are others


# ------------------------------------------------------------------------------------------------------------- names


def pretend(monkeypatch, gpus, built=True):
    monkeypatch.setattr(torch.version, "cuda", "12.8" if built else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("gpus", "name", "found"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (1, "auto", "cuda:0"),
        (1, "cpu", "cpu"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_a_name_means_a_device(monkeypatch, gpus, name, found):
    pretend(monkeypatch, gpus)
    assert str(choose_device(name)) == found


def test_cuda_without_a_build_for_it(monkeypatch):
    pretend(monkeypatch, 0, built=False)
    with pytest.raises(ConfigError) as caught:
        choose_device("cuda", "training.device")
    assert str(caught.value) == (
        f"training.device: cuda is requested, but the installed torch {torch.__version__} was built without CUDA. "
        'Expected "cpu" or "auto" here. Install a build of torch with CUDA, or choose "cpu".'
    )


def test_cuda_without_a_gpu(monkeypatch):
    pretend(monkeypatch, 0)
    with pytest.raises(ConfigError) as caught:
        choose_device("cuda:1")
    assert str(caught.value) == (
        f"device: cuda:1 is requested, but torch {torch.__version__} finds no GPU that it can use. "
        'Expected "cpu" or "auto" here. Check the driver with nvidia-smi and the variable CUDA_VISIBLE_DEVICES, or '
        'choose "cpu".'
    )


@pytest.mark.parametrize("number", [3, 7])
@pytest.mark.parametrize(("gpus", "found"), [(1, "1 GPU, cuda:0"), (3, "3 GPUs, cuda:0 to cuda:2")])
def test_a_gpu_beyond_the_last_one(monkeypatch, gpus, found, number):
    pretend(monkeypatch, gpus)
    with pytest.raises(ConfigError) as caught:
        choose_device(f"cuda:{number}")
    expected = "cuda:0" if gpus == 1 else f"a number below {gpus}"
    assert str(caught.value) == (
        f"device: cuda:{number} is requested, and this machine has {found}. Expected {expected}. Choose one that is "
        'there, or "auto".'
    )


def test_a_message_names_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    assert device_label(torch.device("cuda", 1)) == "cuda:1 (Some GPU)"
    assert device_label(devices.CPU) == "cpu"
