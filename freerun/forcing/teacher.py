"""Teacher forcing: the decoder is always fed the previous reference token (Williams & Zipser 1989).

The loss is the negative log-likelihood of the target,

    - sum_t log p(y_t | y_1 ... y_(t-1), x),

conditioned only on tokens of the data. Training never sees a prefix that the model predicted itself, but inference
does (exposure bias).
"""

from __future__ import annotations

from freerun.forcing.loss import Losses
from freerun.forcing.replay import encode, replay
from freerun.forcing.strategy import Strategy
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.seq2seq import Seq2Seq

__all__ = ["Teacher"]


class Teacher(Strategy):
    """Feeds ``target_in``. No settings."""

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Return one term, the NLL of the reference tokens; the journal gets the NLL per token, unsmoothed."""
        encoded, masks = encode(model, batch, update)
        features_NF = replay(model, batch, encoded, batch.target_in_BT, masks)
        nll, metric = self.objective.token_nll(model, features_NF, batch)
        return Losses({"nll": nll}, {"nll.teacher": metric})
