"""The loop, with a learner whose weight counts its updates, and hooks that answer from a script."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from freerun.distributed.ranks import ALONE
from freerun.errors import Interrupted, RunError, TrainingError
from freerun.search.batches import EVERYTHING
from freerun.training.averaging import average
from freerun.training.callbacks import Callback, EvaluationResult
from freerun.training.checkpoint import Checkpoint, Checkpoints, serialised
from freerun.training.journal import read_journal
from freerun.training.learner import NotFinite, Step
from freerun.training.resume import choose_checkpoint
from freerun.training.selection import Selection
from freerun.training.settings import TrainerSettings
from freerun.training.signals import CheckpointRequest, StopRequest
from freerun.training.trainer import Trainer

PAIRS = list(range(8))
BATCH = SimpleNamespace(num_pairs=8, num_tokens=30)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Counter(torch.nn.Module):
    """One weight: the number of updates made."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))


class CountingLearner:
    """Each update adds 1 to the weight; its loss is the update's number."""

    def __init__(self, bad_update=None):
        self.model = Counter()
        self.learning_rate = 0.5
        self.bad_update = bad_update
        self.ranks = ALONE

    def update(self, number, batches):
        if number == self.bad_update:
            raise NotFinite(float("nan"), float("inf"))
        self.model.weight.data += 1
        return Step(float(number), 2.0, [{"nll.teacher": (3.0 * len(batches), 30)}] * len(batches))

    def phase(self, number):
        return ""

    def state(self):
        step = self.model.weight.detach().clone()
        return self.model.state_dict(), {"weight/step": step}, {"own": step}

    def load(self, model, optimizer, strategy, update):
        assert optimizer["weight/step"] == strategy["own"] == update
        self.model.load_state_dict(model)


