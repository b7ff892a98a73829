"""The CPU core: LSTM, GRU and plain RNN over whole sequences, as few passes over memory as there can be.

The inputs' share of the gates is given for all steps; what remains of a step is one product with the recurrent weight
and the cell. Three things make that fast:

- **Only the logistic function is evaluated.** tanh x = 2 s(2 x) - 1, s the logistic function, and torch's s is several
  times faster than its tanh. A gate with tanh has its inputs doubled beforehand, so one call serves all gates.
- **The backward pass only multiplies.** Every factor between a gradient of h or c and one of the gates is a function of
  the forward pass. The LSTM makes them there, while a step is in the cache; GRU and RNN make them for all steps in one
  go. The loop over time is left with one product a step, and the gradient of the weight is ONE product over all steps.
- **bf16, where it is asked for, is for products only.** What they multiply is rounded, and so is what they give; the
  state, the gates and all sums over time stay in fp32.

LSTM (Hochreiter & Schmidhuber 1997; Gers et al. 2000), a = x W_ih' + b + h W_hh', c' and h' the new state:

    i, f, o = s(a_i), s(a_f), s(a_o);  g = tanh a_g;  c' = f c + i g;  h' = o tanh c'

    with dh, dc the gradients of h' and c':     dc += dh o (1 - tanh^2 c')
    da_o = dh tanh c' o (1 - o);  da_i = dc g i (1 - i);  da_f = dc c f (1 - f);  da_g = dc i (1 - g^2);  dc <- dc f

GRU (Cho et al. 2014, the reset gate after the product), x and u the inputs' and the state's share:

    r, z = s(x_r + u_r), s(x_z + u_z);  n = tanh(x_n + r u_n);  h' = n + z (h - n)

    da_z = dh (h - n) z (1 - z);  da_n = dh (1 - z) (1 - n^2);  da_r = da_n u_n r (1 - r);  du_n = da_n r;  dh <- dh z

RNN (Elman 1990): h' = tanh a;  da = dh (1 - h'^2).

In all of them dh for the step before is da W_hh (du W_hh), added to what comes from above.

Shape suffixes: T time, B batch, H hidden, G gates x hidden, K gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["StepWeights", "core_sequence", "core_step", "step_weights"]

_MINUS_ONE = torch.tensor(-1.0)
_sigmoid_backward: Callable[..., Tensor] = torch.ops.aten.sigmoid_backward.grad_input
"""gradient * s * (1 - s), in one pass, into ``grad_input``."""
_tanh_backward: Callable[..., Tensor] = torch.ops.aten.tanh_backward.grad_input
"""gradient * (1 - t^2), in one pass, into ``grad_input``."""
_DOUBLED = {"lstm": (1.0, 1.0, 2.0, 1.0), "gru": (1.0, 1.0, 2.0), "rnn": (2.0,)}
"""A cell's gates, and whether each is tanh: then its inputs are doubled."""


