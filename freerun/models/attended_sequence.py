"""Attention that the recurrence reads, over whole targets: every step of the decoder in one autograd function.

Bahdanau's attention and input feeding make each step read what the one before left, so a target cannot be decoded in
one pass. What remains per step is small: one matmul of [h; r] with the recurrent weight and the columns for r side by
side, the products of h that attention needs, and two compiled functions (``compiled_attention`` has the formulas,
``compiled_cells`` those of the cells). Input projections of tokens are a table, keys and values are prepared once per
source, and each weight's gradient is one matmul over all steps, after the loop.

With h_t the top layer's output after t steps, both attentions read r_t = A(h_t): Bahdanau's for t = 0 .. T - 1, in the
step that follows; input feeding for t = 1 .. T, in the step that follows, too, and r_0 is given.

Tokens may be chosen on the way (``Choose``), so a rollout and its loss take one pass. Memory per decoder row and step:
the cells' states and gates, what each layer reads, the products of h and a weight for each source position.

bf16, if requested, is for matmuls and their operands only, as in ``cpu_kernels``.

Over 350 lines, because layers and attention each have a forward and a backward half that share their arrays.

Shape suffixes: L layers, B rows, T target, N sources, S source, V vocabulary, H hidden, G gates x hidden, I what a step
reads of the source, P products of h, X inputs of a layer's matmul: its h, then r (above the first layer, the h below).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from freerun.architecture import CELLS
from freerun.models.cpu_kernels import array_of, requested_dtype

__all__ = ["AttendedLayer", "AttendedOutput", "AttentionInputs", "Choose", "TokenGates", "run_attended_sequence"]

Numbers = NDArray[Any]

Choose = Callable[[int, Tensor, Tensor, Tensor], Tensor | None]
"""``(t, h_BH, r_BI, tokens_B) -> tokens_B``: the tokens to feed at step t + 1, after the tokens of step t; None to end.

``r_BI`` is what step t read; with input feeding, what it left.
"""


@dataclass(frozen=True, kw_only=True)
class TokenGates:
    """The tokens fed, and their part of the first layer's gates.

    Attributes:
        ids_TB: rows of the table; those after the first are overwritten if tokens are chosen on the way.
        table_VG: the input projection of each token, in float32 or float64.
        scale_TB: multiplies a row (dropout of whole tokens); None: nothing does.
        constant_BG: added at every step, with the bias if rows are scaled; None: nothing is.
    """

    ids_TB: Tensor
    table_VG: Tensor
    scale_TB: Tensor | None = None
    constant_BG: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class AttendedLayer:
    """One recurrent layer: its state before the first step and its weights.

    ``weight_in`` multiplies what attention gives the first layer [G, I], or the h of the layer below, which
    ``mask_TBH`` drops out; ``bias_G`` is that of a layer above the first; ``gated_bias_H`` as in ``run_sequence``.
    """

    h_BH: Tensor
    c_BH: Tensor | None
    weight_hh: Tensor
    weight_in: Tensor
    gated_bias_H: Tensor | None = None
    bias_G: Tensor | None = None
    mask_TBH: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class AttentionInputs:
    """An attention, prepared for its sources.

    Attributes:
        keys_NSH: compared with the query.
        values_NSI: averaged.
        real_NS: True on real positions; None: all are.
        product_PH: multiplies h. Its first H rows give the query of an attention with a vector (of others, h itself is
            the query); the remaining I rows what is added before tanh with input feeding.
        vector_H: v of ``v . tanh(query + key)``; None: scores are ``query . key``.
        feeds_input: input feeding, otherwise Bahdanau's.
        first_BI: r_0 of input feeding.
    """

    keys_NSH: Tensor
    values_NSI: Tensor
    real_NS: Tensor | None
    product_PH: Tensor
    vector_H: Tensor | None = None
    feeds_input: bool = False
    first_BI: Tensor | None = None


@dataclass(frozen=True)
class AttendedOutput:
    """Outputs [T, B, H] of each layer, ``reads_TBI`` (see ``Choose``), each layer's last (h, c), the tokens fed."""

    layers_TBH: list[Tensor]
    reads_TBI: Tensor
    last: list[tuple[Tensor, Tensor | None]]
    ids_TB: Tensor


