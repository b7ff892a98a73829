"""Callbacks: when they are called, and what an exception in one of them does to a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from freerun.api.model_training import train
from freerun.errors import RunError
from freerun.experiment import run as runs
from freerun.training.callbacks import Callback
from freerun.training.checkpoint import Checkpoints
from freerun.training.journal import read_journal
from tests.killed import differences

PAIRS = [(a + b, b + a) for a in "abcd" for b in "efgh"]
CONFIG = {
    "data": {"source_tokens": "char", "target_tokens": "char"},
    "model": {"embedding_size": 4, "hidden_size": 5, "num_layers": 1},
    "forcing": {"phases": [{"strategy": "teacher", "until": 5}, {"strategy": "scheduled_sampling"}]},
    "training": {
        "updates": 12,
        "batch_size": 4,
        "threads": 1,
        "precision": "fp32",
        "checkpoint_every": 3,
        "journal_every": 2,
        "average": 2,
    },
    "evaluation": {"every": 4},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "tensorboard_is_installed", lambda: False)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.chdir(tmp_path)


class Recorder(Callback):
    """Records the calls, and raises at one of them."""

    def __init__(self, fails_at=None, error=ZeroDivisionError):
        self.calls, self.fails_at, self.error = [], fails_at, error

    def record(self, *call):
        self.calls.append(call)
        if call == self.fails_at:
            raise self.error("mine")

    def on_start(self, update, updates):
        self.record("start", update, updates)

    def on_update(self, update, metrics):
        assert bool(metrics) == (update % 2 == 0)
        assert not metrics or metrics.keys() >= {"loss", "gradient_norm", "pairs", "learning_rate", "epoch", "seconds"}
        self.record("update", update)

    def on_evaluation(self, update, result, is_best):
        assert result.metrics.keys() >= {"nll.teacher", "symbol_error_rate.free"}
        assert len(result.examples) == 1
        self.record("evaluation", update)

    def on_checkpoint(self, update, path):
        assert path == Path("run/checkpoints") / f"update-{update:08d}" and (path / "state.json").is_file()
        self.record("checkpoint", update)

    def on_message(self, text):
        self.record("message", text.split()[0])

    def on_end(self):
        self.record("end")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train into ``run``; the pairs have one path, so that equal runs have equal files."""
    pairs = tmp_path_factory.mktemp("data") / "pairs.tsv"
    pairs.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS))

    def run(*callbacks, **options):
        return train(pairs, out="run", config=CONFIG, callbacks=callbacks, **options)

    return run


ALL = [
    ("start", 0, 12),
    *[("update", update) for update in (1, 2, 3)],
    ("checkpoint", 3),
    ("update", 4),
    ("checkpoint", 4),
    ("evaluation", 4),
    ("update", 5),
    ("message", "From"),
    ("update", 6),
    ("checkpoint", 6),
    *[("update", update) for update in (7, 8)],
    ("checkpoint", 8),
    ("evaluation", 8),
    ("update", 9),
    ("checkpoint", 9),
    *[("update", update) for update in (10, 11, 12)],
    ("checkpoint", 12),
    ("evaluation", 12),
    ("message", "The"),
    ("end",),
]


def test_callbacks_are_called_in_this_order(run):
    run(recorder := Recorder())
    assert recorder.calls == ALL


def test_a_callback_does_nothing_by_itself(run):
    result = run(Callback())
    assert result.updates == 12


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    """A run without callbacks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "tensorboard_is_installed", lambda: False)
        patch.chdir(tmp_path_factory.mktemp("whole"))
        run()
        return Path("run").absolute()


@pytest.mark.parametrize(
    "call",
    [
        ("start", 0, 12),
        ("update", 2),
        ("update", 3),  # its checkpoint is due
        ("checkpoint", 4),  # its evaluation has been made
        ("evaluation", 4),
        ("message", "From"),
        ("update", 12),
        ("evaluation", 12),
        ("message", "The"),
    ],
    ids=str,
)
def test_after_an_exception_a_resumed_run_ends_with_the_same_bytes(run, undisturbed, call):
    first, other = Recorder(call), Recorder()
    with pytest.raises(ZeroDivisionError, match=r"^mine$") as error:
        run(first, other)
    assert error.value.__context__ is None
    assert first.calls[-1] == other.calls[-1] == ("end",)
    stop = read_journal(Path("run/journal.jsonl"))[-1]
    assert (stop["event"], stop["reason"], stop["error"]) == ("stop", "callback", "ZeroDivisionError")
    made = max((number for kind, number, *_ in (c for c in first.calls if len(c) > 1) if kind == "update"), default=0)
    assert Checkpoints(Path("run/checkpoints"), 3).updates()[-1] == made == stop["update"]
    run(resume=True)
    assert differences(Path("run"), undisturbed) == []


def test_an_exception_at_the_end_comes_when_all_is_written(run, undisturbed):
    first, other = Recorder(("end",)), Recorder()
    with pytest.raises(ZeroDivisionError):
        run(first, other)
    assert other.calls[-1] == ("end",)
    assert differences(Path("run"), undisturbed) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_every_callback_is_ended_whatever_another_raises(run, error):
    first, other = Recorder(("end",), error), Recorder()
    with pytest.raises(error):
        run(first, other)
    assert other.calls[-1] == ("end",)


def test_of_several_exceptions_the_first_is_raised(run):
    class Worse(Recorder):
        def on_end(self):
            raise LookupError

    with pytest.raises(ZeroDivisionError):
        run(Worse(("update", 2)))


def test_an_error_of_training_is_not_a_callbacks(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    class Fills(Callback):
        def on_update(self, update, metrics):
            monkeypatch.setattr("freerun.training.checkpoint.write_atomic", full)

    with pytest.raises(RunError, match="this checkpoint could not be written"):
        run(Fills())
    assert read_journal(Path("run/journal.jsonl"))[-1]["event"] != "stop"
