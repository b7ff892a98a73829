"""The first signal asks, the second acts, and afterwards everything is as it was."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from freerun.training import signals
from freerun.training.signals import CheckpointRequest, checkpoints_on_signals, stop_on_signals

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
EACH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


@EACH
def test_the_first_signal_is_only_remembered(number):
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal == number


@BOTH
def test_the_second_signal_acts_as_usual(number):
    acted = []
    before = signal.signal(number, lambda *_: acted.append("acted"))
    try:
        with stop_on_signals():
            os.kill(os.getpid(), number)
            assert acted == []
            os.kill(os.getpid(), number)
            assert acted == ["acted"]
    finally:
        signal.signal(number, before)


def test_after_one_signal_the_other_acts_too():
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@EACH
def test_handlers_are_put_back(number):
    before = handlers()
    with stop_on_signals():
        assert handlers() != before
    assert handlers() == before
    with stop_on_signals():
        os.kill(os.getpid(), number)
    assert handlers() == before
    with pytest.raises(ZeroDivisionError), stop_on_signals():
        raise ZeroDivisionError
    assert handlers() == before


def test_in_another_thread_signals_are_left_alone():
    found = []

    def work():
        with stop_on_signals() as stop:
            with checkpoints_on_signals() as wanted:
                found.append((bool(stop) or wanted.take(), handlers()))

    before = handlers()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_a_handler_from_elsewhere_becomes_the_usual_one(monkeypatch):
    before = handlers()
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda number: None)  # what Python says of a handler set in C
        with stop_on_signals():
            pass
    assert handlers() == [signal.SIG_DFL] * 3
    for number, handler in zip((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), before, strict=True):
        signal.signal(number, handler)


# ---------------------------------------------------------------------------------------------------- hanging up


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM])
def test_another_hang_up_does_not_cut_the_checkpoint_short(first):
    """A shell and the system may both send one when a terminal is closed."""
    acted = []
    before = [signal.signal(number, lambda *_: acted.append(1)) for number in (signal.SIGHUP, signal.SIGTERM)]
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), first)
            os.kill(os.getpid(), signal.SIGHUP)
            assert (acted, stop.signal) == ([], first)
            os.kill(os.getpid(), signal.SIGTERM)
            assert acted == [1]
        os.kill(os.getpid(), signal.SIGHUP)
        assert acted == [1, 1]
    finally:
        for number, handler in zip((signal.SIGHUP, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize("manager", [stop_on_signals, checkpoints_on_signals])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_what_was_ignored_stays_ignored(manager, number):
    """As ``nohup`` does it."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with manager() as request:
            os.kill(os.getpid(), number)
            assert signal.getsignal(number) is signal.SIG_IGN
            assert not (request.take() if isinstance(request, CheckpointRequest) else request)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


# --------------------------------------------------------------------------------------------- asking for a checkpoint


def test_a_request_for_a_checkpoint_is_taken_once():
    before = signal.getsignal(signal.SIGUSR1)
    with checkpoints_on_signals() as wanted:
        assert not wanted.take()
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert [wanted.take(), wanted.take()] == [True, False]
        os.kill(os.getpid(), signal.SIGUSR1)
        assert [wanted.take(), wanted.take()] == [True, False]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_system_without_these_signals_has_the_others(monkeypatch):
    """Windows."""
    monkeypatch.setattr("freerun.training.signals._HANG_UP", None)
    monkeypatch.setattr("freerun.training.signals._CHECKPOINT", None)
    before = handlers()
    with stop_on_signals() as stop, checkpoints_on_signals() as wanted:
        assert handlers()[2] == before[2]
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.signal, wanted.take()) == (signal.SIGTERM, False)
    assert handlers() == before


def test_within_the_grace_a_signal_may_come_twice(monkeypatch):
    acted, now = [], [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    before = signal.signal(signal.SIGTERM, lambda *_: acted.append("acted"))
    try:
        with stop_on_signals(grace=2.0) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            now[0] += 1
            os.kill(os.getpid(), signal.SIGTERM)
            assert (stop.signal, acted) == (signal.SIGTERM, [])
            now[0] += 2
            os.kill(os.getpid(), signal.SIGTERM)
            assert acted == ["acted"]
    finally:
        signal.signal(signal.SIGTERM, before)
