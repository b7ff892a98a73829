"""The decoder: writes the target one token at a time, from the state that the bridge hands over.

One network, two ways through it, held equal by tests: ``sequence`` over tokens known beforehand, ``step`` over one
token with tables prepared once. The output layer is separate (``logits``), so that it is computed only where it is
needed.

Shape suffixes: B batch, T target, V vocabulary, E embedding, H hidden, F features before the output layer, G gates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from freerun.models.attention import LuongAttention, Memory
from freerun.models.dropout import DropoutMasks, StepMasks, apply_mask
from freerun.models.recurrence import LayerStack, RecurrentLayer
from freerun.models.state import State

__all__ = ["Decoded", "Decoder", "Encoded", "Tables"]


@dataclass(frozen=True)
class Encoded:
    """What the decoder starts from: its initial ``state``, and what stays the same at every step.

    ``context_BH``: the encoder's summary for a decoder that reads it at every step; ``memory``: for attention.
    """

    state: State
    context_BH: Tensor | None = None
    memory: Memory | None = None

    def detach(self) -> Encoded:
        """The same values, cut off from the graph."""
        return Encoded(
            self.state.detach(),
            None if self.context_BH is None else self.context_BH.detach(),
            None if self.memory is None else self.memory.detach(),
        )

    def select(self, origins_N: Tensor) -> Encoded:
        """The rows ``origins_N``."""
        return Encoded(
            self.state.select(origins_N),
            None if self.context_BH is None else self.context_BH.index_select(0, origins_N),
            None if self.memory is None else self.memory.select(origins_N),
        )


@dataclass(frozen=True)
class Decoded:
    """What a whole-sequence pass gives; of no meaning on padding.

    ``features_TBF`` are for ``logits``, ``layers_TBH`` the outputs of each recurrent layer before dropout, ``state`` is
    the one after the last step.
    """

    features_TBF: Tensor
    layers_TBH: list[Tensor]
    state: State


@dataclass(frozen=True)
class Tables:
    """What a step looks up instead of computing, valid until the weights change."""

    token_gates_VG: Tensor
    """The embedding multiplied into the first layer's gates, its bias included."""


class Decoder(nn.Module):
    """Embedding, recurrent layers, optional Luong attention, output layer.

    Args:
        context: "init", the encoder's state starts the decoder (Sutskever et al. 2014), or "every_step", its summary
            is also an input of the first layer and of the output layer at each step (Cho et al. 2014).
        attention: "none" or a score function of ``LuongAttention``.
        tied_output: the output layer's weight is the target embedding (Press & Wolf 2017), behind a projection where
            the sizes differ.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        cell: str = "lstm",
        context: str = "init",
        attention: str = "none",
        memory_size: int = 0,
        tied_output: bool = False,
        backend: str = "fused",
    ) -> None:
        super().__init__()
        self.every_step = context == "every_step"
        self.embedding_size = embedding_size
        self.vocabulary_size = vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        context_size = hidden_size if self.every_step else 0
        sizes = [embedding_size + context_size] + [hidden_size] * (num_layers - 1)
        self.layers = LayerStack(RecurrentLayer(cell, size, hidden_size, backend) for size in sizes)
        self.attention = None if attention == "none" else LuongAttention(attention, hidden_size, memory_size)
        self.feature_size = hidden_size + context_size
        self.projection: nn.Linear | None = None
        if tied_output and self.feature_size != embedding_size:
            self.projection = nn.Linear(self.feature_size, embedding_size, bias=False)
        self.output_bias = nn.Parameter(torch.empty(vocabulary_size))
        self.output_weight: nn.Parameter | None = None
        if not tied_output:
            self.output_weight = nn.Parameter(torch.empty(vocabulary_size, self.feature_size))

    def sequence(self, target_in_BT: Tensor, encoded: Encoded, masks: DropoutMasks | None = None) -> Decoded:
        """Run over whole targets.

        Args:
            target_in_BT: the tokens fed, BOS first, right-padded.
            encoded: where to start from.
            masks: dropout, None for none.
        """
        values = apply_mask(self.embedding(target_in_BT.t()), masks.target_tokens_TB1 if masks else None)
        if encoded.context_BH is not None:
            values = torch.cat([values, encoded.context_BH.expand(len(values), -1, -1)], 2)
        final: list[tuple[Tensor, Tensor | None]] = []
        outputs: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if index and masks:
                values = apply_mask(values, masks.decoder_layers[index - 1])
            values, h, c = layer.sequence(values, *encoded.state.layer(index))
            outputs.append(values)
            final.append((h, c))
        features = apply_mask(self._features(values, encoded), masks.output_TBF if masks else None)
        return Decoded(features, outputs, State.stack(final))

    def tables(self) -> Tables:
        """Prepare what ``step`` looks up; once an update, or once a model that no longer changes."""
        first = self.layers[0]
        weight_GE = first.weight_ih[:, : self.embedding_size]
        return Tables(functional.linear(self.embedding.weight, weight_GE, first.bias_ih))

    def context_gates(self, encoded: Encoded) -> Tensor | None:
        """What the context adds to the first layer's gates at every step, [B, G]; None where it is no input of them."""
        if encoded.context_BH is None:
            return None
        return functional.linear(encoded.context_BH, self.layers[0].weight_ih[:, self.embedding_size :])

    def step(
        self, tokens_B: Tensor, encoded: Encoded, tables: Tables, masks: StepMasks | None = None
    ) -> tuple[Tensor, Encoded]:
        """Feed one token a row.

        Args:
            tokens_B: the tokens fed.
            encoded: the state before, with what stays the same.
            tables: from ``tables`` under the present weights.
            masks: dropout of this step, None for none.

        Returns:
            Features [B, F] for ``logits``, and ``encoded`` with the state after.
        """
        gates = tables.token_gates_VG.index_select(0, tokens_B)
        if masks and masks.token_B1 is not None:
            # the table's rows hold the bias too, and dropout leaves that alone
            bias_G = self.layers[0].bias_ih.to(gates.dtype)
            gates = bias_G + masks.token_B1 * (gates - bias_G)
        context_BG = self.context_gates(encoded)
        if context_BG is not None:
            gates = gates + context_BG
        layers: list[tuple[Tensor, Tensor | None]] = []
        for index, layer in enumerate(self.layers):
            if index:
                below = apply_mask(layers[-1][0], masks.layers[index - 1] if masks else None)
                gates = layer.input_gates(below)
            layers.append(layer.step(gates, *encoded.state.layer(index)))
        features = self._features(layers[-1][0].unsqueeze(0), encoded).squeeze(0)
        return apply_mask(features, masks.output_BF if masks else None), replace(encoded, state=State.stack(layers))

    def logits(self, features: Tensor) -> Tensor:
        """Unnormalised log-probabilities: [..., F] -> [..., V]."""
        if self.projection is not None:
            features = self.projection(features)
        weight = self.embedding.weight if self.output_weight is None else self.output_weight
        return functional.linear(features, weight, self.output_bias)

    def _features(self, outputs_TBH: Tensor, encoded: Encoded) -> Tensor:
        """What the output layer reads: the top layer's outputs, attended, and the context beside them."""
        if self.attention is not None:
            assert encoded.memory is not None
            outputs_TBH = self.attention(outputs_TBH.transpose(0, 1), encoded.memory)[0].transpose(0, 1)
        if encoded.context_BH is not None:
            context_TBH = encoded.context_BH.expand(len(outputs_TBH), -1, -1)
            return torch.cat([outputs_TBH, context_TBH.to(outputs_TBH.dtype)], 2)
        return outputs_TBH
