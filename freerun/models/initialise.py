"""All initialisation, in one place.

A parameter's values are a pure function of (seed, its name, its shape): adding a layer does not change the others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from freerun.models.recurrence import RecurrentLayer
from freerun.models.seq2seq import Seq2Seq
from freerun.randomness import seed_of

__all__ = ["initialise", "initialise_network"]


def initialise(
    model: Seq2Seq, seed: int, scheme: str = "default", scale: float = 0.08, forget_bias: float | None = 1.0
) -> None:
    """Give every parameter its first value.

    Args:
        model: changed in place.
        seed: decides all values.
        scheme: "uniform" draws everything, biases included, from U(-scale, scale) (Sutskever et al. 2014, section 3.4).
            "default" draws embeddings from N(0, 1) (N(0, 1/E) when tied to the output layer), recurrent and input
            weights from U(-1/sqrt(H), 1/sqrt(H)) and other matrices from U(-1/sqrt(fan in), 1/sqrt(fan in)); biases
            are 0.
        scale: for "uniform".
        forget_bias: an LSTM's bias of the forget gate (Jozefowicz et al. 2015); None leaves it as drawn.
    """
    hidden_size = model.sizes.hidden_size
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(seed_of(seed, "initialise", name))
            values = torch.empty(parameter.shape, dtype=torch.float32)
            if scheme == "uniform":
                values.uniform_(-scale, scale, generator=generator)
            else:
                _default(values, name, hidden_size, model.sizes.tied_output, generator)
            parameter.copy_(values)
        for module in model.modules():
            if forget_bias is not None and isinstance(module, RecurrentLayer) and module.cell == "lstm":
                _set_forget_bias(module, forget_bias)


def initialise_network(network: nn.Module, seed: int, purpose: str) -> None:
    """Give another network its first values: matrices from U(-1/sqrt(fan in), 1/sqrt(fan in)), biases 0.

    Layer normalisation keeps the values it is made with.
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
            generator = torch.Generator().manual_seed(seed_of(seed, purpose, name))
            values = torch.zeros(parameter.shape, dtype=torch.float32)
            if values.dim() > 1:
                bound = values.shape[1] ** -0.5
                nn.init.uniform_(values, -bound, bound, generator=generator)
            parameter.copy_(values)


def _default(values: Tensor, name: str, hidden_size: int, tied: bool, generator: torch.Generator) -> None:
    if values.dim() == 1:
        nn.init.zeros_(values)
    elif "embedding" in name:
        std = values.shape[1] ** -0.5 if tied and name.startswith("decoder") else 1.0
        nn.init.normal_(values, 0.0, std, generator=generator)
    else:
        recurrent = "layers" in name
        bound = (hidden_size if recurrent else values.shape[1]) ** -0.5
        nn.init.uniform_(values, -bound, bound, generator=generator)


def _set_forget_bias(layer: RecurrentLayer, value: float) -> None:
    """Gates stand in the order i f g o; the bias counts once, so the recurrent half of it is 0."""
    forget = slice(layer.hidden_size, 2 * layer.hidden_size)
    layer.bias_ih[forget] = value
    layer.bias_hh[forget] = 0.0
