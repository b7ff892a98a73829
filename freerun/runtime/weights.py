"""A model's weights by their parts, as exported models need them: float32, and transposed for ``x @ weight``.

Gates come in *parts*, groups that a cell treats as one: an LSTM's i f o and g, a GRU's r z and n, an RNN's only one.
Shape suffixes: I input, H hidden, G gates x hidden, V vocabulary, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from freerun.architecture import CELLS, Architecture, CellSpec
from freerun.runtime.compiled import Array

__all__ = ["LayerWeights", "LinearWeights", "ModelWeights", "in_parts", "pairs_apart", "part_widths"]

_PARTS: Final[Mapping[str, tuple[tuple[int, ...], ...]]] = {
    "lstm": ((0, 1, 3), (2,)),
    "gru": ((0, 1), (2,)),
    "rnn": ((0,),),
    "mingru": ((0,), (1,)),
}
"""The gates of each part of a cell, numbered as torch orders them: i f g o, r z n."""


@dataclass(frozen=True)
class LinearWeights:
    """``x @ weight + bias``: weight [I, N], bias [N] or None."""

    weight: Array
    bias: Array | None = None


@dataclass(frozen=True)
class LayerWeights:
    """One layer, one direction, laid out as in torch: weights [G, I] and [G, H], biases [G].

    A cell that is not recurrent has no ``weight_hh`` and no ``bias_hh``.
    """

    cell: CellSpec
    hidden_size: int
    weight_ih: Array
    bias_ih: Array
    weight_hh: Array | None = None
    bias_hh: Array | None = None

    def reading(self, first: int, last: int) -> LayerWeights:
        """Return the layer with only its inputs from ``first`` to ``last``."""
        return replace(self, weight_ih=self.weight_ih[:, first:last])

    def inputs(self, first: int = 0, last: int | None = None) -> list[LinearWeights]:
        """Return the projection of the inputs from ``first`` to ``last`` for each part of the gates, without bias."""
        return [LinearWeights(part.T) for part in in_parts(self.cell.name, self.weight_ih[:, first:last])]

    def inputs_and_bias(self) -> list[LinearWeights]:
        """Return the projection of all inputs for each part of the gates, with bias."""
        return [LinearWeights(part.weight, bias) for part, bias in zip(self.inputs(), self.bias(), strict=True)]

    def bias(self) -> list[Array]:
        """Return both biases of each part, except a gated one."""
        return in_parts(self.cell.name, self.input_bias())

    def input_bias(self) -> Array:
        """Return both biases in torch's order of gates, except a gated one."""
        if self.bias_hh is None:
            return self.bias_ih
        both = self.bias_ih + self.bias_hh
        if self.cell.gated_bias:
            both[-self.hidden_size :] = self.bias_ih[-self.hidden_size :]
        return both

    def recurrent(self) -> list[LinearWeights]:
        """Return the projection of the state for each part, with the gated bias if there is one; empty if none."""
        if self.weight_hh is None or self.bias_hh is None:
            return []
        weights = [LinearWeights(part.T) for part in in_parts(self.cell.name, self.weight_hh)]
        if self.cell.gated_bias:
            weights[-1] = LinearWeights(weights[-1].weight, in_parts(self.cell.name, self.bias_hh)[-1])
        return weights


class ModelWeights:
    """All weights of a model by name, float32."""

    def __init__(self, sizes: Architecture, arrays: Mapping[str, Array]) -> None:
        self.sizes = sizes
        self._arrays = arrays

    def __getitem__(self, name: str) -> Array:
        array: Array = self._arrays[name].astype(np.float32)
        return array

    def layer(self, prefix: str, index: int) -> LayerWeights:
        """Return a layer of the stack ``prefix``."""
        cell, size = self.sizes.cell_spec, self.sizes.hidden_size
        arrays = {name: self[f"{prefix}.{index}.{name}"] for name in cell.shapes(1, size)}
        return LayerWeights(cell, size, **arrays)

    def linear(self, name: str) -> LinearWeights:
        """Return a linear layer of torch, with its bias if it has one."""
        bias = self[f"{name}.bias"] if self.has(f"{name}.bias") else None
        return LinearWeights(self[f"{name}.weight"].T, bias)

    def attention_keys(self) -> Array:
        """Return the weight [M, H] that turns the memory into attention's keys, scaled like the scores."""
        weight = self.linear("decoder.attention.keys").weight
        return weight * np.float32(self.sizes.hidden_size**-0.5) if self.sizes.attention_spec.is_scaled else weight

    def feature_table(self) -> LinearWeights:
        """Return the table [V, E] and the bias of summaries: the tanh of the sum of a source's rows and the bias.

        The projection of a sum is the sum of projections: embedding and projection are multiplied out.
        """
        projection = self.linear("feature_encoder.projection")
        return LinearWeights(self["feature_encoder.embedding.weight"] @ projection.weight, projection.bias)

    def feature_entries(self) -> Array:
        """Return the table [V, M] of the features' memory entries."""
        table: Array = np.tanh(self["feature_encoder.entry_embedding.weight"])
        return table

    def has(self, name: str) -> bool:
        """Return True if the model has a weight of this name."""
        return name in self._arrays


def in_parts(cell: str, array: Array) -> list[Array]:
    """Split an array whose first axis is gates in torch's order, [G, ...], into parts."""
    gates = np.split(array, CELLS[cell].gates)
    return [np.concatenate([gates[number] for number in part]) for part in _PARTS[cell]]


def part_widths(cell: str, size: int) -> list[int]:
    """Return the width of each part for H = ``size``."""
    return [len(part) * size for part in _PARTS[cell]]


def pairs_apart(linear: LinearWeights) -> LinearWeights:
    """Put columns 0, 2, 4, ... before 1, 3, 5, ...: a maxout of neighbors becomes one of two halves."""
    order = np.concatenate([np.arange(0, linear.weight.shape[1], 2), np.arange(1, linear.weight.shape[1], 2)])
    return LinearWeights(linear.weight[:, order], None if linear.bias is None else linear.bias[order])