def run_attended_sequence(
    cell: str,
    tokens: TokenGates,
    layers: Sequence[AttendedLayer],
    attention: AttentionInputs,
    choose: Choose | None = None,
) -> AttendedOutput:
    """Run a decoder with attention in its recurrence; differentiable once, with respect to all values but masks.

    ``cell`` has compiled steps. If ``choose`` ends it early, outputs have as many steps as were made.
    """
    requested = requested_dtype()
    given = _Given(
        cell=cell,
        ids_TB=tokens.ids_TB,
        scale_TB=tokens.scale_TB,
        real_NS=attention.real_NS,
        feeds_input=attention.feeds_input,
        compute_dtype=requested,
        choose=choose,
    )
    flat: list[Tensor | None] = [tokens.table_VG, tokens.constant_BG, attention.keys_NSH, attention.values_NSI]
    flat += [attention.product_PH, attention.vector_H, attention.first_BI]
    masks = []
    for layer in layers:
        flat += [layer.h_BH, layer.c_BH, layer.weight_hh, layer.weight_in, layer.gated_bias_H, layer.bias_G]
        masks.append(layer.mask_TBH)
    with torch.autocast("cpu", enabled=False):
        reads, *rest = _AttendedSequence.apply(given, masks, *flat)  # type: ignore[no-untyped-call]
    by_layer = [rest[3 * index : 3 * index + 3] for index in range(len(layers))]
    last = [(h, c) for _, h, c in by_layer]
    return AttendedOutput([outputs for outputs, _, _ in by_layer], reads, last, given.ids_TB[: len(reads)])


@dataclass(frozen=True, kw_only=True)
class _Given:
    """Arguments without a gradient."""

    cell: str
    ids_TB: Tensor
    scale_TB: Tensor | None
    real_NS: Tensor | None
    feeds_input: bool
    compute_dtype: torch.dtype | None
    choose: Choose | None


class _Layer:
    """One layer's weights and values of all steps; entry 0 of the values is from before the first step."""

    def __init__(self, cell: str, requested: torch.dtype | None, steps: int, tensors: Sequence[Tensor | None]) -> None:
        from freerun.models.compiled_cells import COMPILED_CELLS  # imports Numba

        h_BH, c_BH, weight_hh, weight_in, gated_bias_H, bias_G = tensors
        assert h_BH is not None and weight_hh is not None and weight_in is not None
        self.spec, self.compiled = CELLS[cell], COMPILED_CELLS[cell]
        self.rows, self.size = h_BH.shape
        self.read_size = weight_in.shape[1]
        sums = torch.promote_types(weight_hh.dtype, torch.float32)
        self.operands = requested or weight_hh.dtype
        # [recurrent weight; weight of what is read], side by side: one matmul
        self.weight_GX = weight_hh.new_empty(len(weight_hh), self.size + self.read_size, dtype=self.operands)
        self.weight_GX[:, : self.size], self.weight_GX[:, self.size :] = weight_hh, weight_in
        self.inputs_TBX = weight_hh.new_empty(steps + 1, self.rows, self.size + self.read_size, dtype=self.operands)
        self.accum_TBH = weight_hh.new_empty(steps + 1, self.rows, self.size, dtype=sums)
        self.inputs_TBX[0, :, : self.size] = h_BH
        self.accum_TBH[0] = h_BH if c_BH is None else c_BH
        self.saved_TBK = self.accum_TBH.new_empty(steps, self.rows, self.compiled.saved * self.size)
        self.bias_H = array_of(self.accum_TBH.new_zeros(0) if gated_bias_H is None else gated_bias_H.to(sums))
        self.x_1G = None if bias_G is None else bias_G.to(sums).unsqueeze(0)
        self.product_BG = self.inputs_TBX.new_empty(self.rows, len(weight_hh))
        self.arrays = tuple(map(array_of, (self.accum_TBH, self.saved_TBK, self.inputs_TBX, self.product_BG)))
        # views of each step, made once: h after t steps, as an operand of matmuls, and what step t reads next to it
        self.h = self.inputs_TBX[:, :, : self.size].unbind(0)
        self.read = self.inputs_TBX[:, :, self.size :].unbind(0)
        self.inputs = self.inputs_TBX.unbind(0)
        self.weight_XG = self.weight_GX.t()

    @property
    def separate(self) -> bool:
        """Return True if the product of what is read is not simply added to the recurrent one: a gate is between."""
        return self.spec.gated_bias

    def last(self, t: int) -> tuple[Tensor, Tensor | None]:
        """Return the state (h, c) after ``t`` steps, in the type of sums."""
        # copies: an output that is one of these views would keep itself alive through its graph
        if not self.spec.has_cell_state:
            return self.accum_TBH[t].clone(), None
        return self.h[t].to(self.accum_TBH.dtype, copy=True), self.accum_TBH[t].clone()

    def step(self, t: int, rows_B: Numbers, x_NG: Numbers, scale_B: Numbers, constant_BG: Numbers) -> None:
        """Run step ``t``: rows, scale and constant of the gates' inputs as in ``compiled_cells.gate_inputs``."""
        from freerun.models.compiled_cells import gate_inputs

        accum, saved, inputs, product = self.arrays
        read_BG = product[:0]
        if self.separate:
            torch.mm(self.h[t], self.weight_XG[: self.size], out=self.product_BG)
            read_BG = array_of(torch.mm(self.read[t], self.weight_XG[self.size :]))
        else:
            torch.mm(self.inputs[t], self.weight_XG, out=self.product_BG)
        if len(scale_B) or len(constant_BG) or len(read_BG):
            sums_BG = np.empty(product.shape, accum.dtype)
            gate_inputs(rows_B, x_NG, scale_B, constant_BG, read_BG, sums_BG)
            x_NG, rows_B = sums_BG, np.arange(self.rows)
        self.compiled.forward(product, x_NG, rows_B, self.bias_H, accum[t], saved[t], accum[t + 1], inputs[t + 1])


