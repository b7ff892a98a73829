"""A model's weights by their parts, as the graphs want them: float32, and transposed for ``x @ weight``.

Legend: I input, H hidden, G gates x hidden, V vocabulary, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from freerun.export.cell_nodes import in_parts
from freerun.export.graph import Array
from freerun.runtime.sizes import Sizes

__all__ = ["LayerWeights", "Linear", "ModelWeights"]


@dataclass(frozen=True)
class Linear:
    """``x @ weight + bias``: weight [I, N], bias [N] or None."""

    weight: Array
    bias: Array | None = None


@dataclass(frozen=True)
class LayerWeights:
    """One layer, one direction, laid out as in torch: weights [G, I] and [G, H], biases [G]."""

    cell: str
    weight_ih: Array
    weight_hh: Array
    bias_ih: Array
    bias_hh: Array

    def inputs(self, first: int = 0, last: int | None = None) -> list[Linear]:
        """What the inputs from ``first`` to ``last`` give to each part of the gates, without bias."""
        return [Linear(part.T) for part in in_parts(self.cell, self.weight_ih[:, first:last])]

    def inputs_and_bias(self) -> list[Linear]:
        """What all inputs give to each part of the gates, and the bias."""
        return [Linear(part.weight, bias) for part, bias in zip(self.inputs(), self.bias(), strict=True)]

    def bias(self) -> list[Array]:
        """Both biases of each part, but for a GRU's ``bias_n``, which the reset gate multiplies."""
        given, recurrent = in_parts(self.cell, self.bias_ih), in_parts(self.cell, self.bias_hh)
        if self.cell == "gru":
            return [given[0] + recurrent[0], given[1]]
        return [one + other for one, other in zip(given, recurrent, strict=True)]

    def recurrent(self) -> list[Linear]:
        """What the state gives to each part; with ``bias_n`` where there is one."""
        weights = [Linear(part.T) for part in in_parts(self.cell, self.weight_hh)]
        if self.cell == "gru":
            weights[1] = Linear(weights[1].weight, in_parts(self.cell, self.bias_hh)[1])
        return weights


class ModelWeights:
    """All weights of a model by name, float32."""

    def __init__(self, sizes: Sizes, arrays: Mapping[str, Array]) -> None:
        self.sizes = sizes
        self._arrays = arrays

    def __getitem__(self, name: str) -> Array:
        array: Array = self._arrays[name].astype(np.float32)
        return array

    def layer(self, prefix: str, index: int) -> LayerWeights:
        """A layer of the stack ``prefix``."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return LayerWeights(self.sizes.cell, *(self[f"{prefix}.{index}.{name}"] for name in names))

    def linear(self, name: str) -> Linear:
        """A linear layer of torch, with its bias if it has one."""
        bias = self[f"{name}.bias"] if self.has(f"{name}.bias") else None
        return Linear(self[f"{name}.weight"].T, bias)

    def has(self, name: str) -> bool:
        """Whether the model has a weight of this name."""
        return name in self._arrays
