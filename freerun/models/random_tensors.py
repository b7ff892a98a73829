"""Random numbers as tensors, made on the device that uses them.

On a CPU they are those of ``CounterGenerator``. On any other device number n is SplitMix64's (Steele, Lea & Flood 2014,
figure 16) under a seed that is a hash of the same (seed, purpose, keys): a function of the seed and n in integer
arithmetic, hence the same on every device, and nothing is copied. So a seed means the same numbers on all GPUs, other
ones than on a CPU.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from freerun.models.device import is_asynchronous
from freerun.randomness import CounterGenerator

__all__ = ["coin_flips", "uniform"]

_WORD: Final = 2**64


def _signed(word: int) -> int:
    """Return the 64-bit integer with the same bits as an unsigned one: torch has no unsigned arithmetic."""
    return word - _WORD if word >= _WORD // 2 else word


_GAMMA: Final = _signed(0x9E3779B97F4A7C15)
_FACTORS: Final = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def uniform(generator: CounterGenerator, *shape: int, device: torch.device) -> Tensor:
    """Return numbers in [0, 1), float64 multiples of 2^-53; a longer array begins with the shorter one."""
    if not is_asynchronous(device):
        return torch.from_numpy(generator.uniform(*shape))
    return _right(_words(generator.word, math.prod(shape), device), 11).double().mul_(2.0**-53).view(shape)


def coin_flips(generator: CounterGenerator, probability: float, *shape: int, device: torch.device) -> Tensor:
    """Return coin flips, True with ``probability`` (in [0, 1], rounded to a multiple of 2^-32)."""
    if not is_asynchronous(device):
        return torch.from_numpy(generator.coin_flips(probability, *shape))
    size = math.prod(shape)
    # two flips per word; the sign bit is turned round, so that signed numbers compare as unsigned ones
    halves = _words(generator.word, (size + 1) // 2, device).view(torch.int32)[:size].bitwise_xor_(-(2**31))
    threshold = round(probability * 2**32) - 2**31
    return (halves <= threshold - 1 if threshold > -(2**31) else torch.zeros_like(halves, dtype=torch.bool)).view(shape)


def _words(seed: int, size: int, device: torch.device) -> Tensor:
    """Return the first ``size`` words of SplitMix64 as int64."""
    words = torch.arange(1, size + 1, device=device).mul_(_GAMMA).add_(_signed(seed))
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        words = words.bitwise_xor_(_right(words, shift)).mul_(factor)
    return words.bitwise_xor_(_right(words, 31))


def _right(words: Tensor, shift: int) -> Tensor:
    """Shift unsigned words to the right."""
    return words.bitwise_right_shift(shift).bitwise_and_(2 ** (64 - shift) - 1)
