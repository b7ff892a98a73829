"""Averaged weights, and weights that a model has for a moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["average", "temporary_weights"]


def average(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several models' weights, summed in fp64 (Junczys-Dowmunt et al. 2016)."""

    def mean(name: str) -> Tensor:
        total = sum((model[name].double() for model in models), torch.zeros((), dtype=torch.float64))
        return (total / len(models)).to(models[0][name].dtype)

    return {name: mean(name) for name in models[0]}


@contextmanager
def temporary_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the model these weights within the block; its own are restored whatever happens."""
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(dict(weights))
    try:
        yield
    finally:
        model.load_state_dict(own)
