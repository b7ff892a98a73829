"""What the decoder's states are along given tokens: read, not trained."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from freerun.models.seq2seq import Seq2Seq

__all__ = ["StateReader"]

Ids = NDArray[np.int64]


class StateReader:
    """Feeds tokens and gives the top layer's outputs after each: [B, S], [B], [B, T] to [B, T, H]."""

    def __init__(self, model: Seq2Seq) -> None:
        self._model = model

    @torch.inference_mode()
    def __call__(self, source_ids: Ids, lengths: Ids, fed: Ids) -> NDArray[np.float32]:
        """Source ids, right-padded, their lengths, and the tokens fed, BOS first; of no meaning on padding."""
        device = self._model.decoder.output_bias.device
        source, sizes, tokens = (torch.as_tensor(each, device=device) for each in (source_ids, lengths, fed))
        padded = bool((lengths < source_ids.shape[1]).any())
        decoded = self._model.decoder.sequence(tokens, self._model.encode(source, sizes if padded else None))
        states: NDArray[np.float32] = decoded.layers_TBH[-1].transpose(0, 1).float().cpu().numpy()
        return states
