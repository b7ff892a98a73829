"""Reading a model's states and attention weights along given tokens.

Shape suffixes: B batch, S source, T target, H hidden.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from freerun.models.decoder import Decoded
from freerun.models.device import products_of_fp32
from freerun.models.encoded import Encoded
from freerun.models.seq2seq import Seq2Seq
from freerun.search.batches import split_features

__all__ = ["StateReader"]

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class StateReader:
    """Reads one model; sources are ids [B, S], right-padded, with their lengths [B]."""

    def __init__(self, model: Seq2Seq) -> None:
        self._model = model

    @property
    def attends(self) -> bool:
        """Return True if the model has attention."""
        return self._model.decoder.attention is not None

    @torch.inference_mode()
    def states(self, source_ids: Ids, lengths: Ids, fed: Ids) -> Floats:
        """Return the decoder's top layer [B, T, H] after each token of ``fed`` [B, T], BOS first; not for padding."""
        decoded, _ = self._run(source_ids, lengths, fed)
        return _numbers(decoded.layers_TBH[-1].transpose(0, 1))

    @torch.inference_mode()
    def contexts(self, source_ids: Ids, lengths: Ids) -> Floats:
        """Return the decoder's top layer [B, H] before the first token: the encoder's summary of the source."""
        return _numbers(self._encoded(source_ids, lengths).state.h_LBH[-1])

    @torch.inference_mode()
    def attention(self, source_ids: Ids, lengths: Ids, fed: Ids) -> Floats:
        """Return the attention weights [B, T, S] with which the token after each token of ``fed`` is predicted."""
        decoded, encoded = self._run(source_ids, lengths, fed)
        attention, memory = self._model.decoder.attention, encoded.memory
        assert attention is not None and memory is not None, "check attends first"
        outputs_TBH = decoded.layers_TBH[-1]
        before_TBH = torch.cat([encoded.state.h_LBH[-1:], outputs_TBH[:-1]])
        return _numbers(attention.weights_along(before_TBH, outputs_TBH, memory))

    def _run(self, source_ids: Ids, lengths: Ids, fed: Ids) -> tuple[Decoded, Encoded]:
        encoded = self._encoded(source_ids, lengths)
        with products_of_fp32(self._model.device):
            return self._model.decoder.sequence(self._tensor(fed), encoded), encoded

    def _encoded(self, source_ids: Ids, lengths: Ids) -> Encoded:
        features = None
        if self._model.sizes.has_features:
            source_ids, feature_ids = split_features(source_ids, lengths)
            features = self._tensor(feature_ids)
        padded = bool((lengths < source_ids.shape[1]).any())
        real = self._tensor(lengths) if padded else None
        with products_of_fp32(self._model.device):
            return self._model.encode(self._tensor(source_ids), real, feature_ids_BQ=features)

    def _tensor(self, values: Ids) -> Tensor:
        return torch.as_tensor(values, device=self._model.device)


def _numbers(values: Tensor) -> Floats:
    array: Floats = values.float().cpu().numpy()
    return array