class _LayerGradients:
    """The gradients of a layer's values, filled from the last step to the first."""

    def __init__(
        self, layer: _Layer, steps: int, d_outputs_TBH: Tensor | None, d_h: Tensor | None, d_c: Tensor | None
    ) -> None:
        like = layer.accum_TBH
        self.layer = layer
        self.dh_TBH = torch.zeros_like(like[1 : steps + 1])
        if d_outputs_TBH is not None:
            self.dh_TBH.copy_(d_outputs_TBH)
        if d_h is not None:
            self.dh_TBH[-1] += d_h
        self.d_accum_BH = torch.zeros_like(like[0]) if d_c is None else d_c.to(like.dtype, copy=True)
        self.d_inputs_BX = layer.inputs_TBX.new_zeros(layer.rows, layer.size + layer.read_size)
        self.du_TBG = layer.product_BG.new_empty(steps, *layer.product_BG.shape)
        is_one = layer.operands == like.dtype and not layer.separate
        self.da_BG = None if is_one else like.new_empty(layer.product_BG.shape)
        self.dx_TBG = torch.empty_like(self.du_TBG) if layer.separate else self.du_TBG
        self.d_bias_H = like.new_zeros(layer.size if layer.separate else 0)
        self.dh, self.du = self.dh_TBH.unbind(0), self.du_TBG.unbind(0)
        self.arrays = tuple(map(array_of, (self.dh_TBH, self.d_accum_BH, self.d_inputs_BX, self.du_TBG, self.d_bias_H)))

    def step(self, t: int) -> Numbers:
        """Run step ``t`` backwards: return the gradient [B, G] of the input projection, keep those of the inputs."""
        layer, size = self.layer, self.layer.size
        accum, saved, _, _ = layer.arrays
        dh, d_accum, d_inputs, du, d_bias = self.arrays
        da = du[t] if self.da_BG is None else array_of(self.da_BG)
        layer.compiled.backward(dh[t], d_inputs, saved[t], accum[t], accum[t + 1], d_accum, da, du[t], d_bias)
        if layer.separate:
            assert self.da_BG is not None
            self.dx_TBG[t].copy_(self.da_BG)
            torch.mm(self.du[t], layer.weight_GX[:, :size], out=self.d_inputs_BX[:, :size])
            torch.mm(self.dx_TBG[t], layer.weight_GX[:, size:], out=self.d_inputs_BX[:, size:])
        else:
            torch.mm(self.du[t], layer.weight_GX, out=self.d_inputs_BX)
        return da

    def first_state(self) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of (h, c) before the first step."""
        d_h_BH = self.d_inputs_BX[:, : self.layer.size].to(self.d_accum_BH.dtype)
        return (d_h_BH, self.d_accum_BH) if self.layer.spec.has_cell_state else (d_h_BH + self.d_accum_BH, None)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of the recurrent weight and of that of what is read: one matmul over all steps."""
        size, inputs_TBX = self.layer.size, self.layer.inputs_TBX[: len(self.du_TBG)]
        du_NG, inputs_NX = self.du_TBG.flatten(0, 1), inputs_TBX.flatten(0, 1)
        dtype = self.d_accum_BH.dtype
        if self.layer.separate:
            d_hh = torch.mm(du_NG.t(), inputs_NX[:, :size])
            return d_hh.to(dtype), torch.mm(self.dx_TBG.flatten(0, 1).t(), inputs_NX[:, size:]).to(dtype)
        d_weight_GX = torch.mm(du_NG.t(), inputs_NX)
        # converted part by part: what autograd gets is contiguous, and is not copied again
        return d_weight_GX[:, :size].to(dtype), d_weight_GX[:, size:].to(dtype)