class Order:
    batches_per_epoch = 4

    def next(self, progress):
        progress.batch += 1
        progress.epoch, progress.batch = (progress.epoch + progress.batch // 4, progress.batch % 4)
        return PAIRS

    def epochs(self, progress):
        return progress.epoch + progress.batch / 4

    def batch(self, pairs):
        assert pairs == PAIRS
        return BATCH

    def num_tokens(self, pairs):
        return self.batch(pairs).num_tokens


class ScriptedHost:
    """Tells the error rates of a script, keyed by the weight that is measured; 1.0 for the rest."""

    def __init__(self, folder, rates=None, stop_at=None):
        self.folder, self.rates, self.stop_at = folder, rates or {}, stop_at
        self.stop = StopRequest()
        self.measured, self.bundles = [], []

    def evaluate(self, model, everything, check, share, others):
        assert (share, others()) == (EVERYTHING, [])
        weight = model.weight.item()
        self.measured.append((weight, everything))
        if self.stop_at == (weight, everything):
            self.stop.signal = 2
        check()
        rate = self.rates.get(weight, 1.0)
        metrics = {"symbol_error_rate.free": rate, "nll.teacher": 2.0, "everything": int(everything)}
        return EvaluationResult(metrics, () if everything else [("a", "b", "c")])

    def write_bundle(self, name, weights, metrics, update):
        (self.folder / name).mkdir(exist_ok=True)
        content = serialised(weights)
        (self.folder / name / "model.safetensors").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        (self.folder / name / "label.json").write_text(json.dumps([update, sha256]))
        self.bundles.append((name, float(weights["weight"]), update, dict(metrics)))
        return sha256

    def read_label(self, name):
        path = self.folder / name / "label.json"
        return tuple(json.loads(path.read_text())) if path.exists() else None

    def describe(self, batch):
        return [{"source": "abc", "target": "def"}]


class Recorder(Callback):
    """Records the calls, and the updates of a journal record; may ask to stop at an update."""

    def __init__(self, stop=None, stop_at=None):
        self.stop, self.stop_at = stop, stop_at
        self.calls = []

    def on_update(self, update, metrics):
        if metrics:
            self.calls.append(("update", update))
        if update == self.stop_at:
            self.stop.signal = 15

    def on_evaluation(self, update, result, is_best):
        self.calls.append(("evaluation", update, is_best))

    def on_message(self, text):
        self.calls.append(("message", text))

    def on_end(self):
        self.calls.append(("end",))


def trainer(folder, host=None, stop_at=None, learner=None, keep=3, resume=False, **settings):
    options = {"updates": 12, "journal_every": 2, "checkpoint_every": 2, "evaluate_every": 4, "patience": 0}
    host = host or ScriptedHost(folder)
    made = Trainer(
        learner=learner or CountingLearner(),
        order=Order(),
        settings=TrainerSettings(**{**options, **settings}),
        selection=Selection("symbol_error_rate.free"),
        hooks=host,
        directory=folder,
        checkpoints=Checkpoints(folder / "checkpoints", keep),
        callbacks=[Recorder(host.stop, stop_at)],
    )
    if resume:
        found = choose_checkpoint(made.checkpoints, made.journal, made.settings)
        made.resume_from(found.checkpoint, found.discarded)
    return made


def run(made):
    return made.run(made.hooks.stop)


def events(folder, kind=None):
    return [event for event in read_journal(folder / "journal.jsonl") if kind in (None, event["event"])]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weight(folder, name):
    return float(load_file(folder / name / "model.safetensors")["weight"])


# -------------------------------------------------------------------------------------------------------- the whole run


def test_a_run_has_its_events_at_their_updates(tmp_path):
    run(trainer(tmp_path))
    assert [(event["event"], event["update"]) for event in events(tmp_path)] == [
        ("update", 2),
        ("checkpoint", 2),
        ("update", 4),
        ("evaluation", 4),
        ("checkpoint", 4),
        ("update", 6),
        ("checkpoint", 6),
        ("update", 8),
        ("evaluation", 8),
        ("checkpoint", 8),
        ("update", 10),
        ("checkpoint", 10),
        ("update", 12),
        ("evaluation", 12),
        ("checkpoint", 12),
        ("evaluation", 12),
        ("stop", 12),
    ]


@pytest.mark.parametrize("updates", [1, 5])
def test_the_last_update_is_evaluated_whatever_the_interval(tmp_path, updates):
    run(trainer(tmp_path, updates=updates, evaluate_every=0, checkpoint_every=0, journal_every=99))
    assert [(event["event"], event["update"]) for event in events(tmp_path)] == [
        ("evaluation", updates),
        ("checkpoint", updates),
        ("evaluation", updates),
        ("stop", updates),
    ]


def test_every_update_may_have_a_checkpoint_from_the_first_on(tmp_path):
    run(trainer(tmp_path, updates=3, checkpoint_every=1, keep=5))
    assert [event["update"] for event in events(tmp_path, "checkpoint")] == [1, 2, 3]


def test_figures_of_an_interval_are_means_of_its_own_updates(tmp_path):
    run(trainer(tmp_path, accumulate=3))
    first, second, *_ = events(tmp_path, "update")
    times = {"seconds", "pairs_per_second"}
    assert first.keys() == second.keys()
    assert {key: value for key, value in second.items() if key not in times} == {
        "event": "update",
        "update": 4,
        "loss": 3.5,
        "gradient_norm": 2.0,
        "pairs": 2 * 3 * 8,
        "target_tokens": 2 * 3 * 30,
        "nll.teacher": 0.3,
        "learning_rate": 0.5,
        "epoch": 3.0,
    }
    assert first["pairs_per_second"] > 0


def test_the_speed_is_that_of_training_whatever_the_evaluations_take(tmp_path, monkeypatch):
    """8 pairs an update, which takes 2 s; an evaluation, which may come within an interval, takes 100 s."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("freerun.training.trainer.time", SimpleNamespace(perf_counter=lambda: clock.now))
    learner, host = CountingLearner(), ScriptedHost(tmp_path)

    def takes(seconds, method):
        def slow(*given):
            clock.now += seconds
            return method(*given)

        return slow

    monkeypatch.setattr(learner, "update", takes(2.0, learner.update))
    monkeypatch.setattr(host, "evaluate", takes(100.0, host.evaluate))
    run(trainer(tmp_path, host, learner=learner, journal_every=3, evaluate_every=2))
    assert [event["pairs_per_second"] for event in events(tmp_path, "update")] == [4.0] * 4


def test_an_evaluation_event_has_figures_examples_and_whether_it_is_the_best(tmp_path):
    run(trainer(tmp_path, ScriptedHost(tmp_path, {4.0: 0.5, 8.0: 0.25})))
    found = [dict(event) for event in events(tmp_path, "evaluation")]
    assert all(event.pop("seconds") >= 0 for event in found)
    sample = {"nll.teacher": 2.0, "everything": 0, "examples": [{"source": "a", "reference": "b", "free_run": "c"}]}
    assert found[:3] == [
        {"event": "evaluation", "update": 4, "symbol_error_rate.free": 0.5, "best": True, **sample},
        {"event": "evaluation", "update": 8, "symbol_error_rate.free": 0.25, "best": True, **sample},
        {"event": "evaluation", "update": 12, "symbol_error_rate.free": 1.0, "best": False, **sample},
    ]
    assert (found[3]["final"], found[3]["best_update"], found[3]["everything"]) == (True, 8, 1)
    assert found[3]["best_sha256"] == sha256(tmp_path / "best" / "model.safetensors")


def test_the_other_events_have_no_other_keys(tmp_path):
    with pytest.raises(Interrupted):
        run(trainer(tmp_path, stop_at=3))
    run(trainer(tmp_path, resume=True))
    found = {event["event"]: event.keys() for event in events(tmp_path)}
    assert found["checkpoint"] == found["resume"] == {"event", "update"}
    assert found["stop"] == {"event", "update", "reason", "seconds"}
    with pytest.raises(Interrupted):
        run(trainer(tmp_path, updates=20, stop_at=14, resume=True))
    assert events(tmp_path)[-1].keys() == {"event", "update", "reason", "signal", "seconds"}


def test_callbacks_are_called_at_intervals_and_evaluations_and_the_end(tmp_path):
    made = trainer(tmp_path, updates=4)
    run(made)
    assert made.callbacks[0].calls == [("update", 2), ("update", 4), ("evaluation", 4, True), ("end",)]


# ----------------------------------------------------------------------------------------- the best model, and patience


def test_best_holds_the_best_weights_measured_on_everything_and_last_the_last(tmp_path):
    made = trainer(tmp_path, ScriptedHost(tmp_path, {4.0: 0.5, 8.0: 0.25, 12.0: 0.3}))
    progress = run(made)
    assert (weight(tmp_path, "best"), weight(tmp_path, "last"), progress.best_update) == (8.0, 12.0, 8)
    assert made.hooks.measured[-1] == (8.0, True)
    name, _, update, metrics = made.hooks.bundles[-1]
    assert (name, update, metrics["everything"]) == ("best", 8, 1)


def test_of_equal_models_the_earlier_is_best(tmp_path):
    assert run(trainer(tmp_path, ScriptedHost(tmp_path, {4.0: 0.5, 8.0: 0.5, 12.0: 0.5}))).best_update == 4


def test_patience_ends_a_run_after_so_many_evaluations_without_a_better_one(tmp_path):
    rates = {4.0: 0.5, 8.0: 0.6, 12.0: 0.4, 16.0: 0.4, 20.0: 0.5}
    progress = run(trainer(tmp_path, ScriptedHost(tmp_path, rates), updates=100, patience=2))
    assert (progress.update, progress.best_update) == (20, 12)
    assert (events(tmp_path)[-1]["reason"], weight(tmp_path, "best")) == ("patience", 12.0)


def test_without_patience_a_run_goes_to_its_end(tmp_path):
    assert run(trainer(tmp_path, updates=40, patience=0)).update == 40
    assert events(tmp_path)[-1]["reason"] == "complete"


def test_undefined_figures_are_null_and_never_the_best(tmp_path):
    host = ScriptedHost(tmp_path, {4.0: None, 8.0: 0.9, 12.0: None})
    assert run(trainer(tmp_path, host)).best_update == 8
    assert events(tmp_path, "evaluation")[0]["symbol_error_rate.free"] is None


# ------------------------------------------------------------------------------------------------------------ averaging


def test_the_mean_of_the_last_checkpoints_is_best_where_it_is_better(tmp_path):
    made = trainer(tmp_path, ScriptedHost(tmp_path, {8.0: 0.5, 10.0: 0.25}), keep=5, average=3)
    progress = run(made)
    assert (weight(tmp_path, "best"), progress.best_update) == (10.0, 12)  # the mean of 8, 10 and 12
    told = events(tmp_path, "evaluation")[-2]
    assert (told["averaged"], told["best"]) == ([8, 10, 12], True)
    assert made.callbacks[0].calls[-2][1] == (
        "The mean of the checkpoints of updates 8, 10, 12: symbol_error_rate.free 0.2500, better than the best model; "
        "now the best."
    )


def test_a_mean_that_is_no_better_is_left(tmp_path):
    made = trainer(tmp_path, ScriptedHost(tmp_path, {8.0: 0.5, 10.0: 0.5}), average=3)
    assert run(made).best_update == 8
    assert weight(tmp_path, "best") == 8.0
    assert events(tmp_path, "evaluation")[-2]["best"] is False
    assert "0.5000, no better than the best model" in made.callbacks[0].calls[-2][1]


@pytest.mark.parametrize("settings", [{"average": 0}, {"average": 3, "checkpoint_every": 0, "evaluate_every": 0}])
def test_without_several_checkpoints_there_is_no_mean(tmp_path, settings):
    run(trainer(tmp_path, **settings))
    assert not any("averaged" in event for event in events(tmp_path))


def test_average_is_the_mean_summed_in_fp64():
    models = [{"w": torch.tensor([value, 1.0]), "n": torch.tensor(value)} for value in (1e8, 1.0, -1e8)]
    found = average(models)
    assert found["w"].tolist() == [pytest.approx(1 / 3), 1.0]  # in fp32 the 1 would be lost
    assert (found["w"].dtype, found["n"].shape) == (torch.float32, ())


# ------------------------------------------------------------------------------------------------ stopping and going on


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6, 7])
def test_a_signal_writes_a_checkpoint_and_the_last_bundle(tmp_path, stop_at):
    made = trainer(tmp_path, stop_at=stop_at)
    with pytest.raises(Interrupted) as error:
        run(made)
    assert error.value.signal == 15
    checkpoints = Checkpoints(tmp_path / "checkpoints", 3)
    assert checkpoints.updates()[-1] == stop_at
    assert (stop_at in checkpoints.scheduled()) == (stop_at == 6)  # at 4 the evaluation comes first, and is left
    assert weight(tmp_path, "last") == stop_at
    stop = events(tmp_path)[-1]
    assert (stop["event"], stop["reason"], stop["signal"]) == ("stop", "signal", 15)
    assert made.callbacks[0].calls[-1] == ("end",)


def test_the_last_bundle_of_a_stopped_run_has_only_figures_of_its_own_weights(tmp_path):
    early, late = tmp_path / "early", tmp_path / "late"
    for folder in (early, late):
        folder.mkdir()
    stopped = trainer(early, stop_at=5), trainer(late, ScriptedHost(late, {12.0: 0.5}, (12.0, True)))
    for made in stopped:
        with pytest.raises(Interrupted):
            run(made)
    assert stopped[0].hooks.bundles[-1] == ("last", 5.0, 5, {})
    assert stopped[1].hooks.bundles[-1][:3] == ("last", 12.0, 12)
    assert stopped[1].hooks.bundles[-1][3]["symbol_error_rate.free"] == 0.5


def without_times(folder):
    return [
        {key: value for key, value in event.items() if "seconds" not in key and "_per_second" not in key}
        for event in events(folder)
        if event["event"] != "resume"
    ]


@pytest.mark.parametrize("stop_at", [1, 2, 4, 7, 11])
@pytest.mark.parametrize("settings", [{}, {"average": 3}, {"patience": 1}, {"accumulate": 3, "journal_every": 5}])
def test_a_resumed_run_has_the_journal_of_an_undisturbed_one(tmp_path, stop_at, settings):
    rates = {4.0: 0.5, 8.0: 0.25, 10.0: 0.1}
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    run(trainer(tmp_path / "whole", ScriptedHost(tmp_path / "whole", rates), **settings))
    with pytest.raises(Interrupted):
        run(trainer(tmp_path / "stopped", ScriptedHost(tmp_path / "stopped", rates), stop_at, **settings))
    run(trainer(tmp_path / "stopped", ScriptedHost(tmp_path / "stopped", rates), resume=True, **settings))
    whole, stopped = without_times(tmp_path / "whole"), without_times(tmp_path / "stopped")
    assert [json.dumps(event) for event in stopped] == [json.dumps(event) for event in whole]
    assert weight(tmp_path / "stopped", "best") == weight(tmp_path / "whole", "best")
    found = [Checkpoints(tmp_path / name / "checkpoints", 3).updates() for name in ("whole", "stopped")]
    assert found[0] == found[1]


@pytest.mark.parametrize("stop_at", [(4.0, False), (10.0, False), (8.0, True)], ids=["sample", "average", "final"])
def test_a_signal_during_any_evaluation_changes_nothing_in_the_end(tmp_path, stop_at):
    rates = {8.0: 0.25}
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    run(trainer(tmp_path / "whole", ScriptedHost(tmp_path / "whole", rates), average=3))
    stopped = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        run(trainer(stopped, ScriptedHost(stopped, rates, stop_at), average=3))
    update = 4 if stop_at == (4.0, False) else 12
    assert weight(stopped, "last") == update  # and not the weights that were being measured
    run(trainer(stopped, ScriptedHost(stopped, rates), average=3, resume=True))
    assert without_times(stopped) == without_times(tmp_path / "whole")
    assert [weight(stopped, name) for name in ("best", "last")] == [8.0, 12.0]


def test_going_on_cuts_the_journal_back_and_says_where(tmp_path):
    run(trainer(tmp_path))
    trainer(tmp_path, resume=True)
    assert [(event["event"], event["update"]) for event in events(tmp_path)[-3:]] == [
        ("evaluation", 12),
        ("checkpoint", 12),
        ("resume", 12),
    ]


def test_a_checkpoint_is_not_written_twice_at_one_update(tmp_path):
    with pytest.raises(Interrupted):
        run(trainer(tmp_path, stop_at=6))
    with pytest.raises(Interrupted):
        run(trainer(tmp_path, stop_at=7, resume=True))
    assert [event["update"] for event in events(tmp_path, "checkpoint")] == [2, 4, 6]


@pytest.mark.parametrize("state", [{"update": 2, "strange": 1}, {"update": 3}])
def test_a_checkpoint_of_something_else_is_told(tmp_path, state):
    made = trainer(tmp_path)
    made.save_checkpoint()
    (found,) = [made.checkpoints.load(update) for update in made.checkpoints.updates()]
    model = found.model if "strange" in state else {"other": torch.zeros(())}
    changed = Checkpoint(model, found.optimizer, found.strategy, {**found.state, **state, "update": 0})
    made.checkpoints.save(0, changed)
    with pytest.raises(RunError, match=r"newest checkpoint does not fit this run .*(strange|other)"):
        trainer(tmp_path, resume=True)


def test_a_missing_best_model_is_told_at_the_end(tmp_path):
    made = trainer(tmp_path, updates=4)
    made.hooks.write_bundle = lambda *_: "0123"
    with pytest.raises(
        RunError, match=r"best/model\.safetensors: the weights of the best model \(update 4\) cannot be"
    ):
        run(made)


# --------------------------------------------------------------------------------------------------------------- damage

RATES = {4.0: 0.5, 8.0: 0.25}
"""Of the best models: that of update 4, then that of update 8."""


def damaged_and_resumed(tmp_path, damage, stop_at=10, keep=4, rates=RATES, **settings):
    """A run that is stopped, damaged by ``damage(folder)`` and resumed to its end; and one that was left alone."""
    whole, folder = tmp_path / "whole", tmp_path / "damaged"
    for each in (whole, folder):
        each.mkdir()
    run(trainer(whole, ScriptedHost(whole, rates), keep=keep, **settings))
    with pytest.raises(Interrupted):
        run(trainer(folder, ScriptedHost(folder, rates), stop_at, keep=keep, **settings))
    damage(folder)
    made = trainer(folder, ScriptedHost(folder, rates), resume=True, keep=keep, **settings)
    began = made.progress.update
    run(made)
    assert without_times(folder) == without_times(whole)
    for name in ("best", "last"):
        for file in ("model.safetensors", "label.json"):
            assert (folder / name / file).read_bytes() == (whole / name / file).read_bytes()
    return made, began


def flip(path):
    """Change the last bit of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def updates(folder):
    return Checkpoints(folder / "checkpoints", 4).updates()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "strategy.safetensors", "state.json"])
