"""Random numbers that a device makes itself: SplitMix64's, the same everywhere, each a function of its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freerun.models import device as devices
from freerun.models.random_tensors import _words, coin_flips, uniform
from freerun.randomness import CounterGenerator

CPU = torch.device("cpu")
GENERATOR = CounterGenerator(5, "test", 1)


@pytest.fixture
def asynchronous(monkeypatch):
    monkeypatch.setattr(devices, "_SYNCHRONOUS", frozenset())


def test_words_are_those_of_splitmix64():
    # the first outputs of the reference program in C for the seed 1234567
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [word % 2**64 for word in _words(1234567, 4, CPU).tolist()] == expected


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_words_agree_with_arithmetic_in_python(seed):
    expected = []
    for n in range(1, 6):
        z = (seed + n * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        expected.append(z ^ (z >> 31))
    assert [word % 2**64 for word in _words(seed, 5, CPU).tolist()] == expected


def test_a_cpu_has_the_numbers_of_the_generator():
    assert np.array_equal(uniform(GENERATOR, 3, 4, device=CPU).numpy(), GENERATOR.uniform(3, 4))
    assert np.array_equal(coin_flips(GENERATOR, 0.3, 3, 5, device=CPU).numpy(), GENERATOR.coin_flips(0.3, 3, 5))


def test_a_longer_array_begins_with_the_shorter_one(asynchronous):
    long, short = (uniform(GENERATOR, size, 3, device=CPU) for size in (7, 4))
    assert torch.equal(long[:4], short)
    long, short = (coin_flips(GENERATOR, 0.5, size, 3, device=CPU) for size in (7, 3))
    assert torch.equal(long[:3], short)


def test_numbers_depend_on_seed_purpose_and_keys(asynchronous):
    others = [CounterGenerator(6, "test", 1), CounterGenerator(5, "tests", 1), GENERATOR.child(0), GENERATOR.child(1)]
    arrays = [uniform(each, 8, device=CPU) for each in [GENERATOR, *others]]
    assert len({tuple(each.tolist()) for each in arrays}) == 5
    assert torch.equal(uniform(CounterGenerator(5, "test", 1), 8, device=CPU), arrays[0])


def test_numbers_are_uniform(asynchronous):
    numbers = uniform(GENERATOR, 100, 1000, device=CPU)
    assert numbers.dtype == torch.float64
    assert 0 <= numbers.min() < 1e-3 and 1 - 1e-3 < numbers.max() < 1
    counts = torch.histc(numbers, 20, 0, 1)
    assert ((counts - 5000).abs() < 5 * 5000**0.5).all()
    neighbours = torch.corrcoef(torch.stack([numbers.flatten()[:-1], numbers.flatten()[1:]]))
    assert abs(neighbours[0, 1]) < 0.02


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.75, 0.999])
def test_coins_fall_as_often_as_they_should(asynchronous, probability):
    flips = coin_flips(GENERATOR, probability, 100_001, device=CPU)
    deviation = (probability * (1 - probability) / 100_001) ** 0.5
    assert flips.dtype == torch.bool
    assert flips.double().mean().item() == pytest.approx(probability, abs=5 * deviation)


@pytest.mark.parametrize("size", [0, 1, 5, 20_000])
def test_sure_coins_are_sure(asynchronous, size):
    assert coin_flips(GENERATOR, 1.0, size, device=CPU).all()
    assert not coin_flips(GENERATOR, 0.0, size, device=CPU).any()
    # 2^-32 below 1 is the nearest that is not sure: one half in 4 billion decides
    assert coin_flips(GENERATOR, 1 - 2.0**-32, size, device=CPU).all()


def test_the_halves_of_a_word_are_two_coins(asynchronous):
    words = [word % 2**64 for word in _words(GENERATOR.word, 3, CPU).tolist()]
    halves = [half for word in words for half in (word % 2**32, word >> 32)]
    threshold = round(0.4 * 2**32)
    assert coin_flips(GENERATOR, 0.4, 2, 3, device=CPU).flatten().tolist() == [half < threshold for half in halves]
