"""Recurrent layers: a cell over time, with interchangeable backends behind one contract.

``RecurrentLayer.sequence`` runs a layer over a whole sequence, ``RecurrentLayer.step`` over one token. A backend only
decides how ``sequence`` is computed:

- ``ReferenceLoop``: the cell's equations (``cells``), a step at a time, under autograd. Slow, and the tests' oracle;
- ``Scan``: a cell's own computation of a whole sequence at once, in torch;
- ``Fused``: torch's kernels (oneDNN on a CPU, cuDNN on a GPU), forward and backward;
- ``CpuBackend``: freerun's own CPU kernels, see ``cpu_kernels``: the default.

A backend that does not have a cell passes it on to the next one above it in this list that does.

Right padding is exact: with ``lengths`` a row's final state is the one after its last real token.

Shape suffixes: T time, B batch, I input, H hidden, G gates x hidden, V vocabulary, E embedding, C context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from freerun.architecture import CELLS
from freerun.models.cells import CELL_FUNCTIONS
from freerun.models.cpu_kernels import StepWeights, run_sequence, run_step, step_weights
from freerun.models.device import is_asynchronous
from freerun.models.fused_kernels import last_real, run_fused
from freerun.models.token_inputs import Inputs, Tokens

__all__ = [
    "BACKENDS",
    "Backend",
    "CpuBackend",
    "Fused",
    "LayerStack",
    "RecurrentLayer",
    "ReferenceLoop",
    "Scan",
]


class Backend(Protocol):
    """How a layer is run over a whole sequence.

    ``prepares_steps``: single steps without gradients use the CPU kernels, too.
    """

    prepares_steps: bool

    def sequence(
        self, layer: RecurrentLayer, inputs: Inputs, h_BH: Tensor | None, c_BH: Tensor | None, lengths_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the outputs [T, B, H] and the final (h, c); see ``RecurrentLayer.sequence``."""
        ...


