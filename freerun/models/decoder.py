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

from freerun.models.attention import BahdanauAttention, LuongAttention, Memory
from freerun.models.cpu_kernels import StepWeights, core_product
from freerun.models.dropout import DropoutMasks, StepMasks, apply_mask
from freerun.models.recurrence import Inputs, LayerStack, RecurrentLayer, Tokens
from freerun.models.recurrent_state import State

__all__ = ["Decoded", "Decoder", "Encoded", "Tables"]


@dataclass(frozen=True)
class Encoded:
    """What the decoder starts from: its initial ``state``, and what stays the same at every step.

    ``context_BH``: the encoder's summary for a decoder that reads it at every step; ``memory``: for attention;
    ``attended_BH``: what attention gave in the step before, where it is fed in again; ``products_BG``: each layer's
    product of its state and its recurrent weight for the next step, where ``Decoder.branch`` has made it.
    """

    state: State
    context_BH: Tensor | None = None
    memory: Memory | None = None
    attended_BH: Tensor | None = None
    products_BG: tuple[Tensor, ...] = ()

    def detach(self) -> Encoded:
        """The same values, cut off from the graph."""
        return Encoded(
            self.state.detach(),
            None if self.context_BH is None else self.context_BH.detach(),
            None if self.memory is None else self.memory.detach(),
            None if self.attended_BH is None else self.attended_BH.detach(),
        )

    def select(self, origins_N: Tensor) -> Encoded:
        """The rows ``origins_N``, with a memory entry for each."""
        rows = self.select_rows(origins_N)
        return rows if self.memory is None else replace(rows, memory=self.memory.select(origins_N))

    def select_rows(self, origins_N: Tensor) -> Encoded:
        """The rows ``origins_N``, the memory left as it is."""
        return Encoded(
            self.state.select(origins_N),
            None if self.context_BH is None else self.context_BH.index_select(0, origins_N),
            self.memory,
            None if self.attended_BH is None else self.attended_BH.index_select(0, origins_N),
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
    token_outputs_VO: Tensor | None = None
    """The embedding's part of Bahdanau's output layer."""
    step_weights: tuple[StepWeights | None, ...] = ()
    """What each layer's steps share where no gradients are wanted."""


class Decoder(nn.Module):
    """Embedding, recurrent layers, optional attention, output layer.

    Args:
        context: "init", the encoder's state starts the decoder (Sutskever et al. 2014), or "every_step", its summary
            is also an input of the first layer and of the output layer at each step (Cho et al. 2014).
        attention: "none", a score function of ``LuongAttention``, or "bahdanau".
        input_feeding: the attentional output is also an input of the next step (Luong et al. 2015, section 3.3).
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
        input_feeding: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.every_step = context == "every_step"
        self.embedding_size = embedding_size
        self.vocabulary_size = vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.input_feeding = input_feeding
        context_size = hidden_size if self.every_step else 0
        attended_size = memory_size if attention == "bahdanau" else hidden_size if input_feeding else 0
        self.known_size = embedding_size + context_size
        sizes = [self.known_size + attended_size] + [hidden_size] * (num_layers - 1)
        self.layers = LayerStack(RecurrentLayer(cell, size, hidden_size, backend) for size in sizes)
        self.attention: LuongAttention | BahdanauAttention | None = None
        if attention == "bahdanau":
            self.attention = BahdanauAttention(hidden_size, memory_size, embedding_size)
        elif attention != "none":
            self.attention = LuongAttention(attention, hidden_size, memory_size)
        self.feature_size = hidden_size + context_size
        self.projection: nn.Linear | None = None
        if tied_output and self.feature_size != embedding_size:
            self.projection = nn.Linear(self.feature_size, embedding_size, bias=False)
        self.output_bias = nn.Parameter(torch.empty(vocabulary_size))
        self.output_weight: nn.Parameter | None = None
        if not tied_output:
            self.output_weight = nn.Parameter(torch.empty(vocabulary_size, self.feature_size))

    @property
    def replays(self) -> bool:
        """Whether ``sequence`` is one pass over all steps: each needs only tokens and the state of the one before."""
        return not (self.input_feeding or isinstance(self.attention, BahdanauAttention))

    def sequence(self, target_in_BT: Tensor, encoded: Encoded, masks: DropoutMasks | None = None) -> Decoded:
        """Run over whole targets.

        Args:
            target_in_BT: the tokens fed, BOS first, right-padded.
            encoded: where to start from.
            masks: dropout, None for none.
        """
        if not self.replays:
            return self._loop(target_in_BT, encoded, masks)
        token_mask_TB1 = masks.target_tokens_TB1 if masks else None
        inputs: Inputs = Tokens(target_in_BT.t(), self.embedding.weight, token_mask_TB1, encoded.context_BH)
        final: list[tuple[Tensor, Tensor | None]] = []
        outputs: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if index:
                inputs = apply_mask(outputs[-1], masks.decoder_layers[index - 1] if masks else None)
            values, h, c = layer.sequence(inputs, *encoded.state.layer(index))
            outputs.append(values)
            final.append((h, c))
        features = self._with_context(self._attentional(outputs[-1], encoded), encoded)
        features = apply_mask(features, masks.output_TBF if masks else None)
        return Decoded(features, outputs, State.stack(final))

    def _loop(self, target_in_BT: Tensor, encoded: Encoded, masks: DropoutMasks | None) -> Decoded:
        """The slow path: a step after the other, with gradients where they are wanted."""
        tables, features, outputs = self.tables(), [], []
        for t, tokens_B in enumerate(target_in_BT.t()):
            each_BF, encoded = self.step(tokens_B, encoded, tables, masks.target_step(t) if masks else None)
            features.append(each_BF)
            outputs.append(encoded.state.h_LBH)
        return Decoded(torch.stack(features), list(torch.stack(outputs, 1)), encoded.state)

    def tables(self) -> Tables:
        """Prepare what ``step`` looks up; once an update, or once a model that no longer changes."""
        first = self.layers[0]
        weight_GE = first.weight_ih[:, : self.embedding_size]
        token_outputs_VO = None
        if isinstance(self.attention, BahdanauAttention):
            token_outputs_VO = self.attention.token_output(self.embedding.weight)
        token_gates_VG = functional.linear(self.embedding.weight, weight_GE, first.bias())
        return Tables(token_gates_VG, token_outputs_VO, tuple(layer.step_weights() for layer in self.layers))

    def context_gates(self, encoded: Encoded) -> Tensor | None:
        """What the context adds to the first layer's gates at every step, [B, G]; None where it is no input of them."""
        if encoded.context_BH is None:
            return None
        return functional.linear(encoded.context_BH, self.layers[0].weight_ih[:, self.embedding_size : self.known_size])

    def branch(self, encoded: Encoded, parents_P: Tensor, places_N: Tensor, tables: Tables) -> Encoded:
        """Rows that are copies of others: row n continues row ``parents_P[places_N[n]]``; the memory is left as it is.

        What a step multiplies by its recurrent weights depends on the row that is continued, and not on the token that
        is fed, so it is multiplied once for each parent. Hypotheses of a beam have fewer parents than there are of
        them: by a third in use.
        """
        parents, rows = encoded.select_rows(parents_P), encoded.select_rows(parents_P.index_select(0, places_N))
        layers = zip(tables.step_weights, parents.state.h_LBH, strict=True)
        products = [core_product(weights, h_BH) for weights, h_BH in layers if weights is not None]
        return replace(rows, products_BG=tuple(product.index_select(0, places_N) for product in products))

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
            bias_G = self.layers[0].bias().to(gates.dtype)
            gates = bias_G + masks.token_B1 * (gates - bias_G)
        context_BG = self.context_gates(encoded)
        if context_BG is not None:
            gates = gates + context_BG
        attended_BM = self._attended(encoded)
        if attended_BM is not None:
            gates = gates + functional.linear(attended_BM, self.layers[0].weight_ih[:, self.known_size :])
        layers: list[tuple[Tensor, Tensor | None]] = []
        for index, layer in enumerate(self.layers):
            if index:
                below = apply_mask(layers[-1][0], masks.layers[index - 1] if masks else None)
                gates = layer.input_gates(below)
            product_BG = encoded.products_BG[index] if encoded.products_BG else None
            layers.append(layer.step(gates, *encoded.state.layer(index), tables.step_weights[index], product_BG))
        if isinstance(self.attention, BahdanauAttention):
            assert attended_BM is not None and tables.token_outputs_VO is not None
            token_BO = tables.token_outputs_VO.index_select(0, tokens_B)
            token_BO = apply_mask(token_BO, masks.token_B1 if masks else None)
            top_BH = self.attention.output(layers[-1][0], token_BO, attended_BM)
        else:
            top_BH = self._attentional(layers[-1][0].unsqueeze(0), encoded).squeeze(0)
        features = self._with_context(top_BH.unsqueeze(0), encoded).squeeze(0)
        attended = top_BH if self.input_feeding else None
        after = replace(encoded, state=State.stack(layers), attended_BH=attended, products_BG=())
        return apply_mask(features, masks.output_BF if masks else None), after

    def _attended(self, encoded: Encoded) -> Tensor | None:
        """What the first layer reads of the memory: Bahdanau's context, or the last step's attentional output."""
        if isinstance(self.attention, BahdanauAttention):
            assert encoded.memory is not None
            return self.attention.context(encoded.state.h_LBH[-1], encoded.memory)[0]
        if not self.input_feeding:
            return None
        top_BH = encoded.state.h_LBH[-1]
        return torch.zeros_like(top_BH) if encoded.attended_BH is None else encoded.attended_BH

    def logits(self, features: Tensor) -> Tensor:
        """Unnormalised log-probabilities: [..., F] -> [..., V]."""
        return functional.linear(*self.output(features))

    def output(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits as a product not yet made: what the last layer reads, its weight and its bias."""
        if self.projection is not None:
            features = self.projection(features)
        return features, self.embedding.weight if self.output_weight is None else self.output_weight, self.output_bias

    def _attentional(self, outputs_TBH: Tensor, encoded: Encoded) -> Tensor:
        """The top layer's outputs after Luong's attention, or as they are without."""
        if self.attention is None:
            return outputs_TBH
        assert isinstance(self.attention, LuongAttention) and encoded.memory is not None
        attended: Tensor = self.attention(outputs_TBH.transpose(0, 1), encoded.memory)[0]
        return attended.transpose(0, 1)

    def _with_context(self, outputs_TBH: Tensor, encoded: Encoded) -> Tensor:
        """What the output layer reads: the context beside the outputs, where it is read at every step."""
        if encoded.context_BH is not None:
            context_TBH = encoded.context_BH.expand(len(outputs_TBH), -1, -1)
            return torch.cat([outputs_TBH, context_TBH.to(outputs_TBH.dtype)], 2)
        return outputs_TBH
