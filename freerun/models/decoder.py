"""The decoder: writes the target one token at a time, starting from the state that the bridge passes on.

One network, three ways through it, tested for equality: ``sequence`` over tokens known beforehand, ``roll_out`` over
tokens that are chosen on the way, ``step`` over one token with tables prepared once. The output layer is separate
(``logits``), so that it is computed only where needed.

Over 350 lines, because the three ways share their weights, tables and conditions.

Shape suffixes: B batch, T target, S source, V vocabulary, E embedding, H hidden, M memory, F features before the output
layer, G gates, O what an attention reads of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from freerun.architecture import Architecture
from freerun.models.attended_sequence import AttendedLayer, Choose, TokenGates, run_attended_sequence
from freerun.models.attention import RecurrentCondition, TokenOutputs, build_attention, build_conditions
from freerun.models.cpu_kernels import StepWeights
from freerun.models.device import is_asynchronous
from freerun.models.dropout import DropoutMasks, StepMasks, apply_mask
from freerun.models.encoded import Encoded
from freerun.models.feature_encoder import NO_FEATURES, EncodedFeatures, with_entries
from freerun.models.recurrence import LayerStack, RecurrentLayer
from freerun.models.recurrent_state import State
from freerun.models.token_inputs import Inputs, Tokens

__all__ = ["Decoded", "Decoder", "NextTokens", "Tables"]

NextTokens = Callable[[int, Tensor], Tensor | None]
"""``(t, features_BF) -> tokens_B``: the tokens to feed at step t + 1, given the features of step t; None to end."""


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
        self.has_compiled_attention = sizes.attention_spec.compiled_training and not self.replays
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
            return self._steps(target_in_BT.t().contiguous(), encoded, masks)[0]
        token_mask_TB1 = masks.target_tokens_TB1 if masks else None
        reads = [condition.before_step(encoded) for condition in self.conditions]
        given = [read_BI for read_BI in reads if read_BI is not None]
        context_BC = given[0] if len(given) == 1 else torch.cat(given, 1) if given else None
        summary_BE = encoded.feature_summary_BE
        inputs: Inputs = Tokens(target_in_BT.t(), self._embedding(masks), token_mask_TB1, summary_BE, context_BC)
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

    def roll_out(
        self, tokens_B: Tensor, steps: int, encoded: Encoded, choose: NextTokens, masks: DropoutMasks | None = None
    ) -> tuple[Decoded, Tensor]:
        """Run step by step, feeding what ``choose`` returns; with gradients if they are enabled, though not of choices.

        Args:
            tokens_B: the tokens fed at the first step.
            steps: the largest number of steps.
            encoded: the encoded source to start from.
            choose: returns the tokens to feed next. It is called without gradients after each step, the last included.
            masks: dropout for as many steps, None for none.

        Returns:
            The steps that were made, and the tokens [B, T] that were fed.
        """
        fed_TB = tokens_B.new_zeros(steps, len(tokens_B))
        fed_TB[0] = tokens_B
        decoded, fed_TB = self._steps(fed_TB, encoded, masks, choose)
        return decoded, fed_TB.t()

    def _steps(
        self, ids_TB: Tensor, encoded: Encoded, masks: DropoutMasks | None, choose: NextTokens | None = None
    ) -> tuple[Decoded, Tensor]:
        """Run step by step: the tokens ``ids_TB`` or, after the first step, chosen ones, which are written there."""
        # compiled code is for training: a prediction has no compiler to load
        trains = torch.is_grad_enabled() or choose is not None
        if trains and self.has_compiled_attention and all(layer.is_compiled for layer in self.layers):
            return self._compiled_steps(ids_TB, encoded, masks, choose)
        return self._loop(ids_TB, encoded, masks, choose)

    def _loop(
        self, ids_TB: Tensor, encoded: Encoded, masks: DropoutMasks | None, choose: NextTokens | None
    ) -> tuple[Decoded, Tensor]:
        """Run the reference loop over ``step``."""
        tables, features, outputs, fed = self.tables(masks), [], [], []
        tokens_B: Tensor | None = ids_TB[0]
        for t in range(len(ids_TB)):
            assert tokens_B is not None
            each_BF, encoded = self.step(tokens_B, encoded, tables, masks.target_step(t) if masks else None)
            fed.append(tokens_B)
            features.append(each_BF)
            outputs.append(encoded.state.h_LBH)
            if choose is not None:
                with torch.no_grad():
                    tokens_B = choose(t, each_BF.detach())
                if tokens_B is None:
                    break
                tokens_B = tokens_B.clone()  # the choice may be a view of what it changes later
            elif t + 1 < len(ids_TB):
                tokens_B = ids_TB[t + 1]
        decoded = Decoded(torch.stack(features), list(torch.stack(outputs, 1)), encoded.state)
        return decoded, torch.stack(fed)

    def _compiled_steps(
        self, ids_TB: Tensor, encoded: Encoded, masks: DropoutMasks | None, choose: NextTokens | None
    ) -> tuple[Decoded, Tensor]:
        """Run attention that the recurrence reads by ``run_attended_sequence``."""
        *constant, attention = self.conditions
        assert isinstance(attention, RecurrentCondition)
        embedding_VE, rows_TB = self._embedding(masks), ids_TB
        if choose is None and len(embedding_VE) > ids_TB.numel():
            # a table of all tokens would be more work than the tokens themselves
            used, rows_TB = torch.unique(ids_TB, return_inverse=True)
            embedding_VE = embedding_VE.index_select(0, used)
        reads = [condition.before_step(encoded) for condition in constant]
        tokens, read_weight = self._token_gates(rows_TB, embedding_VE, encoded, masks, reads)
        layers = []
        for index, layer in enumerate(self.layers):
            weight_in = layer.weight_ih if index else read_weight
            mask = masks.decoder_layers[index - 1] if masks and index else None
            h_BH, c_BH = encoded.state.layer(index)
            layers.append(
                AttendedLayer(
                    h_BH=h_BH,
                    c_BH=c_BH,
                    weight_hh=layer.weight_hh,
                    weight_in=weight_in,
                    gated_bias_H=layer.gated_bias(),
                    bias_G=layer.bias() if index else None,
                    mask_TBH=mask,
                )
            )
        token_table_VO = attention.token_table(embedding_VE)

        def features_of(outputs_TBH: Tensor, reads_TBI: Tensor, fed_TB: Tensor, start: int = 0) -> Tensor:
            end = start + len(fed_TB)
            scale_TB = None if tokens.scale_TB is None else tokens.scale_TB[start:end]
            features_TBF = attention.features(outputs_TBH, reads_TBI, TokenOutputs(token_table_VO, fed_TB, scale_TB))
            for condition, read_BI in zip(constant[::-1], reads[::-1], strict=True):
                features_TBF, _ = condition.after_step(features_TBF, encoded, read_BI, None)
            mask_TBF = masks.output_TBF if masks else None
            return apply_mask(features_TBF, None if mask_TBF is None else mask_TBF[start:end])

        def chosen(t: int, h_BH: Tensor, read_BI: Tensor, fed_B: Tensor) -> Tensor | None:
            assert choose is not None
            return choose(t, features_of(h_BH.unsqueeze(0), read_BI.unsqueeze(0), fed_B.unsqueeze(0), t)[0])

        each: Choose | None = None if choose is None else chosen
        run = run_attended_sequence(self.layers[0].cell.name, tokens, layers, attention.inputs(encoded), each)
        features_TBF = features_of(run.layers_TBH[-1], run.reads_TBI, run.ids_TB)
        return Decoded(features_TBF, run.layers_TBH, State.stack(run.last)), run.ids_TB

    def _token_gates(
        self,
        ids_TB: Tensor,
        embedding_VE: Tensor,
        encoded: Encoded,
        masks: DropoutMasks | None,
        reads: Sequence[Tensor | None],
    ) -> tuple[TokenGates, Tensor]:
        """Return the first layer's gates except for attention, and the columns [G, I] of its weight for attention."""
        first = self.layers[0]
        weight_GE, _, *weights = self._first_weights()
        scale_TB1 = masks.target_tokens_TB1 if masks else None
        bias_G = first.bias()
        table_VG = functional.linear(embedding_VE, weight_GE, bias_G if scale_TB1 is None else None)
        added = [] if encoded.feature_gates_BG is None else [encoded.feature_gates_BG]
        added += [
            functional.linear(read_BI, weight_GI)
            for read_BI, weight_GI in zip(reads, weights[:-1], strict=True)
            if read_BI is not None
        ]
        if scale_TB1 is not None:
            # dropout of a token leaves the bias alone
            added.append(bias_G.expand(ids_TB.shape[1], -1))
        tokens = TokenGates(
            ids_TB=ids_TB,
            # matmuls may be rounded, but a row's gradient is a sum over all positions of its token
            table_VG=table_VG.to(torch.promote_types(table_VG.dtype, torch.float32)),
            scale_TB=None if scale_TB1 is None else scale_TB1[: len(ids_TB)].squeeze(2),
            constant_BG=sum(added[1:], added[0]) if added else None,
        )
        return tokens, weights[-1]

    def _first_weights(self) -> tuple[Tensor, ...]:
        """Return the first layer's weight by its inputs: embedding, summary of features, each condition."""
        sizes = [self.embedding_size, self.feature_summary_size]
        sizes += [condition.input_size for condition in self.conditions]
        weights: tuple[Tensor, ...] = self.layers[0].weight_ih.split_with_sizes(sizes, 1)
        return weights

    def _embedding(self, masks: DropoutMasks | None) -> Tensor:
        """Return the embedding of the tokens fed; a tied output layer has the whole weight."""
        return apply_mask(self.embedding.weight, masks.target_embedding_VE if masks else None)

    def tables(self, masks: DropoutMasks | None = None) -> Tables:
        """Prepare what ``step`` looks up; once per update, or once for a model that no longer changes."""
        embedding_VE = self._embedding(masks)
        weight_GE, _, *read_weights = self._first_weights()
        token_outputs_VO = tuple(condition.token_table(embedding_VE) for condition in self.conditions)
        token_gates_VG = functional.linear(embedding_VE, weight_GE, self.layers[0].bias())
        if is_asynchronous(embedding_VE.device) and token_gates_VG.dtype == torch.bfloat16:
            # matmuls may be rounded, but a row's gradient is a sum over all positions of its token
            token_gates_VG = token_gates_VG.float()
        step_weights = tuple(layer.step_weights() for layer in self.layers)
        return Tables(token_gates_VG, tuple(map(_cast_once, read_weights)), token_outputs_VO, step_weights)

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


def _cast_once(weight: Tensor) -> Tensor:
    """Return a weight as autocast would convert it in every step: it remembers whole parameters only, not parts."""
    if weight.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
        return weight.to(torch.get_autocast_dtype("cuda"))
    return weight