class RecurrentLayer(nn.Module):
    """One layer, one direction. Weights are laid out and named as in ``torch.nn.LSTM``, ``GRU`` and ``RNN``.

    A cell that is not recurrent has no ``weight_hh`` and no ``bias_hh``.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor

    def __init__(self, cell: str, input_size: int, hidden_size: int, backend: str = "auto") -> None:
        super().__init__()
        self.cell = CELLS[cell]
        self.functions = CELL_FUNCTIONS[cell]
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.backend = _backend(backend, cell)
        for name, shape in self.cell.shapes(input_size, hidden_size).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))

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
            c_BH: initial cell state (if the cell has one).
            lengths_B: real steps per row, each >= 1; None when every row fills T.

        Returns:
            Outputs [T, B, H] (undefined, but finite, on padding) and (h, c) after each row's last real step.
        """
        return self.backend.sequence(self, inputs, h_BH, c_BH, lengths_B)

    def zeros(self, rows: int) -> tuple[Tensor, Tensor | None]:
        """Return the default state (h, c) before the first step, each [B, H]."""
        h_BH = self.weight_ih.new_zeros(rows, self.hidden_size)
        return h_BH, torch.zeros_like(h_BH) if self.cell.has_cell_state else None

    def input_gates(self, inputs: Tensor) -> Tensor:
        """Return the input projection of the gates, with ``bias``: [..., I] -> [..., G]."""
        return functional.linear(inputs, self.weight_ih, self.bias())

    def bias(self) -> Tensor:
        """Return [G]: both biases, except ``gated_bias``."""
        if not self.cell.is_recurrent:
            return self.bias_ih
        if not self.cell.gated_bias:
            return self.bias_ih + self.bias_hh
        return self.bias_ih + functional.pad(self.bias_hh[: -self.hidden_size], (0, self.hidden_size))

    def gated_bias(self) -> Tensor | None:
        """Return [H]: the last gate's recurrent bias, if another gate multiplies it, so it cannot be added before."""
        return self.bias_hh[-self.hidden_size :] if self.cell.gated_bias else None

    @property
    def is_compiled(self) -> bool:
        """Return True if freerun's own CPU kernels run this layer."""
        return self.backend.prepares_steps and not is_asynchronous(self.weight_ih.device)

    def step_weights(self) -> StepWeights | None:
        """Return what steps without gradients share, valid until the weights change; None if gradients are enabled."""
        if torch.is_grad_enabled() or not self.is_compiled:
            return None
        return step_weights(self.cell.name, self.weight_hh, self.gated_bias())

    def step(
        self,
        input_gates_BG: Tensor,
        h_BH: Tensor,
        c_BH: Tensor | None,
        weights: StepWeights | None = None,
        product_BG: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run one step from the gates' input projection (``input_gates``, or a row of a table of it) to (h', c').

        With ``weights``, from ``step_weights``, it has no gradients, and is faster; then the recurrent projection may
        be given too, see ``recurrent_product``.
        """
        if weights is not None:
            return run_step(input_gates_BG, weights, h_BH, c_BH, product_BG)
        if not self.cell.is_recurrent:
            return self.functions.step(input_gates_BG, input_gates_BG, h_BH, c_BH)
        recurrent_BG = functional.linear(h_BH, self.weight_hh)
        bias_H = self.gated_bias()
        if bias_H is not None:
            recurrent_BG = recurrent_BG + functional.pad(bias_H, (recurrent_BG.shape[-1] - self.hidden_size, 0))
        return self.functions.step(input_gates_BG, recurrent_BG, h_BH, c_BH)


class LayerStack(nn.ModuleList):
    """Layers of one direction, one above the other, the lowest first: a list that knows the type of its items."""

    if TYPE_CHECKING:

        def __getitem__(self, index: int) -> RecurrentLayer: ...  # type: ignore[override]
        def __iter__(self) -> Iterator[RecurrentLayer]: ...


class ReferenceLoop:
    """The cell's equations in a plain loop over time. Calls no recurrent module of torch."""

    prepares_steps = False

    def sequence(
        self, layer: RecurrentLayer, inputs: Inputs, h_BH: Tensor | None, c_BH: Tensor | None, lengths_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run step by step; a row that has ended keeps its state."""
        inputs_TBI = _materialized(inputs)
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


class Scan:
    """A cell's ``scan``, or the loop for a cell that has none."""

    prepares_steps = False

    def sequence(
        self, layer: RecurrentLayer, inputs: Inputs, h_BH: Tensor | None, c_BH: Tensor | None, lengths_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute all steps at once; a row's final state is its output at its last real step."""
        scan = layer.functions.scan
        if scan is None:
            return ReferenceLoop().sequence(layer, inputs, h_BH, c_BH, lengths_B)
        inputs_TBI = _materialized(inputs)
        outputs_TBH = scan(layer.input_gates(inputs_TBI), layer.zeros(inputs_TBI.shape[1])[0] if h_BH is None else h_BH)
        return outputs_TBH, last_real(outputs_TBH, lengths_B), None


class Fused:
    """torch's whole-sequence kernels."""

    prepares_steps = False

    def sequence(
        self, layer: RecurrentLayer, inputs: Inputs, h_BH: Tensor | None, c_BH: Tensor | None, lengths_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Call one kernel."""
        inputs_TBI = _materialized(inputs)
        if h_BH is None:
            h_BH, c_BH = layer.zeros(inputs_TBI.shape[1])
        weights = [layer.weight_ih, layer.weight_hh, layer.bias_ih, layer.bias_hh]
        return run_fused(layer.cell.name, inputs_TBI, h_BH, c_BH, lengths_B, weights)


class CpuBackend:
    """freerun's own kernels; layers that are not on a CPU are left to torch's."""

    prepares_steps = True

    def sequence(
        self, layer: RecurrentLayer, inputs: Inputs, h_BH: Tensor | None, c_BH: Tensor | None, lengths_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the input projection of all gates, or a table of it, and run the kernels."""
        if is_asynchronous(layer.weight_ih.device):
            return _backend("fused", layer.cell.name).sequence(layer, inputs, h_BH, c_BH, lengths_B)
        if isinstance(inputs, Tokens):
            gates, ids_TB, constant_BG = _from_tokens(layer, inputs)
        else:
            gates, ids_TB, constant_BG = layer.input_gates(inputs), None, None
        return run_sequence(
            layer.cell.name, gates, ids_TB, layer.weight_hh, layer.gated_bias(), h_BH, c_BH, lengths_B, constant_BG
        )


BACKENDS: Final[dict[str, Backend]] = {"auto": CpuBackend(), "fused": Fused(), "reference": ReferenceLoop()}
"""Values of ``training.backend``."""


def _backend(name: str, cell: str) -> Backend:
    """Return the backend ``name``, or the fallback for a cell that it does not have."""
    if name == "reference" or (name == "auto" and CELLS[cell].compiled_training):
        return BACKENDS[name]
    return BACKENDS["fused"] if CELLS[cell].fused else Scan()


def _materialized(inputs: Inputs) -> Tensor:
    return inputs.materialized() if isinstance(inputs, Tokens) else inputs


def _from_tokens(layer: RecurrentLayer, tokens: Tokens) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the tokens' input projection: [T, B, G] and None, or a table and its rows; and the summary's [B, G]."""
    if tokens.summary_BE is None:
        return *_without_summary(layer, tokens, layer.weight_ih), None
    start, end = tokens.embedding_VE.shape[1], tokens.embedding_VE.shape[1] + tokens.summary_BE.shape[1]
    weight_GE, weight_GS, weight_GC = layer.weight_ih.split_with_sizes([start, end - start, layer.input_size - end], 1)
    weight_GI = weight_GE if tokens.context_BC is None else torch.cat([weight_GE, weight_GC], 1)
    others = _without_summary(layer, replace(tokens, summary_BE=None), weight_GI)
    return *others, functional.linear(tokens.summary_BE, weight_GS)


def _without_summary(layer: RecurrentLayer, tokens: Tokens, weight_GI: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the projection of tokens and context: a table ``embedding @ weight_GI'`` [V, G] and its rows [T, B].

    If something else is added to the rows, or they are masked, or there are too many: [T, B, G] and None.
    """
    # a table has to be multiplied whole: it pays while the vocabulary has no more tokens than the batch
    if len(tokens.embedding_VE) > tokens.ids_TB.numel():
        return functional.linear(tokens.materialized(), weight_GI, layer.bias()), None
    size = tokens.embedding_VE.shape[1]
    bias_G = layer.bias() if tokens.mask_TB1 is None else None
    table_VG = functional.linear(tokens.embedding_VE, weight_GI[:, :size], bias_G)
    if table_VG.dtype == torch.bfloat16:
        # matmuls may be rounded, but a row's gradient is a sum over all positions of its token
        table_VG = table_VG.float()
    if tokens.mask_TB1 is None and tokens.context_BC is None:
        return table_VG, tokens.ids_TB
    gates_TBG = functional.embedding(tokens.ids_TB, table_VG)
    if tokens.mask_TB1 is not None:
        gates_TBG = torch.addcmul(layer.bias(), gates_TBG, tokens.mask_TB1)
    if tokens.context_BC is not None:
        gates_TBG = gates_TBG + functional.linear(tokens.context_BC, weight_GI[:, size:])
    return gates_TBG, None
