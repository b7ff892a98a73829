"""The CPU core: LSTM, GRU and plain RNN over whole sequences, as few passes over memory as there can be.

The inputs' share of the gates is given for all steps, or as a table with a row for each token. What remains of a step
is one product with the recurrent weight, torch's, and the cell, which is compiled (``cells`` has the formulas): a
step's gates are looked up, made and used while they are in the cache. The gradient of the recurrent weight is ONE
product over all steps, and where the first state is zero its products are left out.

bf16, where it is asked for, is for products only: what they multiply is rounded, and so is what they give; the state,
the gates and all sums over time stay in fp32.

Rollouts and searches take single steps without gradients, in torch's operations: a prediction has no compiler to load.
There only the logistic function s is evaluated, tanh x = 2 s(2 x) - 1, for torch's tanh is several times slower. A gate
with tanh has its inputs doubled beforehand, so one call serves all gates.

Shape suffixes: T time, B batch, H hidden, G gates x hidden; S = T + 1, where entry 0 is from before the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["StepWeights", "core_product", "core_sequence", "core_step", "step_weights"]

_MINUS_ONE = torch.tensor(-1.0)
_DOUBLED = {"lstm": (1.0, 1.0, 2.0, 1.0), "gru": (1.0, 1.0, 2.0), "rnn": (2.0,)}
"""A cell's gates, and whether each is tanh: then its inputs are doubled in a single step."""