class _Attention:
    """An attention's operands and values of all steps. Step ``t`` is entry t, or with input feeding that of r_(t+1)."""

    def __init__(self, given: _Given, first: _Layer, top: _Layer, steps: int, tensors: Sequence[Tensor | None]) -> None:
        keys_NSH, values_NSI, product_PH, vector_H, first_BI = tensors
        assert keys_NSH is not None and values_NSI is not None and product_PH is not None
        sums, operands = first.accum_TBH.dtype, first.operands
        self.first, self.top, self.feeds_input = first, top, given.feeds_input
        self.has_vector = vector_H is not None
        self.keys_NSH = keys_NSH.to(operands).contiguous()
        self.values_NSI = values_NSI.to(operands).contiguous()
        self.product_PH = product_PH.to(operands)
        shape = self.keys_NSH.shape[:2]
        self.real = np.ones(shape, np.bool_) if given.real_NS is None else given.real_NS.contiguous().numpy()
        self.weights_TBS = first.accum_TBH.new_empty(steps, first.rows, shape[1])
        # the products are read again in the backward pass if they hold a query
        self.products_TBP = top.inputs_TBX.new_empty(steps if self.has_vector else 1, first.rows, len(product_PH))
        self.products_of, self.product_HP = self.products_TBP.unbind(0), self.product_PH.t()
        self.weights, self.products = array_of(self.weights_TBS), array_of(self.products_TBP)
        self.keys, self.values = array_of(self.keys_NSH), array_of(self.values_NSI)
        if vector_H is not None:
            from freerun.models.compiled_attention import factors

            self.vector = array_of(vector_H.to(sums))
            self.factors, self.small = np.empty(self.keys.shape, self.vector.dtype), np.empty(shape[0], np.bool_)
            factors(self.keys, self.real, self.factors, self.small)
        if self.feeds_input:
            first.read[0][:] = 0.0 if first_BI is None else first_BI

    def step(self, t: int) -> None:
        """Write what step ``t`` reads (input feeding: leaves for the next) from the top layer's h."""
        from freerun.models.compiled_attention import attend_by_products, attend_by_sums

        at = t + 1 if self.feeds_input else t
        slot = t if self.has_vector else 0
        torch.mm(self.top.h[at], self.product_HP, out=self.products_of[slot])
        products, read = self.products[slot], self.first.arrays[2][at]
        source = (self.values, self.real, self.weights[t], read)
        if self.has_vector:
            attend_by_sums(products, self.vector, self.keys, self.factors, self.small, *source)
        else:
            attend_by_products(self.top.arrays[2][at], products, self.keys, *source)

    def reads(self, steps: int) -> Tensor:
        """Return what was read (input feeding: left) at each step, [T, B, I]."""
        start = 1 if self.feeds_input else 0
        return self.first.inputs_TBX[start : start + steps, :, self.first.size :]


