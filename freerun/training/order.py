"""The order of the training batches."""

from __future__ import annotations

from freerun.data.batching import Batch, Ids, make_batch, plan_epoch
from freerun.data.corpus import Corpus
from freerun.training.progress import Progress

__all__ = ["BatchOrder"]


class BatchOrder:
    """The batches of every epoch: a pure function of (seed, epoch), so that any position can be resumed from.

    ``together``: how many batches make an update; those of one update have similar sizes.
    """

    def __init__(
        self, corpus: Corpus, seed: int, batch_size: int | None, batch_tokens: int | None, together: int = 1
    ) -> None:
        self.corpus = corpus
        self._options = (batch_size, batch_tokens, seed, together)
        self._epoch, self._plan = 0, self._planned(0)
        self.batches_per_epoch = len(self._plan)

    @property
    def tokens_per_batch(self) -> float:
        """The mean number of target tokens per batch, EOS counted."""
        return float(self.corpus.targets.lengths.sum()) / self.batches_per_epoch

    @property
    def pairs_per_batch(self) -> float:
        """The mean number of pairs per batch."""
        return len(self.corpus) / self.batches_per_epoch

    def take(self, progress: Progress) -> Batch:
        """Return the next batch, and move ``progress`` past it."""
        return self.batch(self.next(progress))

    def next(self, progress: Progress) -> Ids:
        """Return the numbers of the next batch's pairs, and move ``progress`` past it."""
        plan = self._of(progress.epoch)
        pairs = plan[progress.batch]
        progress.batch += 1
        if progress.batch == len(plan):
            progress.epoch, progress.batch = progress.epoch + 1, 0
        return pairs

    def num_tokens(self, pairs: Ids) -> int:
        """Return the number of target tokens of these pairs, EOS counted."""
        return int(self.corpus.targets.lengths[pairs].sum())

    def batch(self, pairs: Ids) -> Batch:
        """Return the batch of these pairs."""
        return make_batch(self.corpus, pairs)

    def _of(self, epoch: int) -> list[Ids]:
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self._planned(epoch)
        return self._plan

    def _planned(self, epoch: int) -> list[Ids]:
        batch_size, batch_tokens, seed, together = self._options
        lengths = self.corpus.sources.lengths, self.corpus.targets.lengths
        return plan_epoch(
            *lengths, batch_size=batch_size, batch_tokens=batch_tokens, seed=seed, epoch=epoch, together=together
        )
