"""torch's kernels over whole sequences: oneDNN's on a CPU, cuDNN's on a GPU.

Right padding is exact. torch's LSTM returns the cell state only at the padded end, so padding steps are made to carry
it there: an extra input, 1 on padding, drives the forget gate to exactly 1 and the input gate to exactly 0.

Shape suffixes: T time, B batch, I input, H hidden, G gates x hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

__all__ = ["last_real", "run_fused"]

SATURATED: Final = 1e4
"""A gate's input at which sigmoid is exactly 0 or 1 in every floating-point type, whatever else is added to it."""
_FUSED_KERNELS: Final = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}
"""torch's function for each cell."""
_CUDNN_WITH_BF16: Final = 91300
"""The first version of cuDNN whose recurrent kernels have bf16."""
_TORCH_WITH_BF16: Final = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10)
"""Earlier ones do not hand bf16 to cuDNN."""


def run_fused(
    cell: str, inputs_TBI: Tensor, h_BH: Tensor, c_BH: Tensor | None, lengths_B: Tensor | None, weights: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a cell over sequences; arguments and results as in ``RecurrentLayer.sequence``.

    ``weights`` are those of the input and of the state, then their biases.
    """
    weights, sums = list(weights), h_BH.dtype
    if c_BH is not None and lengths_B is not None:
        inputs_TBI, weights[0] = _carry_past_padding(inputs_TBI, weights[0], lengths_B, h_BH.shape[1])
    state = [h_BH] if c_BH is None else [h_BH, c_BH]
    if inputs_TBI.device.type != "cuda":
        return _run_kernel(cell, inputs_TBI, state, lengths_B, weights)
    dtype = _cudnn_dtype(weights[1])
    with torch.autocast("cuda", enabled=False):  # torch's own would choose float16 here
        state, weights = [each.to(dtype) for each in state], _in_one_piece(weights, dtype)
        outputs_TBH, h, c = _run_kernel(cell, inputs_TBI.to(dtype), state, lengths_B, weights)
        return outputs_TBH, h.to(sums), None if c is None else c.to(sums)


def _run_kernel(
    cell: str, inputs_TBI: Tensor, state: list[Tensor], lengths_B: Tensor | None, weights: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Call torch's kernel, on a GPU that of cuDNN; ``state`` is h, or h and c."""
    # It trains whenever gradients are enabled, whatever the module's mode: cuDNN has no backward pass otherwise.
    # Arguments after the weights: biases, layers, dropout, training, bidirectional, batch first.
    options = (True, 1, 0.0, torch.is_grad_enabled(), False, False)
    kernel: Callable[..., Any] = getattr(torch, _FUSED_KERNELS[cell])
    first = [each.unsqueeze(0) for each in state]
    outputs_TBH, *last = kernel(inputs_TBI, first if len(first) > 1 else first[0], weights, *options)
    last_h = last[0][0] if lengths_B is None else last_real(outputs_TBH, lengths_B)
    return outputs_TBH, last_h, last[1][0] if len(last) > 1 else None


def _in_one_piece(weights: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the weights as parts of one tensor, in cuDNN's order: otherwise it would copy them, and warn."""
    flat = torch.cat([weight.flatten() for weight in weights]).to(dtype)
    parts = torch.split(flat, [weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]


def _cudnn_dtype(weight: Tensor) -> torch.dtype:
    """Return the type in which cuDNN runs a layer: bf16 if autocast requests it and cuDNN has it."""
    version: int = torch.backends.cudnn.version() or 0  # type: ignore[no-untyped-call]
    bf16 = _TORCH_WITH_BF16 and torch.is_autocast_enabled("cuda") and version >= _CUDNN_WITH_BF16
    return torch.bfloat16 if bf16 else weight.dtype


def _carry_past_padding(
    inputs_TBI: Tensor, weight_GI: Tensor, lengths_B: Tensor, hidden_size: int
) -> tuple[Tensor, Tensor]:
    """Add an input that is 1 on padding and makes the LSTM's forget gate 1 and its input gate 0 there."""
    steps_T1 = torch.arange(inputs_TBI.shape[0], device=inputs_TBI.device).unsqueeze(1)
    padding_TB1 = (steps_T1 >= lengths_B).unsqueeze(2).to(inputs_TBI.dtype)
    column_G1 = weight_GI.new_zeros(weight_GI.shape[0], 1)
    column_G1[:hidden_size] = -SATURATED
    column_G1[hidden_size : 2 * hidden_size] = SATURATED
    return torch.cat([inputs_TBI, padding_TB1], 2), torch.cat([weight_GI, column_G1], 1)


def last_real(outputs_TBH: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Return each row's output [B, H] at its last real step."""
    if lengths_B is None:
        return outputs_TBH[-1]
    return outputs_TBH[lengths_B - 1, torch.arange(len(lengths_B), device=outputs_TBH.device)]
