"""bf16 on CPUs and GPUs that support it, and never a crash on others."""

from __future__ import annotations

import torch

from freerun.errors import ConfigError

__all__ = ["MIN_HIDDEN_SIZE", "autocast", "bf16_is_fast", "choose_precision"]

MIN_HIDDEN_SIZE = 128
"""The smallest hidden size for which bf16 pays; at 64 its conversions cost what its matmuls save."""


def bf16_is_fast(device: str = "cpu") -> bool:
    """Return True if the device multiplies bf16 matrices in hardware: GPUs do since NVIDIA's Ampere."""
    if device != "cpu":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # oneDNN accepts bf16 on every CPU with AVX-512, but converts it back and forth if the instructions are missing
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()


def choose_precision(requested: str, hidden_size: int, device: str = "cpu") -> str:
    """Turn "auto" into "bf16" on a device that supports it, from ``MIN_HIDDEN_SIZE`` hidden units on, else into "fp32".

    Raises:
        ConfigError: bf16 is requested and the device does not support it.
    """
    is_fast, processor = bf16_is_fast(device), "CPU" if device == "cpu" else "GPU"
    if requested == "bf16" and not is_fast:
        raise ConfigError.single(
            "training.precision",
            f"bf16 is requested, but this {processor} cannot multiply it in hardware",
            'Expected "fp32" or "auto" here',
            f'Set training.precision = "auto", which uses bf16 only if the {processor} supports it',
        )
    if requested != "auto":
        return requested
    return "bf16" if is_fast and hidden_size >= MIN_HIDDEN_SIZE else "fp32"


def autocast(precision: str, device: str = "cpu") -> torch.autocast:
    """Return the context of a forward pass: matmuls in bf16, weights and sums in fp32."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")