def test_a_damaged_newest_checkpoint_is_left_out_and_replaced(tmp_path, name):
    made, began = damaged_and_resumed(tmp_path, lambda run: flip(run / "checkpoints/update-00000010" / name))
    assert began == 8
    assert updates(made.directory) == updates(tmp_path / "whole") == [6, 8, 10, 12]
    assert made.checkpoints.load(10).is_verified


def test_all_later_checkpoints_are_written_again(tmp_path):
    """Left where it is, a damaged one of update 10 would be taken for the newest when that of update 8 is written."""

    def damage(run):
        for update in (8, 10):
            flip(run / f"checkpoints/update-{update:08d}/model.safetensors")

    made, began = damaged_and_resumed(tmp_path, damage, keep=3)
    assert began == 6
    assert updates(made.directory) == [8, 10, 12]


def test_an_older_damaged_checkpoint_is_removed(tmp_path):
    """It does not count among those that are kept, although its state could be read."""
    made, began = damaged_and_resumed(tmp_path, lambda run: flip(run / "checkpoints/update-00000006/model.safetensors"))
    assert began == 10
    assert updates(made.directory) == [4, 8, 10, 12]


def test_a_run_goes_back_before_a_damaged_checkpoint_that_is_averaged(tmp_path):
    rates = {**RATES, 11.0: 0.1}
    damage = lambda run: flip(run / "checkpoints/update-00000008/model.safetensors")  # noqa: E731
    _, began = damaged_and_resumed(tmp_path, damage, rates=rates, average=4)
    assert began == 6


