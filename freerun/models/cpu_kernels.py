"""freerun's CPU kernels: the cells over whole sequences with as few passes over memory as possible.

The input projection of the gates is given for all steps, or as a table with a row for each token. What remains of a
step is one matmul with the recurrent weight, torch's, and the cell, which is compiled (``compiled_cells`` has the
formulas): a step's gates are looked up, computed and used while they are in the cache. The gradient of the recurrent
weight is one matmul over all steps, and if the first state is zero its matmuls are left out.

bf16, if requested, is for matmuls only: their operands are rounded (``compute_dtype``), and so are their results; the
state, the gates and all sums over time stay in fp32 (``accum``).

Rollouts and searches take single steps without gradients, in torch's operations: a prediction has no compiler to load.
There only the logistic function s is evaluated, tanh x = 2 s(2 x) - 1, because torch's tanh is several times slower. A
gate with tanh has its inputs doubled beforehand, so one call serves all gates.

Over 350 lines, because a sequence without gradients is a loop over single steps, so both are here.

Shape suffixes: T time, B batch, H hidden, G gates x hidden; S = T + 1, entry 0 from before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from freerun.architecture import CELLS

__all__ = [
    "StepWeights",
    "array_of",
    "recurrent_product",
    "requested_dtype",
    "run_sequence",
    "run_step",
    "step_weights",
]

_MINUS_ONE = torch.tensor(-1.0)


def run_sequence(
    cell: str,
    gates: Tensor,
    ids_TB: Tensor | None,
    weight_GH: Tensor,
    gated_bias_H: Tensor | None,
    h_BH: Tensor | None,
    c_BH: Tensor | None,
    lengths_B: Tensor | None,
    constant_BG: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a cell over sequences; differentiable once.

    Args:
        cell: a cell with compiled steps.
        gates: the input projection of the gates with all biases except ``gated_bias_H``: [T, B, G], or a table [V, G].
        ids_TB: the table's row at each step; None if ``gates`` is not a table.
        weight_GH: the recurrent weight.
        gated_bias_H: the recurrent bias of a GRU's candidate, which the reset gate multiplies.
        h_BH: the state before the first step, with ``c_BH`` for an LSTM; None: zeros.
        lengths_B: real steps per row; None: all.
        constant_BG: added to the input projection at every step; None: nothing.

    Returns:
        Outputs [T, B, H], in bf16 if autocast requests it, and the state (h, c) after each row's last real step.
    """
    if not torch.is_grad_enabled():
        gates_TBG = gates if ids_TB is None else functional.embedding(ids_TB, gates)
        if constant_BG is not None:
            gates_TBG = gates_TBG + constant_BG
        return _without_gradients(cell, gates_TBG, step_weights(cell, weight_GH, gated_bias_H), h_BH, c_BH, lengths_B)
    compute_dtype = requested_dtype() or (torch.bfloat16 if weight_GH.dtype == torch.bfloat16 else None)
    with torch.autocast("cpu", enabled=False):
        outputs, h, c = _Sequence.apply(  # type: ignore[no-untyped-call]
            cell, gates, ids_TB, weight_GH, gated_bias_H, h_BH, c_BH, lengths_B, constant_BG, compute_dtype
        )
        return outputs, h, c


# -- whole sequences ---------------------------------------------------------------------------------------------------


