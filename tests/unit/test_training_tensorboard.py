from __future__ import annotations

import sys
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
    reporter = TensorBoardReporter(tmp_path, 40)
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
