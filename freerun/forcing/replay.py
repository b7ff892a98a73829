"""Replay: one whole-sequence pass, with gradients, over tokens that were decided beforehand."""

from __future__ import annotations

from torch import Tensor

from freerun.forcing.batch import TrainingBatch
from freerun.models.dropout import DropoutMasks
from freerun.models.seq2seq import Seq2Seq

__all__ = ["replay"]


def replay(model: Seq2Seq, batch: TrainingBatch, fed_BT: Tensor, masks: DropoutMasks | None) -> Tensor:
    """Logits [N, V] at the real target positions when the decoder is fed ``fed_BT`` (BOS first).

    The fed tokens are constants: no gradient flows through the choice of a token, so this pass has the loss and the
    gradients of a step-by-step loop that feeds the same tokens under the same dropout masks.
    """
    features_TBF = model(batch.source_BS, batch.source_lengths_B, fed_BT, masks)
    logits: Tensor = model.decoder.logits(batch.at_real_positions(features_TBF))
    return logits