def test_a_changed_journal_is_cut_back_to_an_earlier_checkpoint(tmp_path):
    def damage(run):
        path = run / "journal.jsonl"
        before, mark, after = path.read_bytes().partition(b'"checkpoint", "update": 8}')
        path.write_bytes(before + mark + after.replace(b"loss", b"lose", 1))

    _, began = damaged_and_resumed(tmp_path, damage)
    assert began == 8


def test_a_best_model_that_is_damaged_is_written_again_from_its_checkpoint(tmp_path):
    made, began = damaged_and_resumed(tmp_path, lambda run: flip(run / "best/model.safetensors"))
    assert began == 10
    assert made.hooks.bundles[0] == (
        "best",
        8.0,
        8,
        {"symbol_error_rate.free": 0.25, "nll.teacher": 2.0, "everything": 0},
    )
    assert made.callbacks[0].calls[0] == (
        "message",
        f"{made.directory / 'best'}: damaged; restored from the weights of update 8.",
    )


def test_a_best_model_of_another_update_is_not_taken_for_the_best(tmp_path):
    """Whole in itself, and not the one that was evaluated."""

    def damage(run):
        shutil.copytree(run / "last", run / "best", dirs_exist_ok=True)
        (run / "best" / "label.json").write_text(json.dumps([4, sha256(run / "best" / "model.safetensors")]))

    damaged_and_resumed(tmp_path, damage)


