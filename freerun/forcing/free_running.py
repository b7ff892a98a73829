"""Free running: the decoder is fed only its own predictions, never a reference token ("student forcing").

This is scheduled sampling with ``teacher_prob`` 0 from the first update on. The loss is the NLL of the reference token
at each position. Bengio et al. 2015 report that training from scratch this way fails badly ("always sampling", table
1), so it serves as a control, and to fine-tune a model that was trained by teacher forcing.
"""

from __future__ import annotations

from freerun.forcing.loss import Losses
from freerun.forcing.replay import encode
from freerun.forcing.rollout import aligned_pass, uniforms
from freerun.forcing.scheduled_sampling import AlignedSettings, aligned_draw, changed_fraction
from freerun.forcing.strategy import Strategy
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.seq2seq import Seq2Seq

__all__ = ["FreeRunning"]


class FreeRunning(Strategy):
    """Feeds the model's own predictions."""

    Settings = AlignedSettings
    settings: AlignedSettings

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Return the NLL of the reference tokens given the fed ones; ``effective_rate`` as in scheduled sampling."""
        encoded, masks = encode(model, batch, update)
        target_BT = batch.target_in_BT
        numbers_BT = uniforms(update, "draws", *target_BT.shape, device=target_BT.device)
        draw = aligned_draw(self.settings)
        fed_BT, decoded = aligned_pass(
            model.decoder, encoded, batch.target_in_BT, batch.replaceable_BT, numbers_BT, draw, masks
        )
        features_NF = batch.at_real_positions(decoded.features_TBF)
        nll, metric = self.objective.token_nll(model, features_NF, batch)
        return Losses({"nll": nll}, {"nll.free_running": metric, "effective_rate": changed_fraction(batch, fed_BT)})
