"""The decoder: writes the target one token at a time, starting from the state that the bridge passes on.

One network, two ways through it, tested for equality: ``sequence`` over tokens known beforehand, ``step`` over one
token with tables prepared once. The output layer is separate (``logits``), so that it is computed only where needed.

Shape suffixes: B batch, T target, S source, V vocabulary, E embedding, H hidden, M memory, F features before the output
layer, G gates, O what an attention reads of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from freerun.architecture import Architecture
from freerun.models.attention import build_attention, build_conditions
from freerun.models.cpu_kernels import StepWeights
from freerun.models.dropout import DropoutMasks, StepMasks, apply_mask
from freerun.models.encoded import Encoded
from freerun.models.feature_encoder import NO_FEATURES, EncodedFeatures, with_entries
from freerun.models.recurrence import LayerStack, RecurrentLayer
from freerun.models.recurrent_state import State
from freerun.models.token_inputs import Inputs, Tokens

__all__ = ["Decoded", "Decoder", "Tables"]


@dataclass(frozen=True)
class Decoded:
    """Output of a full-sequence pass; undefined on padding.

    ``features_TBF`` are for ``logits``, ``layers_TBH`` the outputs of each recurrent layer before dropout, ``state`` is
    the one after the last step.
    """

    features_TBF: Tensor
    layers_TBH: list[Tensor]
    state: State


@dataclass(frozen=True)
class Tables:
    """Precomputed values that a step looks up, valid until the weights change."""

    token_gates_VG: Tensor
    """The embedding multiplied into the first layer's gates, its bias included."""
    read_weights: tuple[Tensor, ...]
    """For each condition, the columns [G, I] of the first layer's weight for its inputs.

    Selected once, because the gradient of a selection is as large as the whole weight.
    """
    token_outputs_VO: tuple[Tensor | None, ...] = ()
    """For each condition, the part of a token that it reads after the recurrence."""
    step_weights: tuple[StepWeights | None, ...] = ()
    """Values that each layer's steps without gradients share."""


