"""What a person sees while training goes on."""

from __future__ import annotations

import errno
import io

import pytest

from freerun.commands import console
from freerun.commands.console import ConsoleReporter, say
from freerun.training.trainer import Measured

FIGURES = {"epoch": 1.5, "loss": 0.25, "nll.teacher": 0.5, "pairs_per_second": 1234.5}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(console.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_progress_has_speed_and_time_left(clock):
    reporter = ConsoleReporter(1000, 200, stream := io.StringIO())
    reporter.updated(250, FIGURES)
    clock.now += 10
    reporter.ticked(400)  # 200 updates in 10 s, so 600 more in 30 s
    assert stream.getvalue() == (
        "update 400/1,000  epoch 1.50  loss 0.2500  nll.teacher 0.5000  1,234 pairs/s  30 s left\n"
    )


def test_before_the_first_figures_there_is_the_time_left(clock):
    reporter = ConsoleReporter(1000, 0, stream := io.StringIO())
    clock.now += 20
    reporter.ticked(10)
    assert stream.getvalue() == "update 10/1,000  33 min 00 s left\n"


def test_a_line_comes_every_few_seconds(clock):
    reporter = ConsoleReporter(1000, 0, stream := io.StringIO(), every_seconds=5.0)
    for update in range(1, 14):
        clock.now += 1
        reporter.ticked(update)
    assert [line.split("/")[0] for line in stream.getvalue().splitlines()] == ["update 5", "update 10"]


def test_on_a_terminal_the_line_is_rewritten_and_never_wraps(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "12")
    reporter = ConsoleReporter(1000, 0, stream := Terminal())
    clock.now += 1
    reporter.ticked(10)
    reporter.said("news")
    reporter.close()
    assert stream.getvalue() == "\r\x1b[2Kupdate 10/1\r\x1b[2Knews\n\r\x1b[2K"


def test_an_evaluation_shows_both_ways_of_feeding_and_the_examples():
    reporter = ConsoleReporter(10, 0, stream := io.StringIO())
    metrics = {
        "nll.teacher": 0.5,
        "token_accuracy.teacher": 0.9,
        "symbol_error_rate.free": None,
        "sequence_accuracy.free": 0.25,
        "bleu.free": 3.0,
    }
    reporter.evaluated(1200, Measured(metrics, [("a\x1b[31m", "b\n", "c")]), is_best=True)
    assert stream.getvalue() == (
        "evaluation at update 1,200: nll.teacher 0.5000  token_accuracy.teacher 0.9000  "
        "symbol_error_rate.free undefined  sequence_accuracy.free 0.2500  (best so far)\n"
        "    source     a\\x1b[31m\n    reference  b\\n\n    free run   c\n"
    )


def test_news_goes_to_standard_error(capsys):
    say("news")
    ConsoleReporter(1, 0).said("more")
    assert capsys.readouterr() == ("", "news\nmore\n")


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_stream_that_cannot_be_written_does_not_end_a_training(kind, clock):
    """A terminal that was closed, a full disk under a log."""

    class Gone(kind):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    reporter = ConsoleReporter(10, 0, Gone())
    reporter.updated(1, FIGURES)
    clock.now += 100
    reporter.ticked(2)
    reporter.evaluated(3, Measured({"nll.teacher": 1.0}, [("a", "b", "c")]), True)
    reporter.said("news")
    reporter.close()
