"""The inputs of a recurrent layer: values, or tokens whose embedding can be looked up later.

Shape suffixes: T time, B batch, I input, V vocabulary, E embedding (a summary of features has its width), C context.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from freerun.models.dropout import apply_mask

__all__ = ["Inputs", "Tokens"]


@dataclass(frozen=True)
class Tokens:
    """Inputs that are embedded tokens, not yet materialized.

    Attributes:
        ids_TB: the tokens.
        embedding_VE: the embedding of each.
        mask_TB1: dropout of whole tokens, None for none.
        summary_BE: of the features, an input next to each token, the same at every step; None for none.
        context_BC: the same of the source.
    """

    ids_TB: Tensor
    embedding_VE: Tensor
    mask_TB1: Tensor | None = None
    summary_BE: Tensor | None = None
    context_BC: Tensor | None = None

    def materialized(self) -> Tensor:
        """Return the inputs: token, summary, context, [T, B, I]."""
        values = apply_mask(functional.embedding(self.ids_TB, self.embedding_VE), self.mask_TB1)
        constants = [
            each.expand(len(values), -1, -1) for each in (self.summary_BE, self.context_BC) if each is not None
        ]
        return torch.cat([values, *constants], 2) if constants else values


Inputs = Tensor | Tokens
"""Values [T, B, I], or tokens."""
