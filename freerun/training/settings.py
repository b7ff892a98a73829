"""The numbers that the training loop runs by."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TrainerSettings"]


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """The length of a training and its intervals. Every ``*_every`` counts updates; 0: only at the end.

    ``accumulate`` batches make an update; training ends early after ``patience`` evaluations without improvement
    (0: never); the weights of the last ``average`` scheduled checkpoints are averaged at the end (0: none).
    """

    updates: int
    accumulate: int = 1
    journal_every: int = 50
    checkpoint_every: int = 500
    evaluate_every: int = 1000
    patience: int = 10
    average: int = 0

    def next_action(self, update: int) -> int:
        """Return the first update from ``update`` on after which there is something else to do, or the last one."""
        due = [-(-update // every) * every for every in (self.evaluate_every, self.checkpoint_every) if every > 0]
        return min([self.updates, *due])

    def evaluates_at(self, update: int) -> bool:
        """Return True if there is an evaluation after this update, however long the run is."""
        return self.evaluate_every > 0 and update > 0 and update % self.evaluate_every == 0