def core_sequence(
    cell: str,
    gates_TBG: Tensor,
    weight_GH: Tensor,
    bias_n: Tensor | None,
    h_BH: Tensor,
    c_BH: Tensor | None,
    lengths_B: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a cell over sequences; differentiable once.

    Args:
        cell: "lstm", "gru" or "rnn".
        gates_TBG: the inputs' share of the gates with all biases, but for ``bias_n``.
        weight_GH: the recurrent weight.
        bias_n: [H], the recurrent bias of a GRU's candidate, which is within the reset gate.
        h_BH: the state before the first step, with ``c_BH`` for an LSTM.
        lengths_B: real steps a row; None: all.

    Returns:
        Outputs [T, B, H] and the state (h, c) after each row's last real step. In bf16 where autocast asks for it.
    """
    if not torch.is_grad_enabled():
        return _without_gradients(cell, gates_TBG, step_weights(cell, weight_GH, bias_n), h_BH, c_BH, lengths_B)
    low = _type_of_products()
    with torch.autocast("cpu", enabled=False):
        if cell == "lstm":
            assert c_BH is not None
            outputs, h, c = _LSTM.apply(gates_TBG, weight_GH, h_BH, c_BH, lengths_B, low)  # type: ignore[no-untyped-call]
            return outputs, h, c
        if cell == "gru":
            outputs, h = _GRU.apply(gates_TBG, weight_GH, bias_n, h_BH, lengths_B, low)  # type: ignore[no-untyped-call]
        else:
            outputs, h = _RNN.apply(gates_TBG, weight_GH, h_BH, lengths_B, low)  # type: ignore[no-untyped-call]
        return outputs, h, None


def _without_gradients(
    cell: str,
    gates_TBG: Tensor,
    weights: StepWeights,
    h_BH: Tensor,
    c_BH: Tensor | None,
    lengths_B: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same values, by single steps: nothing has to be kept."""
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


def core_step(
    cell: str, gates_BG: Tensor, weights: StepWeights, h_BH: Tensor, c_BH: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """One step without gradients, ``gates_BG`` as in ``core_sequence``; returns the new (h, c).

    Nothing that is given is written to.
    """
    with torch.autocast("cpu", enabled=False):
        active_BG = gates_BG * weights.doubled_G
        if cell == "gru":
            assert weights.bias_n is not None
            return _gru_step(active_BG, weights.weight_HG, weights.bias_n, h_BH), None
        _add_product(active_BG, h_BH, weights.weight_HG)
        active_BG.sigmoid_()
        if cell == "rnn":
            return _centred(active_BG), None
        assert c_BH is not None
        i, f, g, o = active_BG.chunk(4, 1)
        c_BH = torch.mul(f, c_BH).addcmul_(i, _centred(g))
        return torch.mul(o, _centred(torch.add(c_BH, c_BH).sigmoid_())), c_BH


def _gru_step(active_BG: Tensor, weight_HG: Tensor, bias_n: Tensor, h_BH: Tensor) -> Tensor:
    size = h_BH.shape[1]
    recurrent_BG = torch.mm(h_BH.to(weight_HG.dtype), weight_HG)
    r, z = active_BG[:, : 2 * size].add_(recurrent_BG[:, : 2 * size]).sigmoid_().chunk(2, 1)
    u_n = torch.add(recurrent_BG[:, 2 * size :], bias_n, alpha=2)
    n = _centred(active_BG[:, 2 * size :].addcmul_(r, u_n).sigmoid_())
    return torch.lerp(n, h_BH, z)


# -- pieces ------------------------------------------------------------------------------------------------------------


def _type_of_products() -> torch.dtype | None:
    """What autocast asks for; None: that of the values."""
    return torch.bfloat16 if torch.is_autocast_enabled("cpu") else None


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

    def state(self, after_TBH: Tensor) -> Tensor:
        """Each row's entry [B, H] after its last real step; entry t of ``after_TBH`` is after step t."""
        return after_TBH[self.last_B, self.rows_B]


def _gradient_of_outputs(outputs: Tensor | None, last: Tensor | None, ends: _Ends | None, like_TBH: Tensor) -> Tensor:
    """What comes to every h from above, [T, B, H] in the type of the sums; ours to write to."""
    total = torch.zeros_like(like_TBH) if outputs is None else outputs.to(like_TBH.dtype, copy=True)
    if last is not None:
        if ends is None:
            total[-1] += last
        else:
            total[ends.last_B, ends.rows_B] += last
    return total


def _gradient_of_weight(gates_TBG: Tensor, h_TBH: Tensor, like_GH: Tensor) -> Tensor:
    """The sum over all steps of da' h, one product."""
    return torch.mm(gates_TBG.flatten(0, 1).t(), h_TBH.flatten(0, 1)).to(like_GH.dtype)


def _in_type(values: Tensor, low: torch.dtype | None) -> Tensor:
    return values if low is None else values.to(low)


def _keep(ctx: Any, ends: _Ends | None, low: torch.dtype | None, gates_dtype: torch.dtype, *tensors: Tensor) -> None:
    """What every cell's backward pass asks for; a result that nobody used has no gradient rather than zeros."""
    ctx.ends, ctx.low, ctx.gates_dtype = ends, low, gates_dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


# -- LSTM --------------------------------------------------------------------------------------------------------------


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gates_TBG: Tensor,
        weight_GH: Tensor,
        h_BH: Tensor,
        c_BH: Tensor,
        lengths_B: Tensor | None,
        low: torch.dtype | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, batch, gates = gates_TBG.shape
        size = gates // 4
        doubled_G = _doubled("lstm", weight_GH)
        weight_HG = _scaled(weight_GH, doubled_G, low)
        h_SBH = weight_GH.new_empty(steps + 1, batch, size, dtype=low)
        h_SBH[0] = h_BH
        # A step's four [g, c, 4 i, tanh c'] become the factors to da_i, da_f, da_g and da_o: each is multiplied by
        # s (1 - s) of its gate, where g = 2 s - 1 has 1 - g^2 = 4 s (1 - s). So one call makes them all, in the cache.
        factors_SBKH = weight_GH.new_empty(steps + 1, batch, 4, size)
        factors_SBKH[0, :, 1] = c_BH
        to_c_TBH, f_TBH = weight_GH.new_empty(2, steps, batch, size)
        active_BG = weight_GH.new_empty(batch, gates)
        active_BKH = active_BG.view(batch, 4, size)
        i, f, s_g, o = active_BKH.unbind(1)
        minus_one, four = _minus_one(active_BG), _MINUS_ONE.new_tensor(4.0)
        ends = _Ends.of(lengths_B)
        last_c = c_BH if ends is None else torch.empty_like(f_TBH[0])
        hs, fours = h_SBH.unbind(0), [each.unbind(1) for each in factors_SBKH.unbind(0)]
        for t, (given_BG, factors_BKH, to_c, kept_f) in enumerate(
            zip(gates_TBG.unbind(0), factors_SBKH[:-1].unbind(0), to_c_TBH.unbind(0), f_TBH.unbind(0), strict=True)
        ):
            g, c, i4, tanh_c = fours[t]
            new_c = fours[t + 1][1]
            if low is None:
                torch.mul(given_BG, doubled_G, out=active_BG).addmm_(hs[t], weight_HG)
            else:
                active_BG.copy_(torch.mm(hs[t], weight_HG)).addcmul_(given_BG, doubled_G)
            active_BG.sigmoid_()
            torch.add(minus_one, s_g, alpha=2, out=g)
            torch.mul(f, c, out=new_c).addcmul_(i, g)
            torch.add(new_c, new_c, out=tanh_c).sigmoid_()
            torch.add(minus_one, tanh_c, alpha=2, out=tanh_c)
            torch.mul(o, tanh_c, out=hs[t + 1])
            torch.mul(i, four, out=i4)
            _tanh_backward(o, tanh_c, grad_input=to_c)
            _sigmoid_backward(factors_BKH, active_BKH, grad_input=factors_BKH)
            kept_f.copy_(f)
            if ends is not None and t in ends.rows_of:
                last_c[ends.rows_of[t]] = new_c[ends.rows_of[t]]
        _keep(ctx, ends, low, gates_TBG.dtype, factors_SBKH, to_c_TBH, f_TBH, h_SBH, weight_GH)
        h_TBH = h_SBH[1:]
        last_h = h_TBH[-1].to(f_TBH.dtype, copy=True) if ends is None else ends.state(h_TBH).to(f_TBH.dtype)
        return h_TBH, last_h, factors_SBKH[-1, :, 1].clone() if ends is None else last_c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor | None, d_h: Tensor | None, d_c: Tensor | None) -> tuple[Any, ...]:
        factors_SBKH, to_c_TBH, f_TBH, h_SBH, weight_GH = ctx.saved_tensors
        low, ends = ctx.low, ctx.ends
        steps, batch, size = f_TBH.shape
        weight = _in_type(weight_GH, low)
        d_above_TBH = _gradient_of_outputs(d_outputs, d_h, ends, f_TBH)
        # in the type of the sums, as they are made, and in that of products; one where the other is not asked for
        sums = f_TBH.new_empty(steps if ctx.gates_dtype != low else 1, batch, 4, size)
        products = sums.flatten(2) if low is None else weight.new_empty(steps, batch, 4 * size)
        dc = torch.zeros_like(f_TBH[0])
        if d_c is not None and ends is None:
            dc += d_c
        d_above, d_gates, to_c, f = (each.unbind(0) for each in (d_above_TBH, products, to_c_TBH, f_TBH))
        factors, d_gates_BKH = factors_SBKH.unbind(0), sums.unbind(0)
        for t in range(steps - 1, -1, -1):
            dh = d_above[t]
            if t + 1 < steps:
                _add_product(dh, d_gates[t + 1], weight)
            if d_c is not None and ends is not None and t in ends.rows_of:
                dc[ends.rows_of[t]] += d_c[ends.rows_of[t]]
            made = d_gates_BKH[min(t, len(sums) - 1)]
            dc.addcmul_(dh, to_c[t])
            torch.mul(dc.unsqueeze(1), factors[t][:, :3], out=made[:, :3])
            torch.mul(dh, factors[t][:, 3], out=made[:, 3])
            dc.mul_(f[t])
            if low is not None:
                d_gates[t].copy_(made.flatten(1))
        d_first_h = torch.mm(d_gates[0], weight).to(dc.dtype)
        d_weight = _gradient_of_weight(products, h_SBH[:-1], weight_GH)
        return products if ctx.gates_dtype == low else sums.flatten(2), d_weight, d_first_h, dc, None, None


# -- GRU ---------------------------------------------------------------------------------------------------------------


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gates_TBG: Tensor,
        weight_GH: Tensor,
        bias_n: Tensor,
        h_BH: Tensor,
        lengths_B: Tensor | None,
        low: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:
        steps, batch, _ = gates_TBG.shape
        size = weight_GH.shape[1]
        doubled_G = _doubled("gru", weight_GH)
        weight_HG = _scaled(weight_GH, doubled_G, low)
        active_TBG = gates_TBG * doubled_G
        h_SBH = active_TBG.new_empty(steps + 1, batch, size)
        h_SBH[0] = h_BH
        low_SBH = h_SBH if low is None else active_TBG.new_empty(steps + 1, batch, size, dtype=low)
        low_SBH[0] = h_BH
        u_n_TBH = active_TBG.new_empty(steps, batch, size)
        minus_one = _minus_one(active_TBG)
        for t in range(steps):
            recurrent_BG = torch.mm(low_SBH[t], weight_HG)
            rz_BG = active_TBG[t, :, : 2 * size].add_(recurrent_BG[:, : 2 * size]).sigmoid_()
            n = active_TBG[t, :, 2 * size :]
            u_n = torch.add(recurrent_BG[:, 2 * size :], bias_n, alpha=2, out=u_n_TBH[t])
            n.addcmul_(rz_BG[:, :size], u_n).sigmoid_()
            torch.add(minus_one, n, alpha=2, out=n)
            torch.lerp(n, h_SBH[t], rz_BG[:, size:], out=h_SBH[t + 1])
            if low is not None:
                low_SBH[t + 1] = h_SBH[t + 1]
        ends = _Ends.of(lengths_B)
        _keep(ctx, ends, low, gates_TBG.dtype, active_TBG, u_n_TBH, h_SBH, low_SBH, weight_GH)
        h_TBH = low_SBH[1:]
        last_h = h_SBH[-1].clone() if ends is None else ends.state(h_SBH[1:])
        return h_TBH, last_h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor | None, d_h: Tensor | None) -> tuple[Any, ...]:
        active_TBG, u_n_TBH, h_SBH, low_SBH, weight_GH = ctx.saved_tensors
        low, ends = ctx.low, ctx.ends
        steps, batch, size = u_n_TBH.shape
        r, z, n = active_TBG.chunk(3, 2)
        # all factors of dh at once: for du_r, du_z, du_n, and for da_n; u_n was doubled with its gate
        to_a_n_TBH = 1.0 - z
        _tanh_backward(to_a_n_TBH, n, grad_input=to_a_n_TBH)
        to_u_TBKH = active_TBG.new_empty(steps, batch, 3, size)
        to_r, to_z, to_n = to_u_TBKH.unbind(2)
        torch.mul(to_a_n_TBH, u_n_TBH, out=to_r).mul_(0.5)
        _sigmoid_backward(to_r, r, grad_input=to_r)
        torch.sub(h_SBH[:-1], n, out=to_z)
        _sigmoid_backward(to_z, z, grad_input=to_z)
        torch.mul(to_a_n_TBH, r, out=to_n)
        d_u_TBKH = torch.empty_like(to_u_TBKH)
        d_u_low = None if low is None else active_TBG.new_empty(steps, batch, 3 * size, dtype=low)
        weight = _in_type(weight_GH, low)
        d_above = _gradient_of_outputs(d_outputs, d_h, ends, u_n_TBH)
        for t in range(steps - 1, -1, -1):
            dh = d_above[t]
            if t + 1 < steps:
                dh.addcmul_(d_above[t + 1], z[t + 1])
                _add_product(dh, (d_u_TBKH if d_u_low is None else d_u_low)[t + 1].flatten(1), weight)
            torch.mul(dh.unsqueeze(1), to_u_TBKH[t], out=d_u_TBKH[t])
            if d_u_low is not None:
                d_u_low[t] = d_u_TBKH[t].flatten(1)
        d_u_TBG = d_u_TBKH.flatten(2)
        products = d_u_TBG if d_u_low is None else d_u_low
        d_first_h = torch.mm(products[0], weight).to(d_above.dtype).addcmul_(d_above[0], z[0])
        d_weight = _gradient_of_weight(products, low_SBH[:-1], weight_GH)
        d_bias_n = d_u_TBG[:, :, 2 * size :].sum((0, 1))
        # the inputs' share of the candidate is outside the reset gate
        torch.mul(d_above, to_a_n_TBH, out=d_u_TBG[:, :, 2 * size :])
        return d_u_TBG.to(ctx.gates_dtype), d_weight, d_bias_n, d_first_h, None, None