def test_a_best_model_whose_other_files_are_damaged_is_written_again(tmp_path):
    made, _ = damaged_and_resumed(tmp_path, lambda run: (run / "best" / "label.json").unlink(), stop_at=6)
    assert made.hooks.bundles[0][:3] == ("best", 4.0, 4)


def damaged(tmp_path, stop_at, *damage, **settings):
    """A stopped run of which these files have changed; the error of resuming it."""
    with pytest.raises(Interrupted):
        run(trainer(tmp_path, ScriptedHost(tmp_path, RATES), stop_at, keep=2, **settings))
    for name in damage:
        flip(tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError) as error:
        trainer(tmp_path, ScriptedHost(tmp_path, RATES), resume=True, keep=2, **settings)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    return str(error.value)


def test_a_damaged_best_model_without_its_checkpoint_is_rejected_at_once(tmp_path):
    told = damaged(tmp_path, 7, "best/model.safetensors", checkpoint_every=1)
    assert told.startswith(
        f"{tmp_path / 'best'}: the best model (update 4) is damaged, and the checkpoint of that update cannot "
        "be used (this checkpoint is damaged (["
    )
    assert told.endswith(
        "Expected the directory best/ as training wrote it. Put it back and rerun with --resume, or train again into "
        "another directory with --out."
    )


