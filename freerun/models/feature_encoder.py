"""The feature encoder: a source's features as one vector, as entries of the memory, or as both.

- ``summary``: tanh of a projection of the sum of their embeddings, a function of a set as in Deep Sets (Zaheer et al.
  2017). It is an input of the first layer of encoder and decoder at every step;
- ``sequence``: tanh of an embedding each, which attention reads after the encoder's outputs. With Luong attention
  without input feeding the decoder's state does not depend on them, only its output layer does;
- ``both``, with an embedding each.

Features are a set, so neither has positions. A source may have none: then their sum is 0. Embeddings are initialized
from N(0, 1) like those of tokens.

Shape suffixes: B batch, Q features of a source, E embedding, M memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from freerun.architecture import Architecture
from freerun.models.dropout import apply_mask
from freerun.symbols import PAD

__all__ = ["NO_FEATURES", "EncodedFeatures", "FeatureEncoder", "with_entries"]


@dataclass(frozen=True)
class EncodedFeatures:
    """A source's features as ``summary_BE``, and as ``entries_BQM`` with ``mask_BQ``, True on real ones."""

    summary_BE: Tensor | None = None
    entries_BQM: Tensor | None = None
    mask_BQ: Tensor | None = None


NO_FEATURES: Final = EncodedFeatures()


class FeatureEncoder(nn.Module):
    """An embedding per feature for the summary, and one for the memory."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        vocabulary, size = sizes.feature_vocabulary, sizes.feature_summary_size
        self.embedding = nn.Embedding(vocabulary, size) if size else None
        self.projection = nn.Linear(size, size) if size else None
        self.entry_embedding = nn.Embedding(vocabulary, sizes.memory_size) if sizes.has_feature_entries else None

    def forward(
        self, feature_ids_BQ: Tensor, mask_BQ1: Tensor | None = None, summary_mask_BE: Tensor | None = None
    ) -> EncodedFeatures:
        """Encode the features of a batch.

        Args:
            feature_ids_BQ: ids, right-padded with PAD; Q may be 0.
            mask_BQ1: dropout of whole features, None for none.
            summary_mask_BE: dropout of the summary, None for none.
        """
        real_BQ = feature_ids_BQ != PAD
        summary_BE = entries_BQM = None
        if self.embedding is not None and self.projection is not None:
            values_BQE = apply_mask(functional.embedding(feature_ids_BQ, self.embedding.weight), mask_BQ1)
            summary_BE = torch.tanh(self.projection((values_BQE * real_BQ.unsqueeze(2)).sum(1)))
            summary_BE = apply_mask(summary_BE, summary_mask_BE)
        if self.entry_embedding is not None:
            values_BQM = functional.embedding(feature_ids_BQ, self.entry_embedding.weight)
            entries_BQM = apply_mask(torch.tanh(values_BQM), mask_BQ1)
        return EncodedFeatures(summary_BE, entries_BQM, real_BQ)


def with_entries(memory_BSM: Tensor, mask_BS: Tensor | None, features: EncodedFeatures) -> tuple[Tensor, Tensor | None]:
    """Return the memory and its mask (None: all real) with the features' entries after those of the source."""
    if features.entries_BQM is None or features.mask_BQ is None:
        return memory_BSM, mask_BS
    if mask_BS is None:
        mask_BS = features.mask_BQ.new_ones(memory_BSM.shape[:2])
    entries_BQM = features.entries_BQM.to(memory_BSM.dtype)
    return torch.cat([memory_BSM, entries_BQM], 1), torch.cat([mask_BS, features.mask_BQ], 1)
