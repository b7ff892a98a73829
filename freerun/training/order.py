"""The order of the training batches."""

from __future__ import annotations

from freerun.data.batching import Batch, Ids, make_batch, plan_epoch
from freerun.data.training_pairs import TrainingPairs
from freerun.training.progress import Progress

__all__ = ["BatchOrder"]


class BatchOrder:
    """The batches of every epoch: a pure function of (seed, epoch, window), so that any position can be resumed from.

    One window is planned at a time, so memory is bounded by its size.

    Args:
        corpus: the pairs; they say how an epoch is divided into windows, in which pairs are shuffled together.
        seed: of the order.
        batch_size: pairs per batch; or else ``batch_tokens``: positions per batch.
        batch_tokens: see ``plan_epoch``.
        together: how many batches make an update; those of one update have similar sizes.
    """

    def __init__(
        self, corpus: TrainingPairs, seed: int, batch_size: int | None, batch_tokens: int | None, together: int = 1
    ) -> None:
        self.corpus = corpus
        self._options = (batch_size, batch_tokens, seed, together)
        self._key, self._plan = (0, 0), self._planned(0, 0, 0)
        planned = sum(map(len, self._plan))
        self.batches_per_epoch = max(1, round(len(self._plan) * len(corpus) / planned))
        """With several windows an estimate: the first one's number, in proportion to its pairs."""

    @property
    def tokens_per_batch(self) -> float:
        """The mean number of target tokens per batch, EOS counted."""
        return self.corpus.num_tokens[1] / self.batches_per_epoch

    @property
    def pairs_per_batch(self) -> float:
        """The mean number of pairs per batch."""
        return len(self.corpus) / self.batches_per_epoch

    def take(self, progress: Progress) -> Batch:
        """Return the next batch, and move ``progress`` past it."""
        return self.batch(self.next(progress))

    def next(self, progress: Progress) -> Ids:
        """Return the numbers of the next batch's pairs, and move ``progress`` past it."""
        plan = self._of(progress)
        pairs = plan[progress.batch]
        progress.batch += 1
        if progress.batch == len(plan):
            progress.before += len(plan)
            progress.window, progress.batch = progress.window + 1, 0
        if progress.window == self.corpus.num_windows:
            progress.epoch, progress.window = progress.epoch + 1, 0
        return pairs

    def epochs(self, progress: Progress) -> float:
        """Return how many epochs are over, with the fraction of the present one."""
        windows = self.corpus.num_windows
        in_window = progress.batch / len(self._of(progress)) if progress.batch else 0.0
        return progress.epoch + (progress.window + in_window) / windows

    def num_tokens(self, pairs: Ids) -> int:
        """Return the number of target tokens of these pairs, EOS counted."""
        return int(self.corpus.targets.lengths_of(pairs).sum())

    def batch(self, pairs: Ids) -> Batch:
        """Return the batch of these pairs."""
        return make_batch(self.corpus, pairs)

    def _of(self, progress: Progress) -> list[Ids]:
        key = (progress.epoch, progress.window)
        if key != self._key:
            self._key, self._plan = key, []  # the former plan's memory is free before the next one is made
            self._plan = self._planned(*key, progress.before)
        return self._plan

    def _planned(self, epoch: int, window: int, before: int) -> list[Ids]:
        batch_size, batch_tokens, seed, together = self._options
        content = self.corpus.window(seed, epoch, window)
        plan = plan_epoch(
            content.source_lengths,
            content.target_lengths,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            seed=seed,
            epoch=epoch,
            together=together,
            window=window,
            # checkpoints of earlier versions do not have it; with one window it follows from the epoch
            before=None if self.corpus.num_windows == 1 else before,
        )
        return plan if content.pairs is None else [content.pairs[rows] for rows in plan]
