"""The maxout layer of Bahdanau's attention over all steps at once, in one autograd function.

As tensor operations, the three summands, their maximum and the gradient of the maximum are a dozen passes over an array
of twice the size of the features. Here one matmul is followed by one compiled pass (``compiled_attention`` has the
formula), forward and backward.

Shape suffixes: T target, B rows, V tokens, H hidden, M memory, O = 2 H.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freerun.models.cpu_kernels import array_of, requested_dtype

__all__ = ["run_maxout"]


def run_maxout(
    state_TBH: Tensor,
    context_TBM: Tensor,
    weights: tuple[Tensor, Tensor],
    bias_O: Tensor,
    table_VO: Tensor,
    ids_TB: Tensor,
    scale_TB: Tensor | None,
) -> Tensor:
    """Return the larger of each pair of ``state W_0' + context W_1' + bias + scale * table[ids]``, [T, B, H].

    Args:
        state_TBH: the top layer's outputs.
        context_TBM: the contexts that its steps read.
        weights: W_0 [O, H] and W_1 [O, M].
        bias_O: the bias.
        table_VO: a row for each token, in float32 or float64.
        ids_TB: the rows of the table.
        scale_TB: multiplies the row of a token; None: nothing does.

    Returns:
        Features in bf16 if autocast requests it, differentiable once.
    """
    given = (ids_TB, scale_TB, requested_dtype() or state_TBH.dtype)
    with torch.autocast("cpu", enabled=False):
        features_TBH: Tensor = _Maxout.apply(  # type: ignore[no-untyped-call]
            given, state_TBH, context_TBM, *weights, bias_O, table_VO
        )
    return features_TBH


class _Maxout(torch.autograd.Function):
    """Arguments as ``run_maxout``."""

    @staticmethod
    def forward(
        ctx: Any,
        given: tuple[Tensor, Tensor | None, torch.dtype],
        state_TBH: Tensor,
        context_TBM: Tensor,
        weight_OH: Tensor,
        weight_OM: Tensor,
        bias_O: Tensor,
        table_VO: Tensor,
    ) -> Tensor:
        from freerun.models.compiled_attention import maxout

        ids_TB, scale_TB, operands = given
        width = state_TBH.shape[2]
        inputs_RX = torch.cat([state_TBH, context_TBM], 2).flatten(0, 1).to(operands)
        weight_OX = weight_OH.new_empty(len(weight_OH), inputs_RX.shape[1], dtype=operands)
        weight_OX[:, :width], weight_OX[:, width:] = weight_OH, weight_OM
        products_RO = torch.mm(inputs_RX, weight_OX.t())
        features_TBH = products_RO.new_empty(*ids_TB.shape, len(weight_OH) // 2)
        is_second = np.empty((len(products_RO), features_TBH.shape[2]), np.bool_)
        rows = ids_TB.flatten().numpy()
        sums = table_VO.dtype
        scale = array_of(table_VO.new_empty(0) if scale_TB is None else scale_TB.to(sums).flatten())
        bias, table = array_of(bias_O.to(sums)), array_of(table_VO)
        maxout(array_of(products_RO), bias, rows, table, scale, array_of(features_TBH.flatten(0, 1)), is_second)
        ctx.rows, ctx.scale, ctx.is_second, ctx.width = rows, scale, is_second, width
        ctx.dtypes = [each.dtype for each in (state_TBH, context_TBM, weight_OH, weight_OM, bias_O)]
        ctx.save_for_backward(inputs_RX, weight_OX, table_VO)
        return features_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_features_TBH: Tensor) -> tuple[Tensor | None, ...]:
        from freerun.models.compiled_attention import maxout_backward

        inputs_RX, weight_OX, table_VO = ctx.saved_tensors
        d_products_RO = inputs_RX.new_empty(len(inputs_RX), len(weight_OX))
        d_table_VO, d_bias_O = torch.zeros_like(table_VO), table_VO.new_zeros(len(weight_OX))
        d_features = array_of(d_features_TBH.contiguous().flatten(0, 1))
        gradients = map(array_of, (d_products_RO, d_table_VO, d_bias_O))
        maxout_backward(d_features, ctx.is_second, ctx.rows, ctx.scale, *gradients)
        d_inputs = torch.mm(d_products_RO, weight_OX).view(*d_features_TBH.shape[:2], -1)
        d_weight = torch.mm(d_products_RO.t(), inputs_RX)
        split = [d_inputs[..., : ctx.width], d_inputs[..., ctx.width :], d_weight[:, : ctx.width]]
        parts = [*split, d_weight[:, ctx.width :], d_bias_O]
        return None, *(each.to(dtype) for each, dtype in zip(parts, ctx.dtypes, strict=True)), d_table_VO