def test_a_checkpoint_with_other_weights_than_the_best_model_is_not_taken_for_it(tmp_path):
    with pytest.raises(Interrupted):
        run(trainer(tmp_path, ScriptedHost(tmp_path, RATES), 6))
    made = trainer(tmp_path, ScriptedHost(tmp_path, RATES))
    found = made.checkpoints.load(4)
    made.checkpoints.save(4, Checkpoint({"weight": torch.tensor(3.0)}, found.optimizer, found.strategy, found.state))
    flip(tmp_path / "best" / "model.safetensors")
    with pytest.raises(RunError, match="is damaged, and the checkpoint of that update has other weights"):
        trainer(tmp_path, resume=True)


def test_a_best_model_that_is_damaged_while_training_is_not_given_a_valid_hash(tmp_path):
    made = trainer(tmp_path, ScriptedHost(tmp_path, RATES), stop_at=None)
    evaluate = made.hooks.evaluate

    def damage(model, everything, check, *shared):
        if model.weight.item() == 12 and not everything:
            flip(tmp_path / "best" / "model.safetensors")
        return evaluate(model, everything, check, *shared)

    made.hooks.evaluate = damage
    with pytest.raises(RunError, match=r"cannot be read \(the SHA-256 differs from the one at its evaluation\)"):
        run(made)


@pytest.mark.parametrize("update", [8, 12], ids=["of an evaluation", "of the end"])
def test_a_best_model_that_is_newer_than_the_checkpoint_is_normal(tmp_path, update):
    """Killed between the two: the run comes to it again."""
    rates = {4.0: 0.5, float(update): 0.25}

    def damage(run_folder):
        newer = trainer(run_folder, ScriptedHost(run_folder, rates))
        weights = {"weight": torch.tensor(float(update))}
        newer.hooks.write_bundle("best", weights, {"symbol_error_rate.free": 0.25, "nll.teacher": 2.0}, update)

    made, began = damaged_and_resumed(tmp_path, damage, stop_at=6, rates=rates)
    assert began == 6
    assert all(name != "best" or number >= update for name, _, number, _ in made.hooks.bundles)


def test_an_average_that_was_written_before_the_run_was_killed_is_normal(tmp_path):
    rates = {4.0: 0.5, 11.0: 0.25}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        run(trainer(tmp_path / name, ScriptedHost(tmp_path / name, rates), average=2))
    folder = tmp_path / "killed"
    assert weight(folder, "best") == 11.0
    journal = folder / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    run(trainer(folder, ScriptedHost(folder, rates), average=2, resume=True))
    assert without_times(folder) == without_times(tmp_path / "whole")
    assert weight(folder, "best") == 11.0


def test_the_last_bundle_is_written_again_where_nothing_else_would(tmp_path):
    run(trainer(tmp_path, ScriptedHost(tmp_path, RATES)))
    before = (tmp_path / "last" / "model.safetensors").read_bytes()
    flip(tmp_path / "last" / "model.safetensors")
    made = trainer(tmp_path, ScriptedHost(tmp_path, RATES), resume=True)
    assert (tmp_path / "last" / "model.safetensors").read_bytes() == before
    metrics = {"symbol_error_rate.free": 1.0, "nll.teacher": 2.0, "everything": 0}
    assert made.hooks.bundles == [("last", 12.0, 12, metrics)]


@pytest.mark.parametrize("has_best", [True, False])
def test_a_run_of_an_earlier_version_is_resumed_and_remembers_its_best_model_from_then_on(tmp_path, has_best):
    """Its checkpoints have no manifests and know no hashes."""
    for name in ("whole", "old"):
        (tmp_path / name).mkdir()
    run(trainer(tmp_path / "whole", ScriptedHost(tmp_path / "whole", RATES)))
    folder = tmp_path / "old"
    with pytest.raises(Interrupted):
        run(trainer(folder, ScriptedHost(folder, RATES), 10))
    for path in (folder / "checkpoints").iterdir():
        (path / "manifest.json").unlink()
        state = json.loads((path / "state.json").read_text())
        del state["best_sha256"], state["journal_sha256"]
        (path / "state.json").write_text(json.dumps(state))
    if not has_best:
        shutil.rmtree(folder / "best")
    made = trainer(folder, ScriptedHost(folder, RATES), resume=True)
    assert made.progress.update == 10
    assert [bundle[:3] for bundle in made.hooks.bundles] == ([] if has_best else [("best", 8.0, 8)])
    assert made.progress.best_sha256 == sha256(folder / "best" / "model.safetensors")
    run(made)
    assert without_times(folder) == without_times(tmp_path / "whole")


