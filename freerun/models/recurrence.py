"""Recurrent layers: LSTM, GRU and plain RNN, each with interchangeable backends behind one contract.

``RecurrentLayer.sequence`` runs a layer over a whole sequence, ``RecurrentLayer.step`` over one token. A backend only
decides how ``sequence`` is computed:

- ``ReferenceLoop``: the cell equations, a step at a time, under autograd. Slow, and the oracle in the tests;
- ``Fused``: torch's kernels (oneDNN on a CPU, cuDNN on a GPU), forward and backward;
- ``CpuCore``: our own, see ``cpu_core``: what is taken unless another is asked for.

Right padding is exact: with ``lengths`` a row's final state is the one after its last real token. torch's fused LSTM
returns the cell state only at the padded end, so padding steps are made to carry it there: an extra input, 1 on
padding, drives the forget gate to exactly 1 and the input gate to exactly 0.

Shape suffixes: T time, B batch, I input, H hidden, G gates x hidden, V vocabulary, E embedding, C context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from freerun.models.cpu_kernels import StepWeights, core_sequence, core_step, step_weights
from freerun.models.dropout import apply_mask

__all__ = [
    "BACKENDS",
    "NUM_GATES",
    "Backend",
    "CpuCore",
    "Fused",
    "LayerStack",
    "RecurrentLayer",
    "ReferenceLoop",
    "Tokens",
    "gru_cell",
    "lstm_cell",
    "rnn_cell",
]

NUM_GATES: Final = {"lstm": 4, "gru": 3, "rnn": 1}
SATURATED: Final = 1e4
"""A gate's input at which sigmoid is exactly 0 or 1 in every floating-point type, whatever else is added to it."""


def lstm_cell(input_BG: Tensor, recurrent_BG: Tensor, c_BH: Tensor) -> tuple[Tensor, Tensor]:
    """One LSTM step from the two halves of its gates' inputs, in the order i f g o (Hochreiter & Schmidhuber 1997;
    forget gate: Gers et al. 2000).

    i, f, o = sigmoid, g = tanh;  c' = f c + i g;  h' = o tanh(c').  Returns (h', c').
    """
    i, f, g, o = (input_BG + recurrent_BG).chunk(4, dim=-1)
    c_BH = torch.sigmoid(f) * c_BH + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c_BH), c_BH


def gru_cell(input_BG: Tensor, recurrent_BG: Tensor, h_BH: Tensor) -> Tensor:
    """One GRU step, gates in the order r z n (Cho et al. 2014, with the reset gate after the product as in cuDNN).

    r, z = sigmoid;  n = tanh(input_n + r recurrent_n);  h' = (1 - z) n + z h.
    """
    input_r, input_z, input_n = input_BG.chunk(3, dim=-1)
    recurrent_r, recurrent_z, recurrent_n = recurrent_BG.chunk(3, dim=-1)
    z = torch.sigmoid(input_z + recurrent_z)
    n = torch.tanh(input_n + torch.sigmoid(input_r + recurrent_r) * recurrent_n)
    return (1 - z) * n + z * h_BH


def rnn_cell(input_BG: Tensor, recurrent_BG: Tensor) -> Tensor:
    """One step of a plain RNN: h' = tanh(input + recurrent) (Elman 1990)."""
    return torch.tanh(input_BG + recurrent_BG)


@dataclass(frozen=True)
class Tokens:
    """Inputs that are embedded tokens, not yet written out.

    Attributes:
        ids_TB: the tokens.
        embedding_VE: the embedding of each.
        mask_TB1: dropout of whole tokens, None for none.
        context_BC: an input beside each of them, the same at every step; None for none.
    """

    ids_TB: Tensor
    embedding_VE: Tensor
    mask_TB1: Tensor | None = None
    context_BC: Tensor | None = None

    def written_out(self) -> Tensor:
        """The inputs [T, B, E + C]."""
        values = apply_mask(functional.embedding(self.ids_TB, self.embedding_VE), self.mask_TB1)
        if self.context_BC is None:
            return values
        return torch.cat([values, self.context_BC.expand(len(values), -1, -1)], 2)


Inputs = Tensor | Tokens


