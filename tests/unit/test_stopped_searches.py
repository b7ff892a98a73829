"""Calls of the C library that another thread ends."""

from __future__ import annotations

import threading
import time
from ctypes import c_int32

import numpy as np
import pytest

import freerun
from freerun import Beam, Greedy, Sampling
from freerun.data.readers import Pair
from freerun.runtime.interruptible import stop_flag, stopped_by
from freerun.symbols import BOS
from tests import trained


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return freerun.load(trained.bundles(tmp_path_factory, {"words": trained.WORDS})["words"])


@pytest.mark.parametrize("search", [Greedy(), Beam(3), Sampling()], ids=lambda search: type(search).__name__)
def test_a_flag_that_is_set_stops_every_search(predictor, search):
    with stopped_by(c_int32(1)), pytest.raises(RuntimeError, match="stopped by another thread"):
        predictor.predict("A B", search)
    assert predictor.predict("A B", search).hypotheses  # outside of the block nothing has changed


def test_scoring_is_stopped_too(predictor):
    pairs = predictor.encode_pairs([Pair("A B", "ab", 1)])
    with stopped_by(c_int32(1)), pytest.raises(RuntimeError, match="stopped by another thread"):
        predictor.score_encoded(pairs)


def test_a_long_call_ends_soon_after_the_flag_is_set(predictor):
    """It would take minutes: outputs of 2,000 tokens, because a large penalty prefers long ones."""
    flag = c_int32()
    texts = predictor.encode(["A B C"] * 300, max_length=2000)
    timer = threading.Timer(0.2, lambda: setattr(flag, "value", 1))
    timer.start()
    began = time.monotonic()
    with stopped_by(flag), pytest.raises(RuntimeError, match="stopped by another thread"):
        predictor.predict_encoded(texts, Beam(100, 1, 10.0))
    assert time.monotonic() - began < 20


def test_a_search_is_stopped_between_two_steps(predictor):
    stepper = predictor.searcher._fallback.stepper
    ids = np.array([predictor.encode(["A B"])[0].ids])
    stepper.start(ids, np.array([ids.shape[1]]))
    bos, first = np.array([BOS]), np.array([0])
    stepper.step(bos, first)
    with stopped_by(c_int32(1)), pytest.raises(RuntimeError, match="stopped by another thread"):
        stepper.step(bos, first)


def test_each_thread_has_a_flag_of_its_own():
    flags = []
    with stopped_by(c_int32(1)):
        thread = threading.Thread(target=lambda: flags.append(stop_flag().value))
        thread.start()
        thread.join()
        assert (stop_flag().value, flags) == (1, [0])
    assert stop_flag().value == 0