# ------------------------------------------------------------------------------------------------ what cannot be learnt


def test_a_loss_that_is_not_finite_saves_the_batch_and_the_weights_stay(tmp_path):
    made = trainer(tmp_path, learner=CountingLearner(bad_update=4), accumulate=2)
    with pytest.raises(TrainingError) as error:
        run(made)
    path = tmp_path / "not-finite-update-4.json"
    assert str(error.value) == (
        "update 4: the loss is nan and the gradient norm inf; the update was not applied. Expected finite "
        f"numbers. Inspect the batch in {path}; train again with a lower training.learning_rate, a longer warm-up or a "
        "smaller training.clip_norm."
    )
    assert json.loads(path.read_text()) == {
        "update": 4,
        "loss": "nan",
        "gradient_norm": "inf",
        "pairs": [{"source": "abc", "target": "def"}] * 2,
    }
    assert made.learner.model.weight.item() == 3.0
    assert made.checkpoints.updates() == [2]
    assert made.callbacks[0].calls[-1] == ("end",)


def test_a_batch_that_cannot_be_saved_hides_nothing(tmp_path):
    made = trainer(tmp_path, learner=CountingLearner(bad_update=1))
    made.directory = tmp_path / "missing"
    with pytest.raises(TrainingError, match=r"the loss is nan .* could not be saved .* \(No such file or directory\)"):
        run(made)


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_the_reason(tmp_path, monkeypatch):
    made = trainer(tmp_path)
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(RunError, match="this checkpoint could not be written"):
        run(made)


# ------------------------------------------------------------------------------------------------------- longer runs


def longer(folder, host, **settings):
    """The trainer of a run in ``folder`` that is made longer."""
    made = trainer(folder, host, **settings)
    found = choose_checkpoint(made.checkpoints, made.journal, made.settings)
    made.resume_from(found.checkpoint, found.discarded, is_longer=True)
    return made


BEST = {
    # the best model is that of update 4, which is no longer among the checkpoints
    "an average": ({"updates": 8, "average": 2, "keep": 2}, {4.0: 0.5, 7.0: 0.1, 8.0: 0.6, 11.0: 0.9, 12.0: 0.7}, 7.0),
    "an average of patience": (
        {"updates": 20, "average": 2, "patience": 1, "keep": 2},
        {4.0: 0.5, 7.0: 0.1, 8.0: 0.6},
        7.0,
    ),
    "the last evaluation": ({"updates": 7, "keep": 1}, {4.0: 0.5, 7.0: 0.1, 8.0: 0.6, 12.0: 0.7}, 7.0),
}


@pytest.mark.parametrize("name", BEST)
def test_a_longer_run_has_the_best_model_from_before_the_end(tmp_path, name):
    settings, rates, at_the_end = BEST[name]
    (tmp_path / "run").mkdir()
    (tmp_path / "whole").mkdir()
    run(trainer(tmp_path / "run", ScriptedHost(tmp_path / "run", rates), **settings))
    assert weight(tmp_path / "run", "best") == at_the_end
    assert 4 not in Checkpoints(tmp_path / "run" / "checkpoints", 2).updates()
    settings = {**settings, "updates": 30 if "patience" in settings else 12}
    made = longer(tmp_path / "run", ScriptedHost(tmp_path / "run", rates), **settings)
    assert (weight(tmp_path / "run", "best"), made.progress.best_update) == (4.0, 4)
    assert made.callbacks[0].calls == [
        (
            "message",
            (
                f"{tmp_path / 'run' / 'best'}: changes by the end of the shorter run are undone; restored from the "
                "weights of update 4."
            ),
        )
    ]
    run(made)
    run(trainer(tmp_path / "whole", ScriptedHost(tmp_path / "whole", rates), **settings))
    assert weight(tmp_path / "run", "best") == weight(tmp_path / "whole", "best")
    for folder in ("run", "whole"):
        assert events(tmp_path / folder)[-2]["best_update"] == (8 if "patience" in settings else 4)


def test_a_kept_best_model_with_another_hash_is_not_taken(tmp_path):
    settings, rates, _ = BEST["the last evaluation"]
    run(trainer(tmp_path, ScriptedHost(tmp_path, rates), **settings))
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2)
    found = checkpoints.load(7)
    other = {"weight": found.best["weight"] + 1}
    checkpoints.save(7, dataclasses.replace(found, best=other), scheduled=False)
    with pytest.raises(RunError, match=r"the best model \(update 4\) is damaged, and the checkpoint of that upd"):
        longer(tmp_path, ScriptedHost(tmp_path, rates), keep=1, updates=12)
    assert [event["event"] for event in events(tmp_path)][-1] == "stop", "the run is as it was"


