"""The output of a training on the terminal."""

from __future__ import annotations

import errno
import io
import logging
import subprocess
import sys

import pytest

from freerun.commands.console import say, shown_notices
from freerun.commands.train_progress import ConsoleProgress
from freerun.log import log
from freerun.training import progress_line
from freerun.training.callbacks import EvaluationResult

METRICS = {"epoch": 1.5, "loss": 0.25, "nll.teacher": 0.5, "pairs_per_second": 1234.5}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress_line.time, "perf_counter", lambda: Clock.now)
    return Clock


def started(updates, start, stream, **options):
    progress = ConsoleProgress(stream, **options)
    progress.on_start(start, updates)
    return progress


def test_a_second_training_does_not_begin_with_the_metrics_of_the_first(clock):
    progress = started(100, 0, stream := io.StringIO())
    progress.on_update(50, METRICS)
    progress.on_start(0, 200)
    clock.now += 10
    progress.on_update(100, {})
    assert stream.getvalue() == "update 100/200  10 s left\n"


def test_progress_has_speed_and_time_left(clock):
    progress = started(1000, 200, stream := io.StringIO())
    progress.on_update(250, METRICS)
    clock.now += 10
    progress.on_update(400, {})  # 200 updates in 10 s, so 600 more in 30 s
    assert stream.getvalue() == (
        "update 400/1,000  epoch 1.50  loss 0.2500  nll.teacher 0.5000  1,234 pairs/s  30 s left\n"
    )


def test_before_the_first_figures_there_is_the_time_left(clock):
    progress = started(1000, 0, stream := io.StringIO())
    clock.now += 20
    progress.on_update(10, {})
    assert stream.getvalue() == "update 10/1,000  33 min 00 s left\n"


def test_a_line_comes_every_few_seconds(clock):
    progress = started(1000, 0, stream := io.StringIO(), every_seconds=5.0)
    for update in range(1, 14):
        clock.now += 1
        progress.on_update(update, {})
    assert [line.split("/")[0] for line in stream.getvalue().splitlines()] == ["update 5", "update 10"]


def test_on_a_terminal_the_line_is_rewritten_and_never_wraps(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "12")
    progress = started(1000, 0, stream := Terminal())
    clock.now += 1
    progress.on_update(10, {})
    progress.on_message("news")
    progress.on_end()
    assert stream.getvalue() == "\r\x1b[2Kupdate 10/1\r\x1b[2Knews\n\r\x1b[2K"


def test_an_evaluation_shows_both_ways_of_feeding_and_the_examples():
    progress = started(10, 0, stream := io.StringIO())
    metrics = {
        "nll.teacher": 0.5,
        "token_accuracy.teacher": 0.9,
        "symbol_error_rate.free": None,
        "sequence_accuracy.free": 0.25,
        "bleu.free": 3.0,
    }
    progress.on_evaluation(1200, EvaluationResult(metrics, [("a\x1b[31m", "b\n", "c")]), is_best=True)
    assert stream.getvalue() == (
        "evaluation at update 1,200: nll.teacher 0.5000  token_accuracy.teacher 0.9000  "
        "symbol_error_rate.free undefined  sequence_accuracy.free 0.2500  (best so far)\n"
        "    source     a\\x1b[31m\n    reference  b\\n\n    free run   c\n"
    )


def test_news_goes_to_standard_error(capsys):
    say("news")
    ConsoleProgress().on_message("more")
    assert capsys.readouterr() == ("", "news\nmore\n")


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_stream_that_cannot_be_written_does_not_end_a_training(kind, clock):
    """A terminal that was closed, a full disk under a log."""

    class Gone(kind):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    progress = started(10, 0, Gone())
    progress.on_update(1, METRICS)
    clock.now += 100
    progress.on_update(2, {})
    progress.on_evaluation(3, EvaluationResult({"nll.teacher": 1.0}, [("a", "b", "c")]), True)
    progress.on_message("news")
    progress.on_end()


def test_notices_are_shown_within_a_command_only(capsys):
    log.warning("before")
    with shown_notices():
        log.info("a notice with \x1b[31m")
        log.warning("a warning")
        log.debug("nothing for a person")
    log.warning("after")
    assert capsys.readouterr() == ("", "a notice with \\x1b[31m\nwarning: a warning\n")
    assert (log.level, log.propagate) == (logging.NOTSET, True)


def test_notices_go_where_standard_error_is_now(monkeypatch):
    with shown_notices():
        monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
        log.info("news")
    assert stream.getvalue() == "news\n"


@pytest.mark.parametrize("module", ["freerun.cli", "freerun.commands.console", "freerun.commands.predict"])
def test_what_a_prediction_imports_is_without_logging(module):
    """Importing it takes 10 ms; onnxruntime and others may import it themselves."""
    code = f"import sys; sys.modules['onnxruntime'] = sys.modules['jinja2'] = None; import {module}"
    code += "; print('freerun.log' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
