from __future__ import annotations

import errno
import os
import sys
import threading
from types import ModuleType
from typing import ClassVar

import pytest

from freerun.training import tensorboard
from freerun.training.tensorboard import TensorBoardReporter, tensorboard_is_installed
from freerun.training.trainer import Measured


class Writer:
    """Notes what torch's SummaryWriter is told."""

    told: ClassVar[list] = []

    def __init__(self, folder, purge_step):
        self.told[:] = [("open", folder, purge_step)]

    def __getattr__(self, name):
        return lambda *arguments: self.told.append((name, *arguments))


@pytest.fixture
def told(monkeypatch):
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return Writer.told


def test_figures_of_training_and_development_are_scalars(told, tmp_path):
    reporter = TensorBoardReporter(tmp_path, 40, pytest.fail)
    reporter.updated(50, {"loss": 0.5})
    reporter.ticked(51)
    reporter.said("news")
    reporter.evaluated(60, Measured({"bleu.free": 3.0, "chrf.free": None}, [("a", "b", "c")]), True)
    reporter.close()
    assert told == [
        ("open", str(tmp_path), 41),  # what a run that was killed wrote after its checkpoint goes away
        ("add_scalar", "train/loss", 0.5, 50),
        ("add_scalar", "dev/bleu.free", 3.0, 60),
        ("add_text", "dev/examples", "- `a`: c (reference: b)", 60),
        ("flush",),
        ("close",),
    ]


def test_the_extra_is_looked_for_by_name(monkeypatch):
    asked = []
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", asked.append)
    assert not tensorboard_is_installed()
    assert asked == ["tensorboard"]


def test_events_that_cannot_be_written_are_told_once_and_end_nothing(monkeypatch, tmp_path, capsys):
    """With the real writer, whose thread meets the full disk."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hook, warnings = threading.excepthook, []
    reporter = TensorBoardReporter(tmp_path / "events", 0, warnings.append)
    reporter.updated(1, {"loss": 0.5})
    monkeypatch.setattr(RecordWriter, "write", full)
    for update in range(2, 30):
        reporter.updated(update, {"loss": 0.5})
        reporter.evaluated(update, Measured({"bleu.free": 3.0}, []), True)
    reporter.close()
    assert warnings == [
        f"warning: {tmp_path / 'events'}: TensorBoard's events cannot be written (No space left on device)."
    ]
    assert "Traceback" not in capsys.readouterr().err
    assert threading.excepthook == hook


def test_errors_of_other_threads_are_told_as_ever(tmp_path, monkeypatch):
    others = []
    reporter = TensorBoardReporter(tmp_path / "events", 0, pytest.fail)
    thread = threading.Thread()
    monkeypatch.setattr(reporter, "_hook", others.append)
    threading.excepthook(threading.ExceptHookArgs((OSError, OSError(), None, thread)))
    reporter.close()
    assert [each.thread for each in others] == [thread]


def test_a_place_that_is_a_file_is_told_and_ends_nothing(tmp_path):
    (tmp_path / "events").touch()
    warnings = []
    reporter = TensorBoardReporter(tmp_path / "events", 0, warnings.append)
    reporter.updated(1, {"loss": 0.5})
    reporter.close()
    assert len(warnings) == 1
