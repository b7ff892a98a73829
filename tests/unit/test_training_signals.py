"""The first signal asks, the second acts, and afterwards everything is as it was."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from freerun.training.signals import stop_on_signals

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@BOTH
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


@BOTH
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
            found.append((bool(stop), handlers()))

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
    assert handlers() == [signal.SIG_DFL, signal.SIG_DFL]
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)
