"""Damaged run directories: a few of the fuzzer's cases, and what it would find."""

from __future__ import annotations

from collections import Counter

import pytest

from freerun.training.checkpoint import Checkpoints as Stored
from tests.fuzz.checkpoints import Checkpoints

CASES = 36


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.slow
def test_damaged_runs_end_as_undisturbed_ones_or_are_rejected(fuzzer):
    found = Counter(fuzzer(number) for number in range(CASES))
    assert found.keys() == {"resumed", "complete", "rejected"}
    assert found["resumed"] > CASES // 2


def test_a_checkpoint_that_is_loaded_unverified_is_a_finding(fuzzer, monkeypatch):
    monkeypatch.setattr(Stored, "_verify", lambda *_: True)
    with pytest.raises(AssertionError, match=r"^case \d+, .* differ$"):
        Counter(map(fuzzer, range(10 * CASES)))
