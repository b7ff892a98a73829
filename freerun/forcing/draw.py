"""Sampling of the model's next token from its distribution, with random numbers given by the caller.

Shape suffixes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freerun.forcing.loss import upcast
from freerun.models.device import is_asynchronous

__all__ = ["Draw"]


@dataclass(frozen=True)
class Draw:
    """Chooses the most probable token (``argmax``), or samples one at a temperature; never one of ``banned``.

    A sample is the token at which the cumulative distribution, in the order of the ids, exceeds a uniform random number
    (inverse transform sampling). So it is a function of the distribution and of one number per row, and two ways of
    computing the distribution sample the same token.
    """

    kind: str = "sample"
    temperature: float = 1.0
    banned: Sequence[int] = ()

    def tokens(self, logits_NV: Tensor, uniforms_N: Tensor) -> Tensor:
        """Return a token for each row [N]; the argmax of equal scores is the lowest id."""
        scores_NV = upcast(logits_NV)
        if self.banned:
            scores_NV = scores_NV.clone()
            for token in self.banned:  # a list of them would be copied to the device
                scores_NV[:, token] = float("-inf")
        if self.kind == "argmax":
            return scores_NV.argmax(1)
        probs_NV = torch.softmax(scores_NV / self.temperature, 1)
        if is_asynchronous(probs_NV.device):
            return _sampled_in_integers(probs_NV, uniforms_N)
        edges_NV = probs_NV.cumsum(1)
        end_N1 = edges_NV[:, -1:]
        # rounding must not let the number reach the end, where tokens of probability 0 may be
        before_end_N1 = torch.nextafter(end_N1, torch.zeros_like(end_N1))
        points_N1 = torch.minimum(uniforms_N.unsqueeze(1).to(edges_NV) * end_N1, before_end_N1)
        return torch.searchsorted(edges_NV, points_N1, right=True).squeeze(1)


def _sampled_in_integers(probs_NV: Tensor, uniforms_N: Tensor) -> Tensor:
    """Sample in multiples of 2^-52: a cumulative sum of integers is the same each time, on a GPU too."""
    edges_NV = probs_NV.double().mul_(2.0**52).long().cumsum(1)
    end_N = edges_NV[:, -1]
    points_N = torch.minimum((uniforms_N.double() * end_N).long(), end_N - 1)
    tokens_N = torch.searchsorted(edges_NV, points_N.unsqueeze(1), right=True).squeeze(1)
    # of a distribution without numbers: a token beyond the last one would end the program
    return tokens_N.clamp_(max=edges_NV.shape[1] - 1)