def core_sequence(
    cell: str,
    gates: Tensor,
    ids_TB: Tensor | None,
    weight_GH: Tensor,
    bias_n: Tensor | None,
    h_BH: Tensor | None,
    c_BH: Tensor | None,
    lengths_B: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a cell over sequences; differentiable once.

    Args:
        cell: "lstm", "gru" or "rnn".
        gates: the inputs' share of the gates with all biases, but for ``bias_n``: [T, B, G], or a table [V, G].
        ids_TB: the table's row at each step; None for gates that are no table.
        weight_GH: the recurrent weight.
        bias_n: [H], the recurrent bias of a GRU's candidate, which is within the reset gate.
        h_BH: the state before the first step, with ``c_BH`` for an LSTM; None: zeros.
        lengths_B: real steps a row; None: all.

    Returns:
        Outputs [T, B, H], in bf16 where autocast asks for it, and the state (h, c) after each row's last real step.
    """
    if not torch.is_grad_enabled():
        gates_TBG = gates if ids_TB is None else functional.embedding(ids_TB, gates)
        return _without_gradients(cell, gates_TBG, step_weights(cell, weight_GH, bias_n), h_BH, c_BH, lengths_B)
    low = _type_of_products() or (torch.bfloat16 if weight_GH.dtype == torch.bfloat16 else None)
    with torch.autocast("cpu", enabled=False):
        outputs, h, c = _Sequence.apply(  # type: ignore[no-untyped-call]
            cell, gates, ids_TB, weight_GH, bias_n, h_BH, c_BH, lengths_B, low
        )
        return outputs, h, c


# -- whole sequences ---------------------------------------------------------------------------------------------------


class _Sequence(torch.autograd.Function):
    """Arguments and results as ``core_sequence``; ``low`` is the type of products, None: that of the values.

    ``full`` is what a step hands on in the type of sums (an LSTM's c, the others' h), ``h`` what is multiplied.
    """

    @staticmethod
    def forward(
        ctx: Any,
        cell: str,
        gates: Tensor,
        ids_TB: Tensor | None,
        weight_GH: Tensor,
        bias_n: Tensor | None,
        h_BH: Tensor | None,
        c_BH: Tensor | None,
        lengths_B: Tensor | None,
        low: torch.dtype | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        from freerun.models.compiled_cells import CELLS  # imports Numba

        steps, batch = gates.shape[:2] if ids_TB is None else ids_TB.shape
        size = weight_GH.shape[1]
        sums = torch.promote_types(weight_GH.dtype, torch.float32)
        full_SBH = weight_GH.new_empty(steps + 1, batch, size, dtype=sums)
        h_SBH = full_SBH if low is None and cell != "lstm" else torch.empty_like(full_SBH, dtype=low)
        for values, first in ((h_SBH, h_BH), (full_SBH, c_BH if cell == "lstm" else h_BH)):
            values[0] = 0.0 if first is None else first
        kept_TBK = full_SBH.new_empty(steps, batch, CELLS[cell].kept * size)
        product_BG = h_SBH.new_zeros(batch, len(weight_GH))
        weight = _in_type(weight_GH, low)
        x, full, kept, h, product = map(
            _array, (gates.reshape(-1, len(weight_GH)), full_SBH, kept_TBK, h_SBH, product_BG)
        )
        rows, bias = _rows(ids_TB, steps, batch), _array(full_SBH.new_zeros(0) if bias_n is None else bias_n.to(sums))
        for t, before_BH in enumerate(h_SBH[:-1].unbind(0)):
            if t or h_BH is not None:
                torch.mm(before_BH, weight.t(), out=product_BG)
            CELLS[cell].forward(product, x, rows[t], bias, full[t], kept[t], full[t + 1], h[t + 1])
        ctx.cell, ctx.low, ctx.ends, ctx.first_is_zero = cell, low, _Ends.of(lengths_B), h_BH is None
        ctx.weight_dtype = weight_GH.dtype
        ctx.set_materialize_grads(False)  # a result that nobody used has no gradient rather than zeros
        ctx.save_for_backward(full_SBH, kept_TBK, h_SBH, gates, ids_TB, weight)
        last = _last(full_SBH, ctx.ends)
        return (h_SBH[1:], _last(h_SBH, ctx.ends).to(sums), last) if cell == "lstm" else (h_SBH[1:], last, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor | None, d_h: Tensor | None, d_c: Tensor | None) -> tuple[Any, ...]:
        from freerun.models.compiled_cells import CELLS, add_rows

        full_SBH, kept_TBK, h_SBH, gates, ids_TB, weight = ctx.saved_tensors
        cell, low, ends = ctx.cell, ctx.low, ctx.ends
        steps, batch, size = len(kept_TBK), full_SBH.shape[1], full_SBH.shape[2]
        dh_TBH = _gradient_of_outputs(d_outputs, d_h, ends, full_SBH[1:])
        d_full_BH = torch.zeros_like(full_SBH[0])
        if d_c is not None and ends is None:
            d_full_BH += d_c
        d_bias_H = d_full_BH.new_zeros(size if cell == "gru" else 0)
        # The gradient of what is added up is kept for all steps only where it is asked for as such: not where rows of a
        # table get it at once, and not where it is asked for in the type of products, of which it is the gradient too.
        as_product = gates.dtype == low and cell != "gru"
        in_passing = ids_TB is not None or as_product
        da_TBG = full_SBH.new_empty(1 if in_passing else steps, batch, len(weight))
        is_one = low is None and cell != "gru" and not in_passing
        du_TBG = da_TBG if is_one else weight.new_empty(steps, batch, len(weight))
        d_table = None if ids_TB is None else torch.zeros_like(gates)
        product_BH = weight.new_zeros(batch, size)
        dh, kept, full, d_full, da, du, d_bias, product = map(
            _array, (dh_TBH, kept_TBK, full_SBH, d_full_BH, da_TBG, du_TBG, d_bias_H, product_BH)
        )
        rows, table = _rows(ids_TB, steps, batch), None if d_table is None else _array(d_table)
        for t in range(steps - 1, -1, -1):
            if t + 1 < steps:
                torch.mm(du_TBG[t + 1], weight, out=product_BH)
            if d_c is not None and ends is not None and t in ends.rows_of:
                d_full_BH[ends.rows_of[t]] += d_c[ends.rows_of[t]]
            da_t = da[0 if in_passing else t]
            CELLS[cell].backward(dh[t], product, kept[t], full[t], full[t + 1], d_full, da_t, du[t], d_bias)
            if table is not None:
                add_rows(table, rows[t], da_t)
        d_gates = d_table if d_table is not None else (du_TBG if as_product else da_TBG.to(gates.dtype))
        d_first = torch.mm(du_TBG[0], weight).to(d_full_BH.dtype) if ctx.needs_input_grad[5] else None
        if d_first is not None and cell != "lstm":
            d_first += d_full_BH
        start = 1 if ctx.first_is_zero else 0
        d_weight = torch.mm(du_TBG[start:].flatten(0, 1).t(), h_SBH[start:-1].flatten(0, 1)).to(ctx.weight_dtype)
        d_first_c = d_full_BH if ctx.needs_input_grad[6] else None
        return None, d_gates, None, d_weight, d_bias_H if cell == "gru" else None, d_first, d_first_c, None, None


def _array(values: Tensor) -> NDArray[Any]:
    """The tensor as compiled code takes it; bf16, which NumPy does not know, as the 16 bits it is."""
    values = values.detach()
    return (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()


def _rows(ids_TB: Tensor | None, steps: int, batch: int) -> NDArray[np.int64]:
    """[T, B]: the row of the inputs' share at each step."""
    if ids_TB is None:
        return np.arange(steps * batch).reshape(steps, batch)
    return np.ascontiguousarray(ids_TB.numpy())


def _last(after_SBH: Tensor, ends: _Ends | None) -> Tensor:
    """Each row's state [B, H] after its last real step."""
    return after_SBH[-1].clone() if ends is None else after_SBH[ends.last_B + 1, ends.rows_B]


def _gradient_of_outputs(outputs: Tensor | None, last: Tensor | None, ends: _Ends | None, like_TBH: Tensor) -> Tensor:
    """What comes to every h from above, [T, B, H] in the type of the sums; ours to write to."""
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
    """The same values, by single steps: nothing has to be kept."""
    if h_BH is None:
        h_BH = gates_TBG.new_zeros(gates_TBG.shape[1], len(weights.weight_HG), dtype=weights.doubled_G.dtype)
        c_BH = torch.zeros_like(h_BH) if cell == "lstm" else None
    outputs_TBH = gates_TBG.new_empty(len(gates_TBG), *h_BH.shape, dtype=weights.weight_HG.dtype)
    ends = _Ends.of(lengths_B)
    last_h, last_c = h_BH.clone(), None if c_BH is None else c_BH.clone()
    for t, gates_BG in enumerate(gates_TBG.unbind(0)):
        h_BH, c_BH = core_step(cell, gates_BG, weights, h_BH, c_BH)
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
    """What many steps of a layer share: its recurrent weight [H, G], gates with tanh doubled, in bf16 where asked."""

    weight_HG: Tensor
    doubled_G: Tensor
    bias_n: Tensor | None


def step_weights(cell: str, weight_GH: Tensor, bias_n: Tensor | None) -> StepWeights:
    """Prepare what ``core_step`` multiplies with; valid until the weights change."""
    low = _type_of_products()
    with torch.autocast("cpu", enabled=False):
        doubled_G = _doubled(cell, weight_GH)
        return StepWeights(_scaled(weight_GH, doubled_G, low), doubled_G, bias_n)


def core_product(weights: StepWeights, h_BH: Tensor) -> Tensor:
    """The state's share of the gates [B, G], as ``core_step`` would make it."""
    with torch.autocast("cpu", enabled=False):
        return torch.mm(h_BH.to(weights.weight_HG.dtype), weights.weight_HG)


def core_step(
    cell: str,
    gates_BG: Tensor,
    weights: StepWeights,
    h_BH: Tensor,
    c_BH: Tensor | None,
    product_BG: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """One step without gradients, ``gates_BG`` as in ``core_sequence``; returns the new (h, c).

    ``product_BG`` is ``core_product`` where it was made before. Nothing that is given is written to.
    """
    with torch.autocast("cpu", enabled=False):
        active_BG = gates_BG * weights.doubled_G
        if cell == "gru":
            assert weights.bias_n is not None
            product_BG = core_product(weights, h_BH) if product_BG is None else product_BG
            return _gru_step(active_BG, product_BG, weights.bias_n, h_BH), None
        if product_BG is None:
            _add_product(active_BG, h_BH, weights.weight_HG)
        else:
            active_BG.add_(product_BG)
        active_BG.sigmoid_()
        if cell == "rnn":
            return _centred(active_BG), None
        assert c_BH is not None
        i, f, g, o = active_BG.chunk(4, 1)
        c_BH = torch.mul(f, c_BH).addcmul_(i, _centred(g))
        return torch.mul(o, _centred(torch.add(c_BH, c_BH).sigmoid_())), c_BH


def _gru_step(active_BG: Tensor, product_BG: Tensor, bias_n: Tensor, h_BH: Tensor) -> Tensor:
    size = h_BH.shape[1]
    r, z = active_BG[:, : 2 * size].add_(product_BG[:, : 2 * size]).sigmoid_().chunk(2, 1)
    u_n = torch.add(product_BG[:, 2 * size :], bias_n, alpha=2)
    n = _centred(active_BG[:, 2 * size :].addcmul_(r, u_n).sigmoid_())
    return torch.lerp(n, h_BH, z)


# -- pieces ------------------------------------------------------------------------------------------------------------


def _type_of_products() -> torch.dtype | None:
    """What autocast asks for; None: that of the values."""
    return torch.bfloat16 if torch.is_autocast_enabled("cpu") else None


def _in_type(values: Tensor, low: torch.dtype | None) -> Tensor:
    return values if low is None else values.to(low)


def _doubled(cell: str, like_GH: Tensor) -> Tensor:
    """[G]: 2 where a gate is tanh, else 1."""
    gates = _DOUBLED[cell]
    factors = torch.tensor(gates, dtype=like_GH.dtype, device=like_GH.device)
    return factors.repeat_interleave(like_GH.shape[0] // len(gates))


def _scaled(weight_GH: Tensor, doubled_G: Tensor, low: torch.dtype | None) -> Tensor:
    """The recurrent weight as [H, G], doubled where it has to be, in the type that products are made in."""
    return (weight_GH * doubled_G.unsqueeze(1)).to(low or weight_GH.dtype).t()


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Total += left right, in place: one call where types agree, a rounded product where they do not."""
    if right.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(torch.mm(left.to(right.dtype), right))


def _centred(half: Tensor) -> Tensor:
    """Tanh x from s(2 x), in place."""
    return torch.add(_minus_one(half), half, alpha=2, out=half)


def _minus_one(like: Tensor) -> Tensor:
    return _MINUS_ONE if like.dtype == torch.float32 else _MINUS_ONE.to(like.dtype)


@dataclass(frozen=True)
class _Ends:
    """Where rows of a padded batch end: for a step, the rows whose last real step it is."""

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
