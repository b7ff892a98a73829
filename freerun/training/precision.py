"""bf16 where the processor has it, and never a crash where it does not."""

from __future__ import annotations

import torch

from freerun.errors import ConfigError

__all__ = ["SMALLEST", "autocast", "bf16_is_fast", "choose_precision"]

SMALLEST = 128
"""Hidden units from which on bf16 pays; at 64 its roundings cost what its products save."""


def bf16_is_fast(device: str = "cpu") -> bool:
    """Whether the device multiplies bf16 matrices in hardware."""
    if device != "cpu":
        return bool(torch.cuda.is_bf16_supported())
    # oneDNN takes bf16 wherever there is AVX-512, but converts it back and forth where the instructions are missing
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()


def choose_precision(asked: str, hidden_size: int, device: str = "cpu") -> str:
    """Turn "auto" into "fp32" or "bf16", which does not pay for products of fewer than ``SMALLEST`` hidden units.

    Raises:
        ConfigError: bf16 is asked for and the processor does not have it.
    """
    able = bf16_is_fast(device)
    if asked == "bf16" and not able:
        raise ConfigError.single(
            "training.precision",
            "bf16 is asked for, but this processor cannot multiply it in hardware",
            'Expected "fp32" or "auto" here',
            'Set training.precision = "auto", which takes bf16 only where it is there',
        )
    if asked != "auto":
        return asked
    return "bf16" if able and hidden_size >= SMALLEST else "fp32"


def autocast(precision: str, device: str = "cpu") -> torch.autocast:
    """The context in which a forward pass runs: matrix products in bf16, weights and sums in fp32."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")
