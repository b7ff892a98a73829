"""How the model's next token is drawn from its distribution, with the randomness given from outside.

Shape suffixes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freerun.forcing.loss import upcast

__all__ = ["Draw"]


@dataclass(frozen=True)
class Draw:
    """Takes the most probable token (``argmax``), or a sample at a temperature; never one of ``banned``.

    ``uniforms``: one number in [0, 1) a row decides a sample. The tokens stand side by side in the order of their ids,
    each as wide as it is probable, and the number points at one of them (inverse transform sampling). So a draw is a
    function of the distribution and one number, and two ways of computing the distribution draw the same token.
    """

    kind: str = "sample"
    temperature: float = 1.0
    banned: Sequence[int] = ()

    def tokens(self, logits_NV: Tensor, uniforms_N: Tensor) -> Tensor:
        """A token [N] of each row; ties of the argmax go to the lowest id."""
        scores_NV = upcast(logits_NV)
        if self.banned:
            scores_NV = scores_NV.clone()
            scores_NV[:, list(self.banned)] = float("-inf")
        if self.kind == "argmax":
            return scores_NV.argmax(1)
        edges_NV = torch.softmax(scores_NV / self.temperature, 1).cumsum(1)
        end_N1 = edges_NV[:, -1:]
        # rounding must not let the number reach the right end, where tokens of no width may stand
        before_end_N1 = torch.nextafter(end_N1, torch.zeros_like(end_N1))
        points_N1 = torch.minimum(uniforms_N.unsqueeze(1).to(edges_NV) * end_N1, before_end_N1)
        return torch.searchsorted(edges_NV, points_N1, right=True).squeeze(1)
