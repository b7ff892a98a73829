"""Optimisers: torch's, with the state as named tensors so that it fits in a safetensors file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

__all__ = ["load_optimiser_state", "make_optimiser", "optimiser_tensors"]


def make_optimiser(kind: str, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """"adam" (Kingma & Ba 2015), "adamw" (Loshchilov & Hutter 2019) or "sgd" without momentum."""
    options = {"lr": learning_rate, "weight_decay": weight_decay}
    if kind == "sgd":
        return torch.optim.SGD(parameters, fused=True, **options)
    if kind == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    return torch.optim.Adam(parameters, fused=True, **options)


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """All state of an optimiser, "<parameter>/<what>" -> tensor."""
    return {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimiser_state(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    """Put back what ``optimiser_tensors`` gave."""
    for name, value in tensors.items():
        parameter, _, key = name.rpartition("/")
        optimiser.state[parameters[parameter]][key] = value.clone()
