from __future__ import annotations

import errno
import os
import sys
import threading
from types import ModuleType
from typing import ClassVar

import pytest

from freerun.training import tensorboard
from freerun.training.callbacks import EvaluationResult
from freerun.training.tensorboard import TensorBoardCallback, tensorboard_is_installed


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


def started(directory, update=0):
    callback = TensorBoardCallback(directory)
    callback.on_start(update, 100)
    return callback


def test_figures_of_training_and_development_are_scalars(told, tmp_path):
    callback = started(tmp_path, 40)
    callback.on_update(50, {"loss": 0.5})
    callback.on_update(51, {})
    callback.on_message("news")
    callback.on_evaluation(60, EvaluationResult({"bleu.free": 3.0, "chrf.free": None}, [("a", "b", "c")]), True)
    callback.on_end()
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


def test_events_that_cannot_be_written_are_reported_once_and_end_nothing(monkeypatch, tmp_path, capsys, caplog):
    """With the real writer, whose thread meets the full disk."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hook = threading.excepthook
    callback = started(tmp_path / "events")
    callback.on_update(1, {"loss": 0.5})
    monkeypatch.setattr(RecordWriter, "write", full)
    for update in range(2, 30):
        callback.on_update(update, {"loss": 0.5})
        callback.on_evaluation(update, EvaluationResult({"bleu.free": 3.0}, []), True)
    callback.on_end()
    assert caplog.messages == [
        f"{tmp_path / 'events'}: TensorBoard's events cannot be written (No space left on device)."
    ]
    assert "Traceback" not in capsys.readouterr().err
    assert threading.excepthook == hook


def test_errors_of_other_threads_are_told_as_ever(tmp_path, monkeypatch):
    others = []
    callback = started(tmp_path / "events")
    thread = threading.Thread()
    monkeypatch.setattr(callback, "_hook", others.append)
    threading.excepthook(threading.ExceptHookArgs((OSError, OSError(), None, thread)))
    callback.on_end()
    assert [each.thread for each in others] == [thread]


def test_a_path_that_is_a_file_is_reported_and_ends_nothing(tmp_path, caplog):
    (tmp_path / "events").touch()
    callback = started(tmp_path / "events")
    callback.on_update(1, {"loss": 0.5})
    callback.on_end()
    assert len(caplog.messages) == 1