class _AttentionGradients:
    """The gradients of an attention's values, filled from the last step to the first."""

    def __init__(self, attention: _Attention, steps: int, d_reads_TBI: Tensor | None) -> None:
        first, self.attention = attention.first, attention
        like = first.accum_TBH
        self.d_given_TBI = like.new_zeros(steps, first.rows, first.read_size)
        if d_reads_TBI is not None:
            self.d_given_TBI.copy_(d_reads_TBI)
        self.d_sums_TBI = first.inputs_TBX.new_empty(self.d_given_TBI.shape)
        self.d_products_TBP = self.d_sums_TBI
        kept: tuple[Tensor, ...]
        if attention.has_vector:
            self.d_products_TBP = first.inputs_TBX.new_empty(steps, *attention.products_TBP.shape[1:])
            self.d_keys_NSH = like.new_zeros(attention.keys_NSH.shape)
            self.d_vector_H = like.new_zeros(attention.vector.shape)
            kept = (self.d_products_TBP, self.d_sums_TBI, self.d_keys_NSH, self.d_vector_H)
        else:
            self.d_scores_TBS = like.new_empty(steps, *attention.weights_TBS.shape[1:])
            kept = (self.d_sums_TBI, self.d_scores_TBS)
        self.given, self.kept = array_of(self.d_given_TBI), tuple(map(array_of, kept))
        self.d_products_of = self.d_products_TBP.unbind(0)

    def step(self, t: int, d_inputs: Numbers, dh_BH: Tensor) -> None:
        """Run step ``t`` backwards: add to ``dh_BH``, the gradient of the h from which it read.

        ``d_inputs`` [B, X] ends with the gradient of r from the step that read it.
        """
        from freerun.models.compiled_attention import attend_by_products_backward, attend_by_sums_backward

        each = self.attention
        at = t + 1 if each.feeds_input else t
        read, weights = each.first.arrays[2][at], each.weights[t]
        source = (each.values, each.real, weights)
        if each.has_vector:
            d_products, d_sums, d_keys, d_vector = self.kept
            keys = (each.products[t], each.vector, each.keys, each.factors, each.small)
            attend_by_sums_backward(
                *(d_inputs, self.given[t], read, *keys, *source, d_products[t], d_sums[t], d_keys, d_vector)
            )
        else:
            d_sums, d_scores = self.kept
            attend_by_products_backward(
                *(d_inputs, self.given[t], read, each.keys, *source, d_sums[t], d_scores[t], array_of(dh_BH))
            )
        if dh_BH.dtype == each.product_PH.dtype:
            dh_BH.addmm_(self.d_products_of[t], each.product_PH)
        else:
            dh_BH += torch.mm(self.d_products_of[t], each.product_PH)

    def operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the gradients of keys, values, ``product_PH`` and v: what is linear is one matmul over all steps."""
        each = self.attention
        steps = len(self.d_sums_TBI)
        start = 1 if each.feeds_input else 0
        h_TBH = each.top.inputs_TBX[start : start + steps, :, : each.top.size]
        d_values = torch.bmm(
            self._by_source(each.weights_TBS[:steps].to(h_TBH.dtype)).transpose(1, 2), self._by_source(self.d_sums_TBI)
        )
        d_product = torch.mm(self.d_products_TBP.flatten(0, 1).t(), h_TBH.flatten(0, 1))
        if each.has_vector:
            return self.d_keys_NSH, d_values, d_product, self.d_vector_H
        d_scores = self._by_source(self.d_scores_TBS.to(h_TBH.dtype))
        return torch.bmm(d_scores.transpose(1, 2), self._by_source(h_TBH)), d_values, d_product, None

    def _by_source(self, values_TBX: Tensor) -> Tensor:
        """Return the values of all rows and steps of a source together, [N, T x rows of each, X]."""
        sources = len(self.attention.keys_NSH)
        steps, rows, size = values_TBX.shape
        return values_TBX.view(steps, sources, rows // sources, size).transpose(0, 1).reshape(sources, -1, size)


class _AttendedSequence(torch.autograd.Function):
    """Arguments of ``run_attended_sequence``, flattened; returns the reads, then outputs, h and c of each layer."""

    @staticmethod
    def forward(
        ctx: Any, given: _Given, masks: Sequence[Tensor | None], *tensors: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        table_VG, constant_BG, *of_attention = tensors[:7]
        assert table_VG is not None
        steps = len(given.ids_TB)
        of_layers = [tensors[7 + 6 * index : 13 + 6 * index] for index in range(len(masks))]
        layers = [_Layer(given.cell, given.compute_dtype, steps, each) for each in of_layers]
        attention = _Attention(given, layers[0], layers[-1], steps, of_attention)
        table, ids, nothing = array_of(table_VG), given.ids_TB.numpy(), np.empty((0, 1), layers[0].arrays[0].dtype)
        scales = None if given.scale_TB is None else array_of(given.scale_TB.to(table_VG.dtype).contiguous())
        constant = nothing if constant_BG is None else array_of(constant_BG.to(table_VG.dtype).contiguous())
        made = 0
        for t in range(steps):
            made = t + 1
            if not given.feeds_input:
                attention.step(t)
            for index, layer in enumerate(layers):
                if index == 0:
                    layer.step(t, ids[t], table, nothing[:, 0] if scales is None else scales[t], constant)
                    continue
                below_BH, mask = layers[index - 1].h[t + 1], masks[index]
                layer.read[t][:] = below_BH if mask is None else below_BH * mask[t]
                assert layer.x_1G is not None
                layer.step(t, np.zeros(layer.rows, np.int64), array_of(layer.x_1G), nothing[:, 0], nothing)
            if given.feeds_input:
                attention.step(t)
            if given.choose is not None:
                chosen_B = _choose(given, t, layers, attention)
                if chosen_B is None or made == steps:
                    break
                given.ids_TB[made] = chosen_B
        ctx.given, ctx.masks, ctx.layers, ctx.attention, ctx.steps = given, masks, layers, attention, made
        ctx.scales, ctx.table_shape, ctx.has_constant = scales, table_VG.shape, constant_BG is not None
        ctx.dtypes = [None if each is None else each.dtype for each in tensors]
        ctx.set_materialize_grads(False)
        results: list[Tensor | None] = [attention.reads(made).contiguous()]
        for layer in layers:
            results += [layer.inputs_TBX[1 : made + 1, :, : layer.size].contiguous(), *layer.last(made)]
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_reads_TBI: Tensor | None, *d_results: Tensor | None) -> tuple[Tensor | None, ...]:
        from freerun.models.compiled_cells import add_rows, add_scaled_rows

        given, masks, steps = ctx.given, ctx.masks, ctx.steps
        of_layers = [d_results[3 * index : 3 * index + 3] for index in range(len(masks))]
        layers = [_LayerGradients(layer, steps, *d) for layer, d in zip(ctx.layers, of_layers, strict=True)]
        first, top = layers[0], layers[-1]
        attention = _AttentionGradients(ctx.attention, steps, d_reads_TBI)
        like = first.d_accum_BH
        d_table_VG = like.new_zeros(ctx.table_shape)
        d_constant_BG = like.new_zeros(first.layer.product_BG.shape) if ctx.has_constant else None
        d_biases = [like.new_zeros(1, ctx.table_shape[1]) for _ in layers]
        d_before_BH = torch.zeros_like(top.d_accum_BH)  # what attention adds to the gradient of the first h
        table, ids, same = array_of(d_table_VG), given.ids_TB.numpy(), np.arange(first.layer.rows)
        for t in range(steps - 1, -1, -1):
            if given.feeds_input:
                attention.step(t, first.arrays[2], top.dh[t])
            for index in range(len(layers) - 1, -1, -1):
                layer = layers[index]
                if index + 1 < len(layers):
                    above, mask = layers[index + 1], masks[index + 1]
                    d_below_BH = above.d_inputs_BX[:, above.layer.size :]
                    layer.dh[t].add_(d_below_BH if mask is None else d_below_BH * mask[t])
                da = layer.step(t)
                if index:
                    add_rows(array_of(d_biases[index]), np.zeros(len(same), np.int64), da)
                elif ctx.scales is None:
                    add_rows(table, ids[t], da)
                else:
                    add_scaled_rows(table, ids[t], ctx.scales[t], da)
                if index == 0 and d_constant_BG is not None:
                    add_rows(array_of(d_constant_BG), same, da)
            if not given.feeds_input:
                attention.step(t, first.arrays[2], top.dh[t - 1] if t else d_before_BH)
        d_first_BI = first.d_inputs_BX[:, first.layer.size :] if given.feeds_input else None
        d_keys, d_values, d_product, d_vector = attention.operands()
        gradients = [d_table_VG, d_constant_BG, d_keys, d_values, d_product, d_vector, d_first_BI]
        for index, layer in enumerate(layers):
            d_h, d_c = layer.first_state()
            d_h = d_h + d_before_BH if layer is top else d_h
            d_gated = layer.d_bias_H if layer.layer.separate else None
            gradients += [d_h, d_c, *layer.weights(), d_gated, d_biases[index][0] if index else None]
        typed = [
            None if each is None or dtype is None else each.to(dtype)
            for each, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]
        return None, None, *typed


def _choose(given: _Given, t: int, layers: Sequence[_Layer], attention: _Attention) -> Tensor | None:
    """Call ``choose`` under the autocast that the caller requested."""
    assert given.choose is not None
    read_BI = attention.reads(t + 1)[t]
    with torch.autocast("cpu", enabled=given.compute_dtype is not None):
        return given.choose(t, layers[-1].h[t + 1], read_BI, given.ids_TB[t])
