"""Replay: one full-sequence pass, with gradients, over tokens that were chosen beforehand.

The fed tokens are constants: no gradient flows through the choice of a token. So the pass has the loss and gradients of
a step-by-step loop that feeds the same tokens under the same dropout masks.
"""

from __future__ import annotations

from torch import Tensor

from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.dropout import DropoutMasks
from freerun.models.encoded import Encoded
from freerun.models.seq2seq import Seq2Seq

__all__ = ["encode", "encode_without_dropout", "replay"]


def encode(
    model: Seq2Seq, batch: TrainingBatch, update: Update, steps: int | None = None
) -> tuple[Encoded, DropoutMasks | None]:
    """Encode the sources, with gradients, under the update's dropout masks; rollout and replay both start from there.

    The masks are for ``steps`` target positions; None means those of the batch. Masks for more steps begin with the
    same values.
    """
    steps = batch.target_in_BT.shape[1] if steps is None else steps
    num_features = 0 if batch.feature_ids_BQ is None else batch.feature_ids_BQ.shape[1]
    generators = update.generator("dropout"), update.shared_generator("dropout")
    masks = model.draw_masks(batch.source_BS.shape[1], steps, batch.num_pairs, *generators, num_features)
    return model.encode(batch.source_BS, batch.source_lengths_B, masks, batch.feature_ids_BQ), masks


def encode_without_dropout(model: Seq2Seq, batch: TrainingBatch) -> Encoded:
    """Encode the sources as at inference time."""
    return model.encode(batch.source_BS, batch.source_lengths_B, None, batch.feature_ids_BQ)


def replay(
    model: Seq2Seq, batch: TrainingBatch, encoded: Encoded, fed_BT: Tensor, masks: DropoutMasks | None
) -> Tensor:
    """Return the features [N, F] at the real target positions of a decoder that is fed ``fed_BT`` (BOS first)."""
    decoded = model.decoder.sequence(fed_BT, encoded, masks)
    return batch.at_real_positions(decoded.features_TBF)
