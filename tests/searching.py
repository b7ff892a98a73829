"""``beam_search`` and ``sample`` with the settings as keywords: tests vary one at a time."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from hypothesis import assume

from freerun.models.torch_stepper import TorchStepper
from freerun.search import beam, sampling
from freerun.search.methods import Beam, Sampling


def beam_search(stepper, source_ids, lengths, *, max_lengths, prefix=None, **settings):
    return beam.beam_search(stepper, source_ids, lengths, Beam(**settings), max_lengths=max_lengths, prefixes=prefix)


def settled_search(model, source_ids, lengths, **options):
    """The outputs that torch finds; an example in which rounding would decide what they are is discarded.

    For that, weights are moved by about a millionth, some ten times as much as float32 rounds. An unstable recurrence
    makes more of it with each token.
    """
    moved = deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in moved.parameters():
            weights.mul_(1 + 1e-6 * torch.randn(weights.shape, generator=generator))
    found, others = (beam_search(TorchStepper(each), source_ids, lengths, **options) for each in (model, moved))
    for one, other in zip(found, others, strict=True):
        for a, b in zip(one, other, strict=True):
            assume(a.ids == b.ids and np.allclose(a.token_scores, b.token_scores, rtol=0, atol=3e-5))
    return found


def sample(stepper, source_ids, lengths, *, max_lengths, rows=None, prefix=None, **settings):
    return sampling.sample(
        stepper, source_ids, lengths, Sampling(**settings), max_lengths=max_lengths, rows=rows, prefixes=prefix
    )
