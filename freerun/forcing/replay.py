"""Replay: one whole-sequence pass, with gradients, over tokens that were decided beforehand.

The fed tokens are constants: no gradient flows through the choice of a token. So this pass has the loss and the
gradients of a step-by-step loop that feeds the same tokens under the same dropout masks.
"""

from __future__ import annotations

from torch import Tensor

from freerun.forcing.batch import TrainingBatch, Update
from freerun.models.dropout import DropoutMasks
from freerun.models.encoded import Encoded
from freerun.models.seq2seq import Seq2Seq

__all__ = ["encode", "replay"]


def encode(
    model: Seq2Seq, batch: TrainingBatch, update: Update, steps: int | None = None
) -> tuple[Encoded, DropoutMasks | None]:
    """Read the sources, with gradients, under the update's dropout masks; rollout and replay both go on from there.

    The masks are for ``steps`` target positions, None: those of the batch. Masks for more steps begin with the same.
    """
    steps = batch.target_in_BT.shape[1] if steps is None else steps
    masks = model.draw_masks(batch.source_BS.shape[1], steps, batch.num_pairs, update.generator("dropout"))
    return model.encode(batch.source_BS, batch.source_lengths_B, masks), masks


def replay(
    model: Seq2Seq, batch: TrainingBatch, encoded: Encoded, fed_BT: Tensor, masks: DropoutMasks | None
) -> Tensor:
    """Features [N, F] at the real target positions when the decoder is fed ``fed_BT`` (BOS first)."""
    decoded = model.decoder.sequence(fed_BT, encoded, masks)
    return batch.at_real_positions(decoded.features_TBF)
