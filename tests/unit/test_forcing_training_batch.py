from __future__ import annotations

import itertools

import pytest
import torch

from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.symbols import BOS, EOS, PAD
from tests.networks import training_batch

SOURCES = [[4, 5, EOS], [EOS], [4, 5, EOS]]
TARGETS = [[6, EOS], [7, 8, 9, EOS], [EOS]]
BATCH = training_batch(SOURCES, TARGETS)


def test_a_batch_as_tensors():
    assert BATCH.source_BS.tolist() == [[4, 5, EOS], [EOS, PAD, PAD], [4, 5, EOS]]
    assert BATCH.source_lengths_B.tolist() == [3, 1, 3]
    assert BATCH.target_in_BT.tolist() == [[BOS, 6, PAD, PAD], [BOS, 7, 8, 9], [BOS, PAD, PAD, PAD]]
    assert BATCH.target_out_BT.tolist() == [[6, EOS, PAD, PAD], [7, 8, 9, EOS], [EOS, PAD, PAD, PAD]]
    assert BATCH.target_lengths_B.tolist() == [2, 4, 1]
    assert (BATCH.num_pairs, BATCH.num_tokens) == (3, 7)
    assert BATCH.source_BS.dtype == BATCH.target_out_BT.dtype == torch.int64


def test_real_positions_go_step_by_step():
    assert BATCH.real_N.tolist() == [0, 1, 2, 3, 4, 7, 10]
    assert BATCH.target_N.tolist() == [6, 7, EOS, EOS, 8, 9, EOS]


def test_features_of_real_positions():
    values = torch.arange(4 * 3 * 2).reshape(4, 3, 2)
    assert BATCH.at_real_positions(values).tolist() == values.reshape(12, 2)[[0, 1, 2, 3, 4, 7, 10]].tolist()


@pytest.mark.parametrize(("targets", "padded"), [([[4, EOS], [5, EOS]], False), ([[4, EOS], [EOS]], True)])
@pytest.mark.parametrize(("sources", "source_padded"), [([[4, EOS], [5, EOS]], False), ([[4, EOS], [EOS]], True)])
def test_lengths_and_places_are_there_only_where_something_is_padded(sources, source_padded, targets, padded):
    batch = training_batch(sources, targets)
    assert (batch.source_lengths_B is not None, batch.real_N is not None) == (source_padded, padded)
    assert batch.target_N.tolist() == ([4, EOS, EOS] if padded else [4, 5, EOS, EOS])


def test_a_batch_carries_all_references_of_a_source():
    references = [[reference.tolist() for reference in row] for row in BATCH.references]
    assert references == [[[6, EOS], [EOS]], [[7, 8, 9, EOS]], [[6, EOS], [EOS]]]


def test_a_batch_goes_where_it_is_told():
    assert TrainingBatch.of(BATCH.origin, "meta").target_in_BT.device.type == "meta"


# ------------------------------------------------------------------------------------------------------------- updates


def numbers(update, purpose="dropout"):
    return tuple(update.generator(purpose).uniform(3).tolist())


def test_randomness_is_a_pure_function_of_the_update():
    update = Update(number=5, seed=2, part=3)
    before = numbers(update)
    torch.manual_seed(0)
    torch.rand(10)
    assert numbers(update) == numbers(Update(5, 2, 3)) == before


def test_randomness_differs_by_update_seed_part_and_purpose():
    updates = [Update(*keys) for keys in itertools.product([1, 2], repeat=3)]
    found = {numbers(update, purpose) for update in updates for purpose in ("dropout", "coins")}
    assert len(found) == 16


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    numbers(Update(1, 1))
    assert torch.rand(3).equal(expected)


def test_one_batch_an_update_is_the_default():
    assert numbers(Update(4, 9)) == numbers(Update(4, 9, part=0))


def test_numbers_are_those_of_earlier_versions():
    assert numbers(Update(4, 9, part=1)) == pytest.approx([0.6637370403896113, 0.34618164028080955, 0.7136785537517725])
