"""The order of batches: every pair once an epoch, another order in each, and any place can be gone back to."""

from __future__ import annotations

import numpy as np

from freerun.training.order import BatchOrder
from freerun.training.progress import Progress
from tests.networks import corpus, random_rows

LENGTHS = [3, 5, 2, 4, 6, 1, 2, 5, 3, 3, 2]
PAIRS = corpus(random_rows(LENGTHS), random_rows(LENGTHS[::-1], size=9, seed=1))


def taken(order, progress, count):
    return [order.take(progress).pairs.tolist() for _ in range(count)]


def test_an_epoch_holds_every_pair_once():
    order, progress = BatchOrder(PAIRS, 1, 4, None), Progress()
    for epoch in range(3):
        assert (progress.epoch, progress.batch) == (epoch, 0)
        found = taken(order, progress, order.batches_per_epoch)
        assert sorted(np.concatenate(found)) == list(range(len(PAIRS)))


def test_epochs_and_seeds_differ():
    def epoch(seed, number):
        order = BatchOrder(PAIRS, seed, 4, None)
        return taken(order, Progress(epoch=number), order.batches_per_epoch)

    assert epoch(1, 0) != epoch(1, 1)
    assert epoch(1, 0) != epoch(2, 0)
    assert epoch(1, 5) == epoch(1, 5)


def test_any_place_can_be_gone_back_to():
    everything = taken(BatchOrder(PAIRS, 3, 2, None), Progress(), 20)
    order = BatchOrder(PAIRS, 3, 2, None)
    progress = Progress()
    for place in range(20):
        again = Progress(epoch=progress.epoch, batch=progress.batch)
        assert taken(BatchOrder(PAIRS, 3, 2, None), again, 20 - place) == everything[place:]
        order.take(progress)


def test_a_budget_of_tokens_makes_more_of_short_pairs():
    order = BatchOrder(PAIRS, 1, None, 20)
    found = taken(order, Progress(), order.batches_per_epoch)
    assert {len(batch) for batch in found} != {1}
    for batch in found:
        widths = PAIRS.sources.lengths[batch].max() + PAIRS.targets.lengths[batch].max()
        assert len(batch) * widths <= 20 or len(batch) == 1


def test_the_average_batch_counts_the_end_token():
    order = BatchOrder(PAIRS, 1, 4, None)
    assert order.batches_per_epoch == 3
    assert order.tokens_per_batch == PAIRS.targets.lengths.sum() / 3
    assert order.pairs_per_batch == len(PAIRS) / 3
