"""The progress line in a notebook, with an IPython that records what it displays."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from freerun.training import progress_line
from freerun.training.callbacks import EvaluationResult
from freerun.training.notebook import NotebookProgress, is_notebook

METRICS = {"epoch": 1.5, "loss": 0.25, "nll.teacher": 0.5, "pairs_per_second": 1234.5}


class Display:
    """A line of output in a cell: every text that it had."""

    def __init__(self, cell, data):
        self.texts = [data["text/plain"]]
        cell.append(self)

    def update(self, data, raw):
        assert raw
        self.texts.append(data["text/plain"])


@pytest.fixture
def cell(monkeypatch):
    """The displays of a cell in a kernel."""
    displays = []

    def display(data, raw, display_id):
        assert raw and display_id is True
        return Display(displays, data)

    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    ipython.display = ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return displays


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress_line.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_progress_is_one_line_that_is_rewritten(cell, clock):
    progress = NotebookProgress()
    progress.on_start(0, 100)
    progress.on_update(1, {})  # too early for a line
    assert cell == []
    for update in (10, 50):
        clock.now += 10
        progress.on_update(update, METRICS if update == 50 else {})
    progress.on_evaluation(50, EvaluationResult({"nll.teacher": 0.5, "symbol_error_rate.free": None}), True)
    clock.now += 10
    progress.on_update(60, {})
    progress.on_end()
    (line,) = cell
    evaluation = "evaluation at update 50: nll.teacher 0.5000  symbol_error_rate.free undefined  (best so far)"
    now = "epoch 1.50  loss 0.2500  nll.teacher 0.5000  1,234 pairs/s"
    assert line.texts == [
        "update 10/100  1 min 30 s left",
        f"update 50/100  {now}  20 s left",
        f"update 50/100  {now}  20 s left | {evaluation}",
        f"update 60/100  {now}  20 s left | {evaluation}",
        evaluation,
    ]


def test_a_training_that_shows_nothing_leaves_no_line(cell):
    progress = NotebookProgress()
    progress.on_start(0, 1)
    progress.on_update(1, {})
    progress.on_message("news")
    progress.on_end()
    assert cell == []


def test_only_a_kernel_is_a_notebook(cell, monkeypatch):
    assert is_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", SimpleNamespace)  # the terminal of IPython
    assert not is_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)  # imported by a script
    assert not is_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not is_notebook()


def test_looking_for_a_notebook_imports_no_ipython():
    code = (
        "import sys; from freerun.training.notebook import is_notebook; is_notebook(); print('IPython' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