class Decoder(nn.Module):
    """Embedding, recurrent layers, conditions (source summary, attention), output layer.

    A tied output layer's weight is the target embedding (Press & Wolf 2017), behind a projection if the sizes differ.
    """

    def __init__(self, sizes: Architecture, backend: str = "auto") -> None:
        super().__init__()
        self.embedding_size = sizes.embedding_size
        self.embedding = nn.Embedding(sizes.target_vocabulary, sizes.embedding_size)
        inputs = [sizes.known_size + sizes.attended_size] + [sizes.hidden_size] * (sizes.num_layers - 1)
        self.layers = LayerStack(RecurrentLayer(sizes.cell, size, sizes.hidden_size, backend) for size in inputs)
        self.attention = build_attention(sizes)
        self.conditions = build_conditions(sizes, self.attention)
        self.has_context = sizes.every_step
        self.feature_size = sizes.features
        self.feature_summary_size = sizes.feature_summary_size
        self.projection: nn.Linear | None = None
        if sizes.is_projected:
            self.projection = nn.Linear(self.feature_size, sizes.embedding_size, bias=False)
        self.output_bias = nn.Parameter(torch.empty(sizes.target_vocabulary))
        self.output_weight: nn.Parameter | None = None
        if not sizes.tied_output:
            self.output_weight = nn.Parameter(torch.empty(sizes.target_vocabulary, self.feature_size))

    @property
    def replays(self) -> bool:
        """Return True if ``sequence`` is one pass: each step needs only tokens and the previous state."""
        return all(condition.replays for condition in self.conditions)

    def start(
        self, state: State, memory_SBM: Tensor, lengths_B: Tensor | None, features: EncodedFeatures = NO_FEATURES
    ) -> Encoded:
        """Return the decoder's first state with what every step reads, from what the bridge and the encoders give."""
        context_BH = state.h_LBH[-1] if self.has_context else None
        encoded = Encoded(
            state,
            context_BH,
            feature_summary_BE=features.summary_BE,
            feature_gates_BG=self._feature_gates(features.summary_BE),
        )
        if self.attention is None:
            return encoded
        steps_S = torch.arange(len(memory_SBM), device=memory_SBM.device)
        mask_BS = None if lengths_B is None else steps_S < lengths_B.unsqueeze(1)
        memory_BSM, mask_BS = with_entries(memory_SBM.transpose(0, 1), mask_BS, features)
        return replace(encoded, memory=self.attention.prepare(memory_BSM, mask_BS))

    def _feature_gates(self, summary_BE: Tensor | None) -> Tensor | None:
        """Return the projection [B, G] of the features' summary, which is the same at every step."""
        if summary_BE is None:
            return None
        first = self.layers[0].weight_ih[:, self.embedding_size : self.embedding_size + summary_BE.shape[1]]
        return functional.linear(summary_BE, first)

    def sequence(self, target_in_BT: Tensor, encoded: Encoded, masks: DropoutMasks | None = None) -> Decoded:
        """Run over whole targets.

        Args:
            target_in_BT: the tokens fed, BOS first, right-padded.
            encoded: the encoded source to start from.
            masks: dropout, None for none.
        """
        if not self.replays:
            return self._loop(target_in_BT, encoded, masks)
        token_mask_TB1 = masks.target_tokens_TB1 if masks else None
        reads = [condition.before_step(encoded) for condition in self.conditions]
        given = [read_BI for read_BI in reads if read_BI is not None]
        context_BC = given[0] if len(given) == 1 else torch.cat(given, 1) if given else None
        summary_BE = encoded.feature_summary_BE
        inputs: Inputs = Tokens(target_in_BT.t(), self.embedding.weight, token_mask_TB1, summary_BE, context_BC)
        final: list[tuple[Tensor, Tensor | None]] = []
        outputs: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if index:
                inputs = apply_mask(outputs[-1], masks.decoder_layers[index - 1] if masks else None)
            values, h, c = layer.sequence(inputs, *encoded.state.layer(index))
            outputs.append(values)
            final.append((h, c))
        features = outputs[-1]
        for condition, read_BI in zip(self.conditions[::-1], reads[::-1], strict=True):
            features, _ = condition.after_step(features, encoded, read_BI, None)
        features = apply_mask(features, masks.output_TBF if masks else None)
        return Decoded(features, outputs, State.stack(final))

    def _loop(self, target_in_BT: Tensor, encoded: Encoded, masks: DropoutMasks | None) -> Decoded:
        """Run step by step, with gradients if they are enabled."""
        tables, features, outputs = self.tables(), [], []
        for t, tokens_B in enumerate(target_in_BT.t()):
            each_BF, encoded = self.step(tokens_B, encoded, tables, masks.target_step(t) if masks else None)
            features.append(each_BF)
            outputs.append(encoded.state.h_LBH)
        return Decoded(torch.stack(features), list(torch.stack(outputs, 1)), encoded.state)

    def tables(self) -> Tables:
        """Prepare what ``step`` looks up; once per update, or once for a model that no longer changes."""
        first = self.layers[0]
        read_sizes = [condition.input_size for condition in self.conditions]
        sizes = [self.embedding_size, self.feature_summary_size, *read_sizes]
        weight_GE, _, *read_weights = first.weight_ih.split_with_sizes(sizes, 1)
        token_outputs_VO = tuple(condition.token_table(self.embedding.weight) for condition in self.conditions)
        token_gates_VG = functional.linear(self.embedding.weight, weight_GE, first.bias())
        step_weights = tuple(layer.step_weights() for layer in self.layers)
        return Tables(token_gates_VG, tuple(read_weights), token_outputs_VO, step_weights)

    def step(
        self,
        tokens_B: Tensor,
        encoded: Encoded,
        tables: Tables,
        masks: StepMasks | None = None,
        products_BG: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Encoded]:
        """Feed one token per row.

        Args:
            tokens_B: the tokens fed.
            encoded: the state before, with what every step reads.
            tables: from ``tables`` under the present weights.
            masks: dropout of this step, None for none.
            products_BG: each layer's matmul of its state and its recurrent weight, if it was computed before.

        Returns:
            Features [B, F] for ``logits``, and ``encoded`` with the state after.
        """
        gates = tables.token_gates_VG.index_select(0, tokens_B)
        if masks and masks.token_B1 is not None:
            # the table's rows contain the bias, which dropout leaves alone
            bias_G = self.layers[0].bias().to(gates.dtype)
            gates = bias_G + masks.token_B1 * (gates - bias_G)
        reads = []
        if encoded.feature_gates_BG is not None:
            gates = gates + encoded.feature_gates_BG
        for condition, weight_GI in zip(self.conditions, tables.read_weights, strict=True):
            read_BI = condition.before_step(encoded)
            reads.append(read_BI)
            if read_BI is not None:
                gates = gates + functional.linear(read_BI, weight_GI)
        layers: list[tuple[Tensor, Tensor | None]] = []
        for index, layer in enumerate(self.layers):
            if index:
                below = apply_mask(layers[-1][0], masks.layers[index - 1] if masks else None)
                gates = layer.input_gates(below)
            product_BG = products_BG[index] if products_BG else None
            layers.append(layer.step(gates, *encoded.state.layer(index), tables.step_weights[index], product_BG))
        features, carried_BH = layers[-1][0], None
        if reads:
            features = features.unsqueeze(0)
            for index in range(len(reads) - 1, -1, -1):
                table_VO = tables.token_outputs_VO[index]
                token_BO = None if table_VO is None else table_VO.index_select(0, tokens_B)
                if token_BO is not None and masks:
                    token_BO = apply_mask(token_BO, masks.token_B1)
                features, left_BH = self.conditions[index].after_step(features, encoded, reads[index], token_BO)
                carried_BH = carried_BH if left_BH is None else left_BH
            features = features.squeeze(0)
        after = replace(encoded, state=State.stack(layers), carried_BH=carried_BH)
        return apply_mask(features, masks.output_BF if masks else None), after

    def logits(self, features: Tensor) -> Tensor:
        """Unnormalized log-probabilities: [..., F] -> [..., V]."""
        return functional.linear(*self.output(features))

    def output(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the operands of the output layer's matmul: its input, its weight and its bias."""
        if self.projection is not None:
            features = self.projection(features)
        return features, self.embedding.weight if self.output_weight is None else self.output_weight, self.output_bias