def test_a_best_model_that_needs_no_copy_has_none(tmp_path):
    """There is none yet, it is in the checkpoint itself, or nothing replaces it."""
    for name, settings in (
        ("first", {"updates": 3}),
        ("itself", {"updates": 4, "average": 2}),
        ("kept", {"updates": 8}),
    ):
        (tmp_path / name).mkdir()
        run(trainer(tmp_path / name, ScriptedHost(tmp_path / name, {4.0: 0.5}), **settings))
        assert Checkpoints(tmp_path / name / "checkpoints", 3).load(settings["updates"]).best is None


def test_the_end_is_evaluated_again_after_a_crash_before_its_evaluation(tmp_path):
    """best/ is that of the end already, so the copy of the model before it is the one in the checkpoint."""
    settings, rates, _ = BEST["the last evaluation"]
    run(trainer(tmp_path, ScriptedHost(tmp_path, rates), **settings))
    before = Checkpoints(tmp_path / "checkpoints", 2).load(7)
    told = [(event["event"], event["update"]) for event in events(tmp_path) if event["event"] != "resume"]
    run(trainer(tmp_path, ScriptedHost(tmp_path, rates), resume=True, **settings))
    after = Checkpoints(tmp_path / "checkpoints", 2).load(7)
    assert after.best["weight"] == before.best["weight"] == 4.0
    assert weight(tmp_path, "best") == 7.0
    assert [(event["event"], event["update"]) for event in events(tmp_path) if event["event"] != "resume"] == told


# ----------------------------------------------------------------------------------------- checkpoints on request


class Asks(Recorder):
    """Asks for a checkpoint after some updates."""

    def __init__(self, wanted, *updates):
        super().__init__(StopRequest())
        self.wanted, self.updates = wanted, updates

    def on_update(self, update, metrics):
        if update in self.updates:
            self.wanted.open()


def requested(folder, *updates, first=False, **settings):
    """Run with requests; returns what was told about them and what checkpoints were saved, in their order."""
    wanted = CheckpointRequest()
    if first:
        wanted.open()
    made = trainer(folder, **settings)
    made.callbacks = [Asks(wanted, *updates)]
    saved, save = [], made.checkpoints.save

    def spy(update, checkpoint, scheduled=True):
        saved.append((update, scheduled))
        save(update, checkpoint, scheduled)

    made.checkpoints.save = spy
    made.run(made.hooks.stop, wanted)
    return [call[1] for call in made.callbacks[0].calls if call[0] == "message"], saved


def test_a_requested_checkpoint_is_not_scheduled(tmp_path):
    told, saved = requested(tmp_path, 3, updates=8)
    assert told == ["Saved the checkpoint of update 3, as requested by SIGUSR1; training continues."]
    assert saved == [(2, True), (3, False), (4, True), (6, True), (8, True)]
    assert [event["update"] for event in events(tmp_path, "checkpoint")] == [2, 4, 6, 8]
    assert Checkpoints(tmp_path / "checkpoints", 3).updates() == [4, 6, 8]


def test_a_requested_checkpoint_that_is_there_is_not_written_again(tmp_path):
    told, saved = requested(tmp_path, 4, updates=8)
    assert told == ["Saved the checkpoint of update 4, as requested by SIGUSR1; training continues."]
    assert saved == [(2, True), (4, True), (6, True), (8, True)]


def test_a_checkpoint_that_is_requested_before_the_first_update_comes_after_it(tmp_path):
    told, saved = requested(tmp_path, first=True, updates=4)
    assert told == ["Saved the checkpoint of update 1, as requested by SIGUSR1; training continues."]
    assert saved == [(1, False), (2, True), (4, True)]


def test_a_checkpoint_that_is_requested_at_the_end_is_the_one_from_before_it(tmp_path):
    told, saved = requested(tmp_path, 7, updates=7)
    assert told == ["Saved the checkpoint of update 7, as requested by SIGUSR1; training continues."]
    assert saved == [(2, True), (4, True), (6, True), (7, False)]


def test_a_request_while_the_best_model_is_measured_is_answered_too(tmp_path):
    wanted = CheckpointRequest()
    made = trainer(tmp_path, updates=4)
    evaluate = made.hooks.evaluate

    def asks(model, everything, check, *shared):
        if everything:
            wanted.open()
        return evaluate(model, everything, check, *shared)

    made.hooks.evaluate = asks
    made.run(made.hooks.stop, wanted)
    assert made.callbacks[0].calls[-2] == ("message", "Training has ended; its last checkpoint is that of update 4.")


def test_nothing_is_shown_between_a_signal_and_its_checkpoint(tmp_path):
    """The terminal may have gone with the signal."""
    made = trainer(tmp_path)
    shown = []

    class Gone(Recorder):
        def on_update(self, update, metrics):
            assert not self.stop, "the terminal is gone"
            shown.append(update)

    learner = made.learner.update

    def update(number, batches):
        if number == 3:
            made.hooks.stop.signal = 1
        return learner(number, batches)

    made.learner.update = update
    made.callbacks = [Gone(made.hooks.stop)]
    with pytest.raises(Interrupted):
        run(made)
    assert shown == [1, 2]
    assert Checkpoints(tmp_path / "checkpoints", 3).updates() == [2, 3]
