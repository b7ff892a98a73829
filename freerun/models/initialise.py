"""All initialisation, in one place.

A parameter's values are a pure function of (seed, its name, its shape): adding a layer does not change the others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from freerun.models.recurrence import RecurrentLayer
from freerun.models.seq2seq import Seq2Seq
from freerun.randomness import CounterGenerator

__all__ = ["initialise", "initialise_network"]


def initialise(
    model: Seq2Seq, seed: int, scheme: str = "default", scale: float = 0.08, forget_bias: float | None = 1.0
) -> None:
    """Initialize every parameter.

    Args:
        model: changed in place.
        seed: decides all values.
        scheme: "uniform" draws everything, biases included, from U(-scale, scale) (Sutskever et al. 2014, section 3.4).
            "default" draws embeddings from N(0, 1) (N(0, 1/E) when tied to the output layer), recurrent and input
            weights from U(-1/sqrt(H), 1/sqrt(H)) and other matrices from U(-1/sqrt(fan in), 1/sqrt(fan in)); biases
            are 0.
        scale: for "uniform".
        forget_bias: the bias of the forget gate, if the cell has one (Jozefowicz et al. 2015); None leaves it as drawn.
    """
    hidden_size = model.sizes.hidden_size
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = CounterGenerator(seed, "initialise", name)
            if scheme == "uniform":
                parameter.copy_(_uniform(parameter, scale, generator))
            else:
                parameter.copy_(_default(parameter, name, hidden_size, model.sizes.tied_output, generator))
        for module in model.modules():
            if forget_bias is not None and isinstance(module, RecurrentLayer):
                _set_forget_bias(module, forget_bias)


def initialise_network(network: nn.Module, seed: int, purpose: str) -> None:
    """Initialize another network: matrices from U(-1/sqrt(fan in), 1/sqrt(fan in)), biases 0.

    Layer normalization keeps its default values.
    """
    norms = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, nn.LayerNorm)
        for parameter in module.parameters()
    }
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if id(parameter) in norms:
                continue
            if parameter.dim() > 1:
                generator = CounterGenerator(seed, purpose, name)
                parameter.copy_(_uniform(parameter, parameter.shape[1] ** -0.5, generator))
            else:
                parameter.zero_()


def _default(like: Tensor, name: str, hidden_size: int, tied: bool, generator: CounterGenerator) -> Tensor:
    if like.dim() == 1:
        return torch.zeros(like.shape)
    if "embedding" in name:
        std = like.shape[1] ** -0.5 if tied and name.startswith("decoder") else 1.0
        return torch.from_numpy(generator.normal(*like.shape)) * std
    recurrent = "layers" in name
    return _uniform(like, (hidden_size if recurrent else like.shape[1]) ** -0.5, generator)


def _uniform(like: Tensor, bound: float, generator: CounterGenerator) -> Tensor:
    """Return numbers from U(-bound, bound) in the shape of ``like``, drawn in fp64 and rounded to fp32."""
    return torch.from_numpy(generator.uniform(*like.shape)).mul_(2.0).sub_(1.0).mul_(bound).float()


def _set_forget_bias(layer: RecurrentLayer, value: float) -> None:
    """Set the bias of a cell's forget gate, if it has one: it counts once, so the recurrent half is 0."""
    gate = layer.cell.forget_gate
    if gate is None:
        return
    forget = slice(gate * layer.hidden_size, (gate + 1) * layer.hidden_size)
    layer.bias_ih[forget] = value
    if layer.cell.is_recurrent:
        layer.bias_hh[forget] = 0.0