class _Sequence(torch.autograd.Function):
    """Arguments and results as ``run_sequence``; ``compute_dtype`` is the type of matmuls, None: that of the values.

    ``accum`` is the state in the type of sums (an LSTM's c, the others' h), ``h`` what is multiplied.
    """

    @staticmethod
    def forward(
        ctx: Any,
        cell: str,
        gates: Tensor,
        ids_TB: Tensor | None,
        weight_GH: Tensor,
        gated_bias_H: Tensor | None,
        h_BH: Tensor | None,
        c_BH: Tensor | None,
        lengths_B: Tensor | None,
        constant_BG: Tensor | None,
        compute_dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        from freerun.models.compiled_cells import COMPILED_CELLS, gate_inputs  # imports Numba

        has_c, steps_of_cell = CELLS[cell].has_cell_state, COMPILED_CELLS[cell]
        steps, batch = gates.shape[:2] if ids_TB is None else ids_TB.shape
        size = weight_GH.shape[1]
        sums = torch.promote_types(weight_GH.dtype, torch.float32)
        accum_SBH = weight_GH.new_empty(steps + 1, batch, size, dtype=sums)
        h_SBH = accum_SBH if compute_dtype is None and not has_c else torch.empty_like(accum_SBH, dtype=compute_dtype)
        for values, first in ((h_SBH, h_BH), (accum_SBH, c_BH if has_c else h_BH)):
            values[0] = 0.0 if first is None else first
        saved_TBK = accum_SBH.new_empty(steps, batch, steps_of_cell.saved * size)
        product_BG = h_SBH.new_zeros(batch, len(weight_GH))
        weight = _in_type(weight_GH, compute_dtype)
        x, accum, saved, h, product = map(
            array_of, (gates.reshape(-1, len(weight_GH)), accum_SBH, saved_TBK, h_SBH, product_BG)
        )
        rows, bias = (
            _rows(ids_TB, steps, batch),
            array_of(accum_SBH.new_zeros(0) if gated_bias_H is None else gated_bias_H.to(sums)),
        )
        constant = None if constant_BG is None else array_of(constant_BG)
        given, same = array_of(accum_SBH.new_empty(0 if constant is None else batch, len(weight_GH))), np.arange(batch)
        no_scale, nothing = given[:0, 0], given[:0]
        for t, before_BH in enumerate(h_SBH[:-1].unbind(0)):
            if t or h_BH is not None:
                torch.mm(before_BH, weight.t(), out=product_BG)
            if constant is not None:
                gate_inputs(rows[t], x, no_scale, constant, nothing, given)
            step_x, step_rows = (x, rows[t]) if constant is None else (given, same)
            steps_of_cell.forward(product, step_x, step_rows, bias, accum[t], saved[t], accum[t + 1], h[t + 1])
        ctx.cell, ctx.compute_dtype, ctx.ends, ctx.first_is_zero = (
            cell,
            compute_dtype,
            _Ends.of(lengths_B),
            h_BH is None,
        )
        ctx.weight_dtype, ctx.constant_dtype = weight_GH.dtype, None if constant_BG is None else constant_BG.dtype
        ctx.set_materialize_grads(False)  # an unused result has no gradient rather than zeros
        ctx.save_for_backward(accum_SBH, saved_TBK, h_SBH, gates, ids_TB, weight)
        last = _last(accum_SBH, ctx.ends)
        return (h_SBH[1:], _last(h_SBH, ctx.ends).to(sums), last) if has_c else (h_SBH[1:], last, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor | None, d_h: Tensor | None, d_c: Tensor | None) -> tuple[Any, ...]:
        from freerun.models.compiled_cells import COMPILED_CELLS, add_rows

        accum_SBH, saved_TBK, h_SBH, gates, ids_TB, weight = ctx.saved_tensors
        spec, steps_of_cell = CELLS[ctx.cell], COMPILED_CELLS[ctx.cell]
        compute_dtype, ends = ctx.compute_dtype, ctx.ends
        steps, batch, size = len(saved_TBK), accum_SBH.shape[1], accum_SBH.shape[2]
        dh_TBH = _gradient_of_outputs(d_outputs, d_h, ends, accum_SBH[1:])
        d_accum_BH = torch.zeros_like(accum_SBH[0])
        if d_c is not None and ends is None:
            d_accum_BH += d_c
        d_bias_H = d_accum_BH.new_zeros(size if spec.gated_bias else 0)
        # The gradient of the input projection is stored for all steps only if it is needed as such: not if a table's
        # rows accumulate it at once, and not in the type of matmuls, if it equals the gradient of the recurrent one.
        as_product = gates.dtype == compute_dtype and not spec.gated_bias
        in_passing = ids_TB is not None or as_product
        da_TBG = accum_SBH.new_empty(1 if in_passing else steps, batch, len(weight))
        is_one = compute_dtype is None and not spec.gated_bias and not in_passing
        du_TBG = da_TBG if is_one else weight.new_empty(steps, batch, len(weight))
        d_table = None if ids_TB is None else torch.zeros_like(gates)
        d_constant_BG = accum_SBH.new_zeros(batch, len(weight)) if ctx.constant_dtype else None
        product_BH = weight.new_zeros(batch, size)
        dh, saved, accum, d_accum, da, du, d_bias, product = map(
            array_of, (dh_TBH, saved_TBK, accum_SBH, d_accum_BH, da_TBG, du_TBG, d_bias_H, product_BH)
        )
        rows, table = _rows(ids_TB, steps, batch), None if d_table is None else array_of(d_table)
        constant, same = None if d_constant_BG is None else array_of(d_constant_BG), np.arange(batch)
        for t in range(steps - 1, -1, -1):
            if t + 1 < steps:
                torch.mm(du_TBG[t + 1], weight, out=product_BH)
            if d_c is not None and ends is not None and t in ends.rows_of:
                d_accum_BH[ends.rows_of[t]] += d_c[ends.rows_of[t]]
            da_t = da[0 if in_passing else t]
            steps_of_cell.backward(dh[t], product, saved[t], accum[t], accum[t + 1], d_accum, da_t, du[t], d_bias)
            if table is not None:
                add_rows(table, rows[t], da_t)
            if constant is not None:
                add_rows(constant, same, da_t)
        d_gates = d_table if d_table is not None else (du_TBG if as_product else da_TBG.to(gates.dtype))
        d_first = torch.mm(du_TBG[0], weight).to(d_accum_BH.dtype) if ctx.needs_input_grad[5] else None
        if d_first is not None and not spec.has_cell_state:
            d_first += d_accum_BH
        start = 1 if ctx.first_is_zero else 0
        d_weight = torch.mm(du_TBG[start:].flatten(0, 1).t(), h_SBH[start:-1].flatten(0, 1)).to(ctx.weight_dtype)
        d_first_c = d_accum_BH if ctx.needs_input_grad[6] else None
        if d_constant_BG is not None:
            d_constant_BG = d_constant_BG.to(ctx.constant_dtype)
        d_gated = d_bias_H if spec.gated_bias else None
        return None, d_gates, None, d_weight, d_gated, d_first, d_first_c, None, d_constant_BG, None


def array_of(values: Tensor) -> NDArray[Any]:
    """Return the tensor as compiled code takes it; bf16, which NumPy does not have, as its 16 bits."""
    values = values.detach()
    return (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()


def _rows(ids_TB: Tensor | None, steps: int, batch: int) -> NDArray[np.int64]:
    """Return [T, B]: the row of the input projection at each step."""
    if ids_TB is None:
        return np.arange(steps * batch).reshape(steps, batch)
    return np.ascontiguousarray(ids_TB.numpy())


def _last(after_SBH: Tensor, ends: _Ends | None) -> Tensor:
    """Return each row's state [B, H] after its last real step."""
    return after_SBH[-1].clone() if ends is None else after_SBH[ends.last_B + 1, ends.rows_B]


def _gradient_of_outputs(outputs: Tensor | None, last: Tensor | None, ends: _Ends | None, like_TBH: Tensor) -> Tensor:
    """Return the gradient of every output h, [T, B, H] in the type of sums: a copy that may be written to."""
    total = torch.zeros_like(like_TBH) if outputs is None else like_TBH.new_empty(like_TBH.shape).copy_(outputs)
    if last is not None:
        if ends is None:
            total[-1] += last
        else:
            total[ends.last_B, ends.rows_B] += last
    return total


def _without_gradients(
    cell: str,
    gates_TBG: Tensor,
    weights: StepWeights,
    h_BH: Tensor | None,
    c_BH: Tensor | None,
    lengths_B: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the same values by single steps: nothing has to be saved."""
    if h_BH is None:
        h_BH = gates_TBG.new_zeros(gates_TBG.shape[1], len(weights.weight_HG), dtype=weights.doubled_G.dtype)
        c_BH = torch.zeros_like(h_BH) if CELLS[cell].has_cell_state else None
    outputs_TBH = gates_TBG.new_empty(len(gates_TBG), *h_BH.shape, dtype=weights.weight_HG.dtype)
    ends = _Ends.of(lengths_B)
    last_h, last_c = h_BH.clone(), None if c_BH is None else c_BH.clone()
    for t, gates_BG in enumerate(gates_TBG.unbind(0)):
        h_BH, c_BH = run_step(gates_BG, weights, h_BH, c_BH)
        outputs_TBH[t] = h_BH
        rows = None if ends is None else ends.rows_of.get(t)
        if rows is not None:
            last_h[rows] = h_BH[rows]
            if last_c is not None and c_BH is not None:
                last_c[rows] = c_BH[rows]
    return (outputs_TBH, h_BH, c_BH) if ends is None else (outputs_TBH, last_h, last_c)


# -- a single step, without gradients ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepWeights:
    """Values that the steps of a layer share: its recurrent weight [H, G], tanh gates doubled, in bf16 if requested."""

    weight_HG: Tensor
    doubled_G: Tensor
    gated_bias_H: Tensor | None
    step: _Step


def step_weights(cell: str, weight_GH: Tensor, gated_bias_H: Tensor | None) -> StepWeights:
    """Prepare the operands of ``run_step``; valid until the weights change."""
    compute_dtype, kernel = requested_dtype(), _STEPS[cell]
    with torch.autocast("cpu", enabled=False):
        factors = torch.tensor(kernel.factors, dtype=weight_GH.dtype, device=weight_GH.device)
        doubled_G = factors.repeat_interleave(len(weight_GH) // len(kernel.factors))
        weight_HG = _scaled(weight_GH, doubled_G, compute_dtype)
        return StepWeights(weight_HG, doubled_G, gated_bias_H, kernel.step)


def recurrent_product(weights: StepWeights, h_BH: Tensor) -> Tensor:
    """Return the recurrent projection of the gates [B, G], as ``run_step`` would compute it."""
    with torch.autocast("cpu", enabled=False):
        return torch.mm(h_BH.to(weights.weight_HG.dtype), weights.weight_HG)


def run_step(
    gates_BG: Tensor,
    weights: StepWeights,
    h_BH: Tensor,
    c_BH: Tensor | None,
    product_BG: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run one step without gradients, ``gates_BG`` as in ``run_sequence``; returns the new (h, c).

    ``product_BG`` is ``recurrent_product`` if it was computed before. No argument is written to.
    """
    with torch.autocast("cpu", enabled=False):
        return weights.step(gates_BG * weights.doubled_G, weights, h_BH, c_BH, product_BG)


def _lstm_step(
    active_BG: Tensor, weights: StepWeights, h_BH: Tensor, c_BH: Tensor | None, product_BG: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    assert c_BH is not None
    _add_recurrent(active_BG, weights, h_BH, product_BG)
    i, f, g, o = active_BG.sigmoid_().chunk(4, 1)
    c_BH = torch.mul(f, c_BH).addcmul_(i, _centred(g))
    return torch.mul(o, _centred(torch.add(c_BH, c_BH).sigmoid_())), c_BH


def _gru_step(
    active_BG: Tensor, weights: StepWeights, h_BH: Tensor, _: Tensor | None, product_BG: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    assert weights.gated_bias_H is not None
    product_BG = recurrent_product(weights, h_BH) if product_BG is None else product_BG
    size = h_BH.shape[1]
    r, z = active_BG[:, : 2 * size].add_(product_BG[:, : 2 * size]).sigmoid_().chunk(2, 1)
    u_n = torch.add(product_BG[:, 2 * size :], weights.gated_bias_H, alpha=2)
    n = _centred(active_BG[:, 2 * size :].addcmul_(r, u_n).sigmoid_())
    return torch.lerp(n, h_BH, z), None


def _rnn_step(
    active_BG: Tensor, weights: StepWeights, h_BH: Tensor, _: Tensor | None, product_BG: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    _add_recurrent(active_BG, weights, h_BH, product_BG)
    return _centred(active_BG.sigmoid_()), None


_Step = Callable[[Tensor, StepWeights, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class _StepKernel:
    """A cell's single step, and for each gate the factor of its inputs: 2 if it is tanh, else 1."""

    factors: tuple[float, ...]
    step: _Step


_STEPS: Final[Mapping[str, _StepKernel]] = {
    "lstm": _StepKernel((1.0, 1.0, 2.0, 1.0), _lstm_step),
    "gru": _StepKernel((1.0, 1.0, 2.0), _gru_step),
    "rnn": _StepKernel((2.0,), _rnn_step),
}


# -- helpers -----------------------------------------------------------------------------------------------------------


def requested_dtype() -> torch.dtype | None:
    """Return the type of matmuls that autocast requests; None: that of the values."""
    return torch.bfloat16 if torch.is_autocast_enabled("cpu") else None


def _in_type(values: Tensor, compute_dtype: torch.dtype | None) -> Tensor:
    return values if compute_dtype is None else values.to(compute_dtype)


def _scaled(weight_GH: Tensor, doubled_G: Tensor, compute_dtype: torch.dtype | None) -> Tensor:
    """Return the recurrent weight as [H, G], doubled for gates with tanh, in the type of matmuls."""
    return (weight_GH * doubled_G.unsqueeze(1)).to(compute_dtype or weight_GH.dtype).t()


def _add_recurrent(total_BG: Tensor, weights: StepWeights, h_BH: Tensor, product_BG: Tensor | None) -> None:
    """Add the recurrent projection in place: in one call if types agree, else as a rounded matmul."""
    if product_BG is not None:
        total_BG.add_(product_BG)
    elif weights.weight_HG.dtype == total_BG.dtype:
        total_BG.addmm_(h_BH, weights.weight_HG)
    else:
        total_BG.add_(torch.mm(h_BH.to(weights.weight_HG.dtype), weights.weight_HG))


def _centred(half: Tensor) -> Tensor:
    """Compute tanh x from s(2 x), in place."""
    return torch.add(_minus_one(half), half, alpha=2, out=half)


def _minus_one(like: Tensor) -> Tensor:
    return _MINUS_ONE if like.dtype == torch.float32 else _MINUS_ONE.to(like.dtype)


@dataclass(frozen=True)
class _Ends:
    """The ends of a padded batch's rows: for each step, the rows whose last real step it is."""

    last_B: Tensor
    rows_B: Tensor
    rows_of: dict[int, Tensor]

    @staticmethod
    def of(lengths_B: Tensor | None) -> _Ends | None:
        if lengths_B is None:
            return None
        last = (lengths_B - 1).tolist()
        rows_of = {t: torch.tensor([row for row, at in enumerate(last) if at == t]) for t in set(last)}
        return _Ends(lengths_B - 1, torch.arange(len(last)), rows_of)
