"""A training that several processes share: the same journal, metrics and bytes, whatever happens to one of them.

The processes are threads here, with everything but the transport as it is; tests/cli/test_processes.py has real ones.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
import torch

from freerun.errors import Ended, Interrupted, RankError, RunError, TrainingError
from freerun.experiment import following, run_hooks
from freerun.experiment import run as runs
from freerun.experiment.following import follow
from freerun.experiment.request import TrainRequest
from freerun.training.callbacks import Callback
from freerun.training.checkpoint import Checkpoints
from freerun.training.journal import read_journal
from freerun.training.learner import Learner
from freerun.training.signals import CheckpointRequest, StopRequest
from tests.equivalence.test_resume import COMMON, RUNS, configuration, pairs
from tests.killed import differences
from tests.ranks import in_threads

__all__ = ["pairs"]
KINDS = ("lstm", "professor", "phases", "features")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(runs, "tensorboard_is_installed", lambda: False)
    monkeypatch.setattr(run_hooks, "ROWS", 3)  # so that there is a share for each process


def request_for(pairs, directory, kind, *settings, resume=False):
    """A run with a batch per update and process, unless ``settings`` say otherwise."""
    chosen = [setting for setting in (*COMMON, *RUNS[kind]) if "accumulate" not in setting]
    return TrainRequest(
        source=configuration(pairs, RUNS[kind]), out=directory, settings=(*chosen, *settings), resume=resume
    )


def train(request, processes, callbacks=(), requests=None):
    """What each process returns or raises; ``requests``: of signals, by rank."""
    request = replace(request, processes=processes)
    if processes == 1:
        return [runs.train(request, callbacks)]
    with _requests(requests or {}):
        return in_threads(
            processes,
            lambda ranks: runs.train(request, callbacks, ranks),
            lambda ranks: follow(request, ranks),
        )


@contextlib.contextmanager
def _requests(made):
    """Give each rank its own requests in place of those that signals make; threads have no signals."""
    with pytest.MonkeyPatch.context() as patch:
        for module, rank in ((runs, 0), (following, 1)):
            stop, wanted = made.get(rank, (StopRequest(), CheckpointRequest()))
            patch.setattr(module, "stop_on_signals", lambda *_, stop=stop: contextlib.nullcontext(stop))
            patch.setattr(module, "checkpoints_on_signals", lambda *_, wanted=wanted: contextlib.nullcontext(wanted))
        yield


def numbers(directory):
    """The journal's numbers: update -> name -> value."""
    events = read_journal(directory / "journal.jsonl")
    return [
        {key: value for key, value in event.items() if type(value) is float and "second" not in key}
        for event in events
        if event["event"] in ("update", "evaluation")
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one_with_two_batches_per_update(pairs, tmp_path, kind):
    one, two = tmp_path / "one", tmp_path / "two"
    train(request_for(pairs, one, kind, "training.accumulate=2"), 1)
    train(request_for(pairs, two, kind), 2)
    assert (two / "config.toml").read_bytes() == (one / "config.toml").read_bytes()
    for found, expected in zip(numbers(two), numbers(one), strict=True):
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-3)
    start = read_journal(two / "journal.jsonl")[0]
    assert start["processes"] == 2
    assert "processes" not in read_journal(one / "journal.jsonl")[0]


