"""Optimizers: torch's, with the state as named tensors so that it fits in a safetensors file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

__all__ = ["load_optimizer_state", "make_optimizer", "optimizer_tensors"]


def make_optimizer(
    kind: str, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float = 0.0
) -> Optimizer:
    """Build the optimizer "adam" (Kingma & Ba 2015), "adamw" (Loshchilov & Hutter 2019) or "sgd", without momentum."""
    if kind == "sgd":
        return SGD(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    if kind == "adamw":
        return AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    if kind == "adam":
        return Adam(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    raise ValueError(f"optimizer {kind!r} is none of adam, adamw, sgd")


def optimizer_tensors(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """Return all state of an optimizer, "<parameter>/<key>" -> tensor."""
    return {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizer_state(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
) -> None:
    """Restore what ``optimizer_tensors`` returned; raises KeyError for a parameter that is not in ``parameters``."""
    for name, value in tensors.items():
        parameter, _, key = name.rpartition("/")
        owner = parameters[parameter]
        optimizer.state[owner][key] = value.to(owner.device, copy=True)
