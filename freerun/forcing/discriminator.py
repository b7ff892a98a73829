"""The discriminator of professor forcing: was this behaviour teacher-forced or free-running?

A bidirectional GRU over the decoder's states (and outputs), then an MLP (Lamb, Goyal et al. 2016, section 3). Three
things keep it from relying on the wrong cues: layer normalization of the states, so that shrinking does not hide them;
the source's context as an input, so that a difficult source is no sign of free running; and a narrow projection of the
output distribution, or none, so that the discriminator cannot read which tokens were predicted.

Shape suffixes: T time, B batch, H decoder layer, V vocabulary, D discriminator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from freerun.models.device import is_asynchronous
from freerun.models.encoder import reversal_within, reverse_rows
from freerun.models.recurrence import RecurrentLayer
from freerun.randomness import CounterGenerator

__all__ = ["Behaviour", "Discriminator", "step_bound"]

PROJECTED = 32
"""Number of features that the output distribution is projected to."""

POWER_ITERATIONS = 15
"""Power iterations from a random vector to the first estimate of a layer's singular vectors, as in torch."""


@dataclass(frozen=True)
class Behaviour:
    """The behaviour of a decoder over ``lengths_B`` steps per row (0: the row is left out).

    ``layers_TBH``: outputs of each recurrent layer. ``probs_TBV``: output distributions, None if the discriminator does
    not see them. ``context_BC``: the source's context, always without a gradient.
    """

    layers_TBH: list[Tensor]
    probs_TBV: Tensor | None
    context_BC: Tensor
    lengths_B: Tensor

    def detach(self) -> Behaviour:
        """Return the same values, detached from the graph."""
        probs_TBV = None if self.probs_TBV is None else self.probs_TBV.detach()
        return Behaviour([layer.detach() for layer in self.layers_TBH], probs_TBV, self.context_BC, self.lengths_B)

    def as_leaves(self) -> Behaviour:
        """Return the same values, detached, requiring gradients."""
        leaves = self.detach()
        for tensor in leaves.tensors():
            tensor.requires_grad_()
        return leaves

    def tensors(self) -> list[Tensor]:
        """Return all tensors that can have a gradient."""
        return [*self.layers_TBH, *([] if self.probs_TBV is None else [self.probs_TBV])]


class Discriminator(nn.Module):
    """Scores behaviours: above 0 for teacher-forced, below for free-running.

    Args:
        layers: number of the decoder's recurrent layers.
        layer_size: H, units of each of them.
        context_size: C.
        vocabulary_size: V if output distributions are an input, else None.
        hidden_size: units of the GRU in each direction, and of the MLP.
        backend: backend of the GRU; "reference" for second derivatives.
    """

    def __init__(
        self,
        layers: int,
        layer_size: int,
        context_size: int,
        vocabulary_size: int | None,
        hidden_size: int = 128,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(layer_size) for _ in range(layers))
        self.context_norm = nn.LayerNorm(context_size)
        self.context = nn.Linear(context_size, hidden_size)
        self.outputs = None if vocabulary_size is None else nn.Linear(vocabulary_size, PROJECTED)
        input_size = layers * layer_size + (0 if self.outputs is None else PROJECTED)
        self.behaviour = nn.Linear(input_size, hidden_size)
        self.forward_gru = RecurrentLayer("gru", hidden_size, hidden_size, backend)
        self.backward_gru = RecurrentLayer("gru", hidden_size, hidden_size, backend)
        self.mlp = nn.Sequential(
            nn.Linear(2 * hidden_size, hidden_size),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_size, hidden_size),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_size, 1),
        )

    def forward(self, behaviour: Behaviour) -> Tensor:
        """Return the scores [B]; undefined for rows without a step."""
        lengths_B = behaviour.lengths_B.clamp(min=1)
        steps = step_bound(lengths_B, len(behaviour.layers_TBH[0]))
        dtype = self.context.weight.dtype
        parts = [norm(layer[:steps].to(dtype)) for norm, layer in zip(self.norms, behaviour.layers_TBH, strict=True)]
        if self.outputs is not None:
            assert behaviour.probs_TBV is not None, "this discriminator needs output distributions"
            parts.append(self.outputs(behaviour.probs_TBV[:steps].to(dtype)))
        context_BD = self.context(self.context_norm(behaviour.context_BC.to(dtype)))
        inputs_TBD = self.behaviour(torch.cat(parts, 2)) + context_BD
        padded = is_asynchronous(lengths_B.device) or bool((lengths_B < steps).any())
        reversed_TB = reversal_within(lengths_B, steps) if padded else None
        real_lengths_B = lengths_B if padded else None
        _, forward_BD, _ = self.forward_gru.sequence(inputs_TBD, lengths_B=real_lengths_B)
        _, backward_BD, _ = self.backward_gru.sequence(reverse_rows(inputs_TBD, reversed_TB), lengths_B=real_lengths_B)
        scores_B1: Tensor = self.mlp(torch.cat([forward_BD, backward_BD], 1))
        return scores_B1.squeeze(1)

    def bound_spectra(self, seed: int) -> None:
        """Normalize the linear layers' spectral norms (Miyato et al. 2018); called once, after initialization.

        The singular vectors change in ``follow_spectra`` only, not in a pass, of which an update has several.
        """
        layers = [(name, module) for name, module in self.named_modules() if isinstance(module, nn.Linear)]
        for name, layer in layers:
            # torch samples a first estimate from its global generator, which is restored; ours replaces it
            with torch.random.fork_rng(devices=[]):
                bounded: Any = spectral_norm(layer).parametrizations
            start = CounterGenerator(seed, "spectral norm", name).normal(layer.in_features)
            with torch.no_grad():
                bounded.weight[0]._v.copy_(normalize(torch.from_numpy(start), dim=0))
                for _ in range(POWER_ITERATIONS):
                    bounded.weight()  # one power iteration each
            bounded.eval()

    @torch.no_grad()
    def follow_spectra(self) -> None:
        """Make one power iteration after an update of the weights (Miyato et al. 2018, algorithm 1)."""
        for module in self.modules():
            if isinstance(module, nn.Linear) and parametrize.is_parametrized(module):
                bounded: Any = module.parametrizations
                bounded.train()
                bounded.weight()
                bounded.eval()


def step_bound(lengths_B: Tensor, bound: int) -> int:
    """Return the largest length; on a GPU its bound, since asking would mean waiting."""
    return bound if is_asynchronous(lengths_B.device) else int(lengths_B.max())
