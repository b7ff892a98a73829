from __future__ import annotations

import numpy as np
import pytest
import torch

from freerun.models.torch_stepper import TorchStepper
from freerun.runtime.onnx_stepper import OnnxStepper
from freerun.symbols import NEVER_WRITTEN
from tests.exported import GraphsOf, sources
from tests.networks import network

IDS, LENGTHS = sources([[4, 5, 2], [6, 2], [7, 8, 9, 2]])
BOS = np.array([1, 1, 1])
ALL = np.arange(3)


def pair(**options):
    model = network(5, torch.float32, attention="concat", context="every_step", **options)
    steppers = TorchStepper(model), OnnxStepper(GraphsOf(model))
    for stepper in steppers:
        stepper.start(IDS, LENGTHS)
    return steppers


@pytest.mark.parametrize("k", [None, 1, 3, 6, 99])
@pytest.mark.parametrize("banned", [NEVER_WRITTEN, (3, 1, 0), (), (2, 5)])
def test_a_step_gives_what_torch_gives_whatever_is_asked(k, banned):
    torch_stepper, stepper = pair()
    (expected_ids, expected), (ids, found) = (each.step(BOS, ALL, k, banned) for each in (torch_stepper, stepper))
    assert ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    tokens = np.array([0, 4, 8])
    np.testing.assert_allclose(stepper.log_prob_of(tokens), torch_stepper.log_prob_of(tokens), atol=1e-5)


def test_rows_multiply_change_places_and_leave_as_in_torch():
    steppers = pair(input_feeding=True)
    for tokens, origins in (
        ([1] * 6, [0, 0, 1, 1, 2, 2]),
        ([4, 5, 6, 7, 8, 4], [1, 0, 2, 2, 5, 4]),
        ([4, 5, 6], [0, 1, 4]),
        ([4, 5], [2, 0]),
        ([4], [1]),
    ):
        expected, found = (each.step(np.array(tokens), np.array(origins))[1] for each in steppers)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_start_forgets_what_was_before():
    first, again = pair()[1], pair()[1]
    again.step(BOS, np.array([2, 2, 2]))
    again.start(IDS, LENGTHS)
    np.testing.assert_array_equal(first.step(BOS, ALL)[1], again.step(BOS, ALL)[1])


def test_each_step_gives_as_many_as_are_asked_for():
    stepper = pair()[1]
    for k in (3, 1, 1, 4):
        assert stepper.step(BOS, ALL, k, NEVER_WRITTEN)[0].shape == (3, k)