def test_bytes_repeat_and_a_batch_more_per_process_is_the_same_run(pairs, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        train(request_for(pairs, directory, "lstm", "training.accumulate=2"), 2)
    assert differences(second, first) == []


class Stops(Callback):
    """Asks to stop, or for a checkpoint, as if a signal had come to one of the ranks during an update."""

    def __init__(self, request, at, number=15):
        self.request, self.at, self.number = request, at, number

    def on_update(self, update, metrics):
        if update == self.at:
            if isinstance(self.request, StopRequest):
                self.request.signal = self.number
            else:
                self.request.open()


@pytest.mark.parametrize(("kind", "rank"), [("lstm", 0), ("professor", 1)])
def test_a_signal_to_any_rank_stops_all_at_one_update_and_the_rest_follows_later(pairs, tmp_path, kind, rank):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(request_for(pairs, whole, kind), 2)
    requests = {number: (StopRequest(), CheckpointRequest()) for number in range(2)}
    ends = train(request_for(pairs, stopped, kind), 2, [Stops(requests[rank][0], 7)], requests)
    assert [type(end) for end in ends] == [Interrupted, Interrupted]
    assert [end.signal for end in ends] == [15, 15]
    last = read_journal(stopped / "journal.jsonl")[-1]
    assert (last["event"], last["reason"]) == ("stop", "signal")
    assert last["update"] in (8, 9), "the next sum tells all, or the one after it, if that has begun"
    assert last["update"] in Checkpoints(stopped / "checkpoints", 3).updates()
    train(request_for(pairs, stopped, kind, resume=True), 2)
    assert differences(stopped, whole) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_checkpoint_is_saved_once_whichever_rank_is_asked_for_it(pairs, tmp_path, rank):
    whole, asked = tmp_path / "whole", tmp_path / "asked"
    train(request_for(pairs, whole, "lstm"), 2)
    requests = {number: (StopRequest(), CheckpointRequest()) for number in range(2)}
    heard = []

    class Listens(Stops):
        def on_message(self, text):
            heard.append(text)

    train(request_for(pairs, asked, "lstm"), 2, [Listens(requests[rank][1], 9)], requests)
    (message,) = [text for text in heard if "SIGUSR1" in text]
    saved = [f"Saved the checkpoint of update {n}, as requested by SIGUSR1; training continues." for n in (10, 11)]
    assert message in saved
    assert differences(asked, whole) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_during_an_evaluation_leaves_it(pairs, tmp_path, rank, monkeypatch):
    requests = {number: (StopRequest(), CheckpointRequest()) for number in range(2)}
    hooks = following.RunHooks if rank else runs.RunHooks
    method = "outcome" if rank else "evaluate"
    original, finished = getattr(hooks, method), []

    def during(self, *arguments):
        requests[rank][0].signal = 2
        result = original(self, *arguments)
        finished.append(result)
        return result

    monkeypatch.setattr(hooks, method, during)
    ends = train(request_for(pairs, tmp_path / "run", "lstm"), 2, (), requests)
    assert [end.signal for end in ends] == [2, 2]
    assert finished == []
    events = read_journal(tmp_path / "run" / "journal.jsonl")
    assert "evaluation" not in [event["event"] for event in events]
    assert (events[-1]["reason"], events[-1]["update"]) == ("signal", 6)


def test_a_run_goes_on_with_another_number_of_processes(pairs, tmp_path, caplog):
    caplog.set_level("INFO", "freerun")
    run = tmp_path / "run"
    stop = {0: (StopRequest(), CheckpointRequest())}
    train(request_for(pairs, run, "lstm"), 2, [Stops(stop[0][0], 7)], stop)
    train(request_for(pairs, run, "lstm", "training.accumulate=2", resume=True), 1)
    assert "From here on one process computes each update, 2 batches each" in caplog.text
    events = read_journal(run / "journal.jsonl")
    assert [event["processes"] for event in events if "processes" in event] == [2, 1]
    assert events[-1]["reason"] == "complete"


def test_a_run_whose_updates_would_be_others_is_refused(pairs, tmp_path):
    run = tmp_path / "run"
    stop = {0: (StopRequest(), CheckpointRequest())}
    train(request_for(pairs, run, "lstm"), 2, [Stops(stop[0][0], 7)], stop)
    product = "choose --processes and training.accumulate so that their product is 2"
    with pytest.raises(RunError, match=f"training.accumulate was 2, now 1.*{product}"):
        train(request_for(pairs, run, "lstm", resume=True), 1)
    leader, *others = train(TrainRequest(out=run, resume=True), 3)
    assert str(leader) == (
        "--processes: the value is 3, and an update of this run has 2 batches. Expected a number that divides the "
        "batches equally. Choose 1 or 2."
    )
    assert [other.code for other in others] == [2, 2]


def test_the_whole_update_that_is_not_finite_is_written_down(pairs, tmp_path):
    ends = train(request_for(pairs, tmp_path / "run", "lstm", "training.learning_rate=1e30", "training.clip_norm=0"), 2)
    assert isinstance(ends[0], TrainingError)
    assert isinstance(ends[1], Ended)
    assert ends[1].code == 2
    (path,) = (tmp_path / "run").glob("not-finite-update-*.json")
    update = json.loads(path.read_text())
    whole = read_journal(tmp_path / "run" / "journal.jsonl")
    assert len(update["pairs"]) > 8, (update, whole)


def test_a_rank_without_memory_says_so_and_nothing_is_lost(pairs, tmp_path, monkeypatch):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(request_for(pairs, whole, "professor"), 2)
    original = Learner._losses

    def full(self, update, batch):
        if self.ranks.rank == 1 and update.number == 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(self, update, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "_losses", full)
        ends = train(request_for(pairs, run, "professor"), 2)
    assert isinstance(ends[1], TrainingError)
    assert isinstance(ends[0], RankError)
    assert str(ends[0]).startswith("rank 1 (host1): update 8, on rank 1: no memory is left on cpu for a batch of ")
    assert 7 in Checkpoints(run / "checkpoints", 3).updates()
    train(request_for(pairs, run, "professor", resume=True), 2)
    assert differences(run, whole) == []


def test_a_rank_with_other_data_or_keys_is_named_before_the_first_update(pairs, tmp_path):
    request = request_for(pairs, tmp_path / "run", "lstm")
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / pairs.name).write_text(pairs.read_text() + "more\tmore\n")
    (other / "pairs.toml").write_text(f'[data]\ntrain = "{pairs.name}"\n')

    def end_of(theirs):
        ends = in_threads(
            2,
            lambda ranks: runs.train(replace(request, processes=2), (), ranks),
            lambda ranks: follow(replace(theirs, processes=2), ranks),
        )
        assert not (tmp_path / "run" / "journal.jsonl").exists()
        return str(ends[0])

    assert end_of(replace(request, source=other / "pairs.toml")) == (
        "rank 1 (host1): its training pairs and encoded pairs differ from rank 0's. Expected the same data in all "
        "processes. Correct it there, and start again."
    )
    assert end_of(replace(request, settings=(*request.settings, "model.hidden_size=7"))).startswith(
        "rank 1 (host1): model.hidden_size is 7 there, and 6 in rank 0. Expected the same configuration"
    )
    (other / pairs.name).write_text(pairs.read_text())
    ends = in_threads(
        2,
        lambda ranks: runs.train(replace(request, processes=2), (), ranks),
        lambda ranks: follow(replace(request, source=other / "pairs.toml", processes=2), ranks),
    )
    assert ends[0].updates == 20, "the same pairs in another place are the same"


def test_a_rank_whose_weights_drift_is_named(pairs, tmp_path, monkeypatch):
    original = Learner.update

    def drift(self, number, batches):
        step = original(self, number, batches)
        if self.ranks.rank == 1 and number == 2:
            next(self.model.parameters()).data.flatten()[0] += 1e-3
        return step

    monkeypatch.setattr(Learner, "update", drift)
    leader, follower = train(request_for(pairs, tmp_path / "run", "lstm"), 2)
    assert str(leader).startswith(
        "rank 1 (host1): its weights differ from those of rank 0, although both made the same updates. Expected equal"
    )
    assert follower.code == 2
    assert 6 in Checkpoints(tmp_path / "run" / "checkpoints", 3).updates()


def test_a_complete_run_lets_all_processes_go(pairs, tmp_path):
    request = request_for(pairs, tmp_path / "run", "lstm")
    first = train(request, 2)[0]
    again = train(replace(request, resume=True), 2)
    assert again[0].metrics == first.metrics
    assert again[1] is None