# -- RNN ---------------------------------------------------------------------------------------------------------------


class _RNN(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gates_TBG: Tensor,
        weight_GH: Tensor,
        h_BH: Tensor,
        lengths_B: Tensor | None,
        low: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:
        steps, batch, size = gates_TBG.shape
        doubled_G = _doubled("rnn", weight_GH)
        weight_HG = _scaled(weight_GH, doubled_G, low)
        active_TBH = gates_TBG * doubled_G
        h_SBH = active_TBH.new_empty(steps + 1, batch, size, dtype=low)
        h_SBH[0] = h_BH
        minus_one = _minus_one(active_TBH)
        for t, active_BH in enumerate(active_TBH.unbind(0)):
            _add_product(active_BH, h_SBH[t], weight_HG)
            active_BH.sigmoid_()
            torch.add(minus_one, active_BH, alpha=2, out=active_BH)
            h_SBH[t + 1] = active_BH
        ends = _Ends.of(lengths_B)
        _keep(ctx, ends, low, gates_TBG.dtype, active_TBH, h_SBH, weight_GH)
        last_h = active_TBH[-1].clone() if ends is None else ends.state(active_TBH)
        return h_SBH[1:], last_h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor | None, d_h: Tensor | None) -> tuple[Any, ...]:
        active_TBH, h_SBH, weight_GH = ctx.saved_tensors
        low = ctx.low
        weight = _in_type(weight_GH, low)
        d_above = _gradient_of_outputs(d_outputs, d_h, ctx.ends, active_TBH)
        to_a_TBH = torch.ones_like(active_TBH)
        _tanh_backward(to_a_TBH, active_TBH, grad_input=to_a_TBH)
        for t in range(len(d_above) - 1, -1, -1):
            if t + 1 < len(d_above):
                _add_product(d_above[t], d_above[t + 1], weight)
            d_above[t].mul_(to_a_TBH[t])  # from here on it is da
        products = _in_type(d_above, low)
        d_first_h = torch.mm(products[0], weight).to(d_above.dtype)
        d_weight = _gradient_of_weight(products, h_SBH[:-1], weight_GH)
        return d_above.to(ctx.gates_dtype), d_weight, d_first_h, None, None
