"""Random numbers: those of the published generator, of named streams that never meet."""

from __future__ import annotations

import hashlib
import itertools
import threading

import numpy as np
import pytest
import torch
from scipy import stats

from freerun.randomness import CounterGenerator, numpy_generator, seed_of

WORD = 2**64


def philox(counter, key):
    """Philox4x64-10 as it stands in the paper (Salmon et al. 2011, section 3.3): four words of 64 bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c0, WORD)
        high1, low1 = divmod(0xCA5A826395121157 * c2, WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % WORD, (k1 + 0xBB67AE8584CAA73B) % WORD
    return [c0, c1, c2, c3]


def words(count, seed, purpose, *keys):
    """The stream in plain integers: blocks number 1, 2, ... under the 128-bit hash of its name."""
    digest = hashlib.blake2b(repr((seed, purpose, *keys)).encode(), digest_size=16).digest()
    key = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    blocks = (philox((number, 0, 0, 0), key) for number in itertools.count(1))
    return list(itertools.islice(itertools.chain.from_iterable(blocks), count))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
        ([WORD - 1] * 4, [WORD - 1] * 2, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
        (
            [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
            [0x452821E638D01377, 0xBE5466CF34E90C6C],
            "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
        ),
    ],
)
def test_the_reference_gives_the_published_answers(counter, key, expected):
    """The known answers of Random123 for philox4x64, 10 rounds."""
    assert " ".join(f"{word:016x}" for word in philox(counter, key)) == expected


@pytest.mark.parametrize("seed", [1, 2**40 + 3, 2**63 - 1])
def test_numbers_are_those_of_the_reference(seed):
    expected = words(9, seed, "dropout", 7, "output")
    generator = CounterGenerator(seed, "dropout", 7, "output")
    assert generator.uniform(3, 3).tolist() == [
        [(word >> 11) / 2**53 for word in row] for row in (expected[:3], expected[3:6], expected[6:])
    ]
    halves = [half for word in expected for half in (word % 2**32, word >> 32)]
    for probability in (0.0, 1e-9, 0.3, 0.7, 1.0):
        flips = generator.coin_flips(probability, 17)
        assert flips.tolist() == [half < round(probability * 2**32) for half in halves[:17]]
    for number, half in enumerate(halves):  # exactly at the threshold
        assert not generator.coin_flips(half / 2**32, 18)[number]
        assert generator.coin_flips((half + 1) / 2**32, 18)[number]


@pytest.mark.parametrize("draw", ["uniform", "normal", "coins"])
def test_every_call_starts_at_the_beginning_and_longer_arrays_begin_with_shorter_ones(draw):
    def drawn(*shape):
        generator = CounterGenerator(3, "purpose", 4)
        return generator.coin_flips(0.4, *shape) if draw == "coins" else getattr(generator, draw)(*shape)

    long = drawn(11, 3)
    CounterGenerator(8, "other").uniform(5)
    CounterGenerator(8, "other").coin_flips(0.5, 3)
    for rows in (1, 2, 5, 11):
        assert np.array_equal(drawn(rows, 3), long[:rows])
    assert drawn(0, 3).shape == (0, 3)


def test_threads_do_not_disturb_each_other():
    expected = [CounterGenerator(1, "thread", number).uniform(50_000) for number in range(4)]
    wrong = []

    def draw(number):
        drawn = (CounterGenerator(1, "thread", number).uniform(50_000) for _ in range(20))
        wrong.extend(number for values in drawn if not np.array_equal(values, expected[number]))

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_global_generator_is_touched():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    generator = CounterGenerator(1, "dropout")
    generator.uniform(5), generator.normal(5), generator.coin_flips(0.5, 5)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


# -------------------------------------------------------------------------------------------------------------- streams


def test_every_bit_of_a_seed_and_of_the_keys_counts():
    seeds = [5, *(5 ^ (1 << bit) for bit in range(80)), -5]
    generators = [CounterGenerator(seed, "dropout", 1) for seed in seeds]
    generators += [CounterGenerator(5, "dropout", 1 ^ (1 << bit)) for bit in range(80)]
    found = {tuple(generator.uniform(4).tolist()) for generator in generators}
    assert len(found) == len(generators)


def test_a_child_has_a_stream_of_its_own():
    parent = CounterGenerator(1, "dropout", 7)
    children = [parent.child("encoder", 0), parent.child("encoder", 1), parent.child("decoder", 0), parent.child("0")]
    found = {tuple(each.uniform(4).tolist()) for each in [parent, *children, parent.child(0), parent.child("encoder")]}
    assert len(found) == 7
    assert np.array_equal(parent.child("encoder", 1).uniform(4), parent.child("encoder").child(1).uniform(4))


def test_streams_that_once_coincided_are_independent():
    """With 32 bits of the seed these two were one: seed 1, dropout of update 13104 and draws of update 51002."""
    seeds = [seed_of(1, purpose, update, 0, 0) % 2**32 for purpose, update in (("dropout", 13104), ("draws", 51002))]
    assert seeds[0] == seeds[1]
    one, other = (
        CounterGenerator(1, purpose, update, 0, 0).uniform(10_000)
        for purpose, update in (("dropout", 13104), ("draws", 51002))
    )
    assert not np.isin(one, other).any()
    assert stats.pearsonr(one, other).pvalue > 1e-3


def test_streams_are_not_correlated():
    """200 streams that differ in one key: as many correlations beyond 3 standard deviations as chance gives."""
    size = 2000
    numbers = np.stack([CounterGenerator(1, "dropout", update).uniform(size) for update in range(200)])
    correlations = np.corrcoef(numbers)[np.triu_indices(200, 1)] * size**0.5
    assert abs(correlations).max() < 5.5
    assert (abs(correlations) > 3).mean() == pytest.approx(0.0027, abs=0.0015)


# -------------------------------------------------------------------------------------------------------- distributions


def test_uniform_numbers_fill_the_interval_evenly():
    numbers = CounterGenerator(2, "test").uniform(200_000)
    assert 0 <= numbers.min() < 1e-4 and 1 - 1e-4 < numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    assert numbers.dtype == np.float64


def test_normal_numbers_are_normal():
    numbers = CounterGenerator(2, "test").normal(400, 500)
    assert (numbers.shape, numbers.dtype) == ((400, 500), np.float32)
    assert stats.kstest(numbers.ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.7, 0.95])
def test_coins_fall_as_often_as_they_should_and_independently(probability):
    flips = CounterGenerator(2, "test").coin_flips(probability, 1000, 500)
    assert stats.binomtest(int(flips.sum()), flips.size, probability).pvalue > 1e-3
    both = int((flips[:, 1:] & flips[:, :-1])[:, ::2].sum())
    assert stats.binomtest(both, 1000 * 250, probability**2).pvalue > 1e-3


def test_the_figures_published_so_far_keep_their_streams():
    """Bootstrap, sampling, batches and examples draw from this generator: its key stays what it was in 0.1.0."""
    assert seed_of(1, "bootstrap") == 1879936891811059222
    assert numpy_generator(1, "bootstrap").integers(0, 1000, 5).tolist() == [853, 486, 437, 151, 433]