class Backend(Protocol):
    """How a layer is run over a whole sequence."""

    def sequence(
        self, layer: RecurrentLayer, inputs: Inputs, h_BH: Tensor | None, c_BH: Tensor | None, lengths_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Outputs [T, B, H] and the final (h, c); see ``RecurrentLayer.sequence``."""
        ...


class RecurrentLayer(nn.Module):
    """One layer, one direction. Weights are laid out and named as in ``torch.nn.LSTM``, ``GRU`` and ``RNN``.

    ``cell`` is "lstm", "gru" or "rnn".
    """

    def __init__(self, cell: str, input_size: int, hidden_size: int, backend: str = "auto") -> None:
        super().__init__()
        gates = NUM_GATES[cell] * hidden_size
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.backend = BACKENDS[backend]
        self.weight_ih = nn.Parameter(torch.empty(gates, input_size))
        self.weight_hh = nn.Parameter(torch.empty(gates, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(gates))
        self.bias_hh = nn.Parameter(torch.empty(gates))

    def sequence(
        self,
        inputs: Inputs,
        h_BH: Tensor | None = None,
        c_BH: Tensor | None = None,
        lengths_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run over a sequence from the state (h, c), zeros when not given.

        Args:
            inputs: values [T, B, I], or tokens, right-padded when rows differ in length.
            h_BH: initial output; None, and then for ``c_BH`` too: zeros.
            c_BH: initial cell state (LSTM).
            lengths_B: real steps a row, each >= 1; None when every row fills T.

        Returns:
            Outputs [T, B, H] (of no meaning, but finite, on padding) and (h, c) after each row's last real step.
        """
        return self.backend.sequence(self, inputs, h_BH, c_BH, lengths_B)

    def zeros(self, rows: int) -> tuple[Tensor, Tensor | None]:
        """The state (h, c) before the first step unless another is given, each [B, H]."""
        h_BH = self.weight_hh.new_zeros(rows, self.hidden_size)
        return h_BH, torch.zeros_like(h_BH) if self.cell == "lstm" else None

    def input_gates(self, inputs: Tensor) -> Tensor:
        """What the input adds to the gates, and ``bias``: [..., I] -> [..., G]."""
        return functional.linear(inputs, self.weight_ih, self.bias())

    def bias(self) -> Tensor:
        """[G]: both biases, but for ``bias_n``."""
        if self.cell != "gru":
            return self.bias_ih + self.bias_hh
        return self.bias_ih + functional.pad(self.bias_hh[: 2 * self.hidden_size], (0, self.hidden_size))

    def bias_n(self) -> Tensor | None:
        """[H]: the recurrent bias of a GRU's candidate. It is within the reset gate, so it cannot be added before."""
        return self.bias_hh[2 * self.hidden_size :] if self.cell == "gru" else None

    def step_weights(self) -> StepWeights | None:
        """What steps without gradients share, valid until the weights change; None where gradients are wanted."""
        if torch.is_grad_enabled() or not isinstance(self.backend, CpuCore) or self.weight_hh.device.type != "cpu":
            return None
        return step_weights(self.cell, self.weight_hh, self.bias_n())

    def step(
        self,
        input_gates_BG: Tensor,
        h_BH: Tensor,
        c_BH: Tensor | None,
        weights: StepWeights | None = None,
        product_BG: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """One step from the gates' input half (``input_gates``, or a row of a table of it); returns (h', c').

        With ``weights``, from ``step_weights``, it has no gradients, and is faster; then the state's share of the
        gates may be given too, ``core_product``.
        """
        if weights is not None:
            return core_step(self.cell, input_gates_BG, weights, h_BH, c_BH, product_BG)
        recurrent_BG = functional.linear(h_BH, self.weight_hh)
        if self.cell == "lstm":
            assert c_BH is not None
            return lstm_cell(input_gates_BG, recurrent_BG, c_BH)
        if self.cell == "gru":
            bias_n = self.bias_n()
            assert bias_n is not None
            recurrent_BG = recurrent_BG + functional.pad(bias_n, (2 * self.hidden_size, 0))
            return gru_cell(input_gates_BG, recurrent_BG, h_BH), None
        return rnn_cell(input_gates_BG, recurrent_BG), None


class LayerStack(nn.ModuleList):
    """Layers of one direction, one above the other, the lowest first: a list that knows the type of its items."""

    if TYPE_CHECKING:

        def __getitem__(self, index: int) -> RecurrentLayer: ...  # type: ignore[override]
        def __iter__(self) -> Iterator[RecurrentLayer]: ...


class ReferenceLoop:
    """The cell equations in a plain loop over time. Calls no recurrent module of torch."""

    def sequence(
        self, layer: RecurrentLayer, inputs: Inputs, h_BH: Tensor | None, c_BH: Tensor | None, lengths_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Step by step; a row that has ended keeps its state."""
        inputs_TBI = _written_out(inputs)
        if h_BH is None:
            h_BH, c_BH = layer.zeros(inputs_TBI.shape[1])
        gates_TBG = layer.input_gates(inputs_TBI)
        outputs = []
        for t in range(inputs_TBI.shape[0]):
            new_h, new_c = layer.step(gates_TBG[t], h_BH, c_BH)
            outputs.append(new_h)
            if lengths_B is None:
                h_BH, c_BH = new_h, new_c
                continue
            running_B1 = (t < lengths_B).unsqueeze(1)
            h_BH = torch.where(running_B1, new_h, h_BH)
            c_BH = None if c_BH is None or new_c is None else torch.where(running_B1, new_c, c_BH)
        return torch.stack(outputs), h_BH, c_BH


class Fused:
    """torch's whole-sequence kernels."""

    def sequence(
        self, layer: RecurrentLayer, inputs: Inputs, h_BH: Tensor | None, c_BH: Tensor | None, lengths_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One kernel call; see the head of this file for how the LSTM's cell state survives padding."""
        inputs_TBI = _written_out(inputs)
        if h_BH is None:
            h_BH, c_BH = layer.zeros(inputs_TBI.shape[1])
        weight_ih: Tensor = layer.weight_ih
        if layer.cell == "lstm" and lengths_B is not None:
            inputs_TBI, weight_ih = _carry_past_padding(inputs_TBI, weight_ih, lengths_B)
        weights: list[Tensor] = [weight_ih, layer.weight_hh, layer.bias_ih, layer.bias_hh]
        # It trains whenever gradients are wanted, whatever the module's mode: cuDNN has no backward pass otherwise.
        # Arguments after the weights: biases, layers, dropout, training, bidirectional, batch first.
        options = (True, 1, 0.0, torch.is_grad_enabled(), False, False)
        if layer.cell == "lstm":
            assert c_BH is not None
            state = [h_BH.unsqueeze(0), c_BH.unsqueeze(0)]
            outputs_TBH, last_h, last_c = torch.lstm(inputs_TBI, state, weights, *options)
            c_BH = last_c[0]
        else:
            kernel = torch.gru if layer.cell == "gru" else torch.rnn_tanh
            outputs_TBH, last_h = kernel(inputs_TBI, h_BH.unsqueeze(0), weights, *options)
        if lengths_B is None:
            return outputs_TBH, last_h[0], c_BH
        rows = torch.arange(inputs_TBI.shape[1], device=inputs_TBI.device)
        return outputs_TBH, outputs_TBH[lengths_B - 1, rows], c_BH


class CpuCore:
    """Our own whole-sequence functions; what is not on a CPU is left to torch's kernels."""

    def sequence(
        self, layer: RecurrentLayer, inputs: Inputs, h_BH: Tensor | None, c_BH: Tensor | None, lengths_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The inputs' share of all gates, or a table of it, and the core."""
        if layer.weight_hh.device.type != "cpu":
            return BACKENDS["fused"].sequence(layer, inputs, h_BH, c_BH, lengths_B)
        # a table has to be multiplied whole: it pays while the vocabulary has no more tokens than the batch
        if isinstance(inputs, Tokens) and len(inputs.embedding_VE) <= inputs.ids_TB.numel():
            gates, ids_TB = _from_table(layer, inputs)
        else:
            gates, ids_TB = layer.input_gates(_written_out(inputs)), None
        return core_sequence(layer.cell, gates, ids_TB, layer.weight_hh, layer.bias_n(), h_BH, c_BH, lengths_B)


BACKENDS: Final[dict[str, Backend]] = {"auto": CpuCore(), "fused": Fused(), "reference": ReferenceLoop()}


def _written_out(inputs: Inputs) -> Tensor:
    return inputs.written_out() if isinstance(inputs, Tokens) else inputs


def _from_table(layer: RecurrentLayer, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
    """What tokens add to the gates: a table ``embedding @ weight_ih'`` [V, G] and its rows [T, B].

    Where something else is added to the rows, or they are masked, [T, B, G] and None.
    """
    size = tokens.embedding_VE.shape[1]
    bias_G = layer.bias() if tokens.mask_TB1 is None else None
    table_VG = functional.linear(tokens.embedding_VE, layer.weight_ih[:, :size], bias_G)
    if table_VG.dtype == torch.bfloat16:
        # products may be rounded, but a row's gradient is a sum over all places where its token stands
        table_VG = table_VG.float()
    if tokens.mask_TB1 is None and tokens.context_BC is None:
        return table_VG, tokens.ids_TB
    gates_TBG = functional.embedding(tokens.ids_TB, table_VG)
    if tokens.mask_TB1 is not None:
        gates_TBG = torch.addcmul(layer.bias(), gates_TBG, tokens.mask_TB1)
    if tokens.context_BC is not None:
        gates_TBG = gates_TBG + functional.linear(tokens.context_BC, layer.weight_ih[:, size:])
    return gates_TBG, None


def _carry_past_padding(inputs_TBI: Tensor, weight_GI: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Add an input that is 1 on padding and makes the LSTM's forget gate 1 and its input gate 0 there."""
    steps_T1 = torch.arange(inputs_TBI.shape[0], device=inputs_TBI.device).unsqueeze(1)
    padding_TB1 = (steps_T1 >= lengths_B).unsqueeze(2).to(inputs_TBI.dtype)
    hidden_size = weight_GI.shape[0] // NUM_GATES["lstm"]
    column_G1 = weight_GI.new_zeros(weight_GI.shape[0], 1)
    column_G1[:hidden_size] = -SATURATED
    column_G1[hidden_size : 2 * hidden_size] = SATURATED
    return torch.cat([inputs_TBI, padding_TB1], 2), torch.cat([weight_GI, column_G1], 1)
