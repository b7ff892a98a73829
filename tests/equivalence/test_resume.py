"""A run that was stopped or killed and went on ends with the very bytes of one that was left alone."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from freerun.errors import Interrupted
from freerun.runs import train as runs
from freerun.runs.request import TrainRequest
from freerun.training.journal import read_journal
from tests.killed import differences, journal, leftovers

COMMON = (
    'data.source_tokens="char"',
    'data.target_tokens="char"',
    "data.held_out=0.2",
    "model.embedding_size=5",
    "model.hidden_size=6",
    "model.dropout=0.3",
    "training.threads=1",
    "training.keep=3",
    "training.journal_every=5",
    "training.checkpoint_every=4",
    "training.label_smoothing=0.1",
    "evaluation.every=6",
    "evaluation.max_sources=6",
)
# Between them: both ways to bound a batch, accumulation over the end of an epoch, averaging, patience, all optimisers.
PHASES = (
    '{strategy="teacher", until=5}',
    '{strategy="professor", until=11, hidden_size=5, warmup=0, model_gate=0.0, r1=0.5}',
    '{strategy="free_running", draw="argmax", until=14}',
    '{strategy="optimal_completion", teacher_prob=0.3}',
)
RUNS = {
    "gru with attention": (
        'model.cell="gru"',
        "model.bidirectional=true",
        'model.attention="luong"',
        "model.num_layers=2",
        "model.embedding_dropout=0.2",
        "training.updates=18",
        "training.batch_size=8",
        "training.accumulate=3",
        "training.average=3",
        "training.learning_rate=0.02",
        'training.schedule={kind="cosine", warmup=4}',
    ),
    "lstm": (
        "model.num_layers=2",
        "training.updates=20",
        "training.batch_tokens=60",
        'training.optimizer="adamw"',
        "training.weight_decay=0.1",
        "training.learning_rate=0.02",
        "evaluation.beam_size=2",
    ),
    "no progress": (
        "model.num_layers=1",
        "training.updates=60",
        "training.learning_rate=1e-30",  # no evaluation finds anything new, so that patience ends it after the third
        "evaluation.patience=2",
    ),
    "rnn": (
        'model.cell="rnn"',
        "model.num_layers=1",
        "model.tied_output=true",
        'model.context="every_step"',
        "training.epochs=2.5",
        "training.batch_size=8",
        'training.optimizer="sgd"',
        'training.schedule={kind="halving", start_epoch=0.5}',
        'training.normalise="sequences"',
    ),
    "scheduled sampling": (
        "model.num_layers=1",
        'forcing={strategy="scheduled_sampling", schedule={kind="linear", c=0.3, unit="epochs"}, passes=2}',
        "training.updates=18",
        "training.batch_size=8",
    ),
    "professor": (
        "model.num_layers=2",
        'forcing={strategy="professor", hidden_size=5, warmup=4, model_gate=0.4, teacher_too=true, spectral_norm=true}',
        "training.updates=18",
        "training.batch_size=8",
        "training.accumulate=2",
    ),
    "phases": (
        'model.cell="gru"',
        "model.num_layers=1",
        f"forcing.phases=[{', '.join(PHASES)}]",
        "training.updates=18",
        "training.batch_size=8",
    ),
}
STRATEGIES = ("scheduled sampling", "professor", "phases")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Sixty strings to be copied."""
    words = random.Random(0)
    path = tmp_path_factory.mktemp("data") / "pairs.tsv"
    texts = {"".join(words.choices("abcd", k=words.randint(1, 6))) for _ in range(70)}
    path.write_text("".join(f"{text}\t{text}\n" for text in sorted(texts)))
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(runs, "tensorboard_is_installed", lambda: False)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def train(pairs, folder, name, resume=False):
    """Through a configuration file, so that nothing is chosen from the speed of this machine."""
    config = pairs.with_suffix(".toml")
    config.write_text(f'[data]\ntrain = "{pairs.name}"\n')
    settings = (*COMMON, *RUNS[name])
    return runs.train(TrainRequest(subject=config, out=folder, settings=settings, resume=resume))


@pytest.fixture(scope="module")
def undisturbed(pairs, tmp_path_factory):
    """The folder of the run that was left alone, made when first asked for."""
    made = {}

    def folder(name):
        if name not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(runs, "tensorboard_is_installed", lambda: False)
                made[name] = tmp_path_factory.mktemp("whole") / "run"
                train(pairs, made[name], name)
        return made[name]

    return folder


def ask_to_stop(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def stop_after(patch, update):
    """A signal while this update is made."""
    ticked = runs.ConsoleReporter.ticked

    def told(self, done):
        if done == update:
            ask_to_stop()
        ticked(self, done)

    patch.setattr(runs.ConsoleReporter, "ticked", told)


def stop_in_evaluation(patch, number):
    """A signal in the middle of the evaluation of this number."""
    evaluate, calls = runs.evaluate, []

    def told(*arguments, progress, **options):
        calls.append("evaluation")

        def tell(done, total):
            if len(calls) == number and done > total // 2:
                ask_to_stop(signal.SIGTERM)
            progress(done, total)

        return evaluate(*arguments, progress=tell, **options)

    patch.setattr(runs, "evaluate", told)


def assert_same(folder, whole):
    assert journal(folder) == journal(whole)
    assert differences(folder, whole) == []
    assert leftovers(folder) == []


def interrupted(pairs, folder, name, arrange, when):
    """Train until the signal that ``arrange`` sends; returns its number."""
    with pytest.MonkeyPatch.context() as patch:
        arrange(patch, when)
        with pytest.raises(Interrupted) as error:
            train(pairs, folder, name, resume=True)
    return error.value.signal


@pytest.mark.parametrize(
    ("name", "update"),
    [("gru with attention", 7), ("lstm", 9), ("no progress", 14), *((name, 8) for name in STRATEGIES)],
)
def test_a_run_that_was_stopped_between_updates(pairs, undisturbed, tmp_path, name, update):
    assert interrupted(pairs, tmp_path / "run", name, stop_after, update) == signal.SIGINT
    train(pairs, tmp_path / "run", name, resume=True)
    assert_same(tmp_path / "run", undisturbed(name))


@pytest.mark.parametrize(("name", "evaluation"), [("gru with attention", 4), ("lstm", 2), ("lstm", 5)])
def test_a_run_that_was_stopped_during_an_evaluation(pairs, undisturbed, tmp_path, name, evaluation):
    """The fourth evaluation of the one is that of the average, the fifth of the other the last, on all pairs."""
    assert interrupted(pairs, tmp_path / "run", name, stop_in_evaluation, evaluation) == signal.SIGTERM
    train(pairs, tmp_path / "run", name, resume=True)
    assert_same(tmp_path / "run", undisturbed(name))


def test_the_runs_are_what_they_are_meant_to_be(undisturbed):
    ends = {name: read_journal(undisturbed(name) / "journal.jsonl")[-1] for name in RUNS}
    assert {name: (end["update"], end["reason"]) for name, end in ends.items()} == {
        "gru with attention": (18, "complete"),
        "lstm": (20, "complete"),
        "no progress": (18, "patience"),
        "rnn": (15, "complete"),
        **dict.fromkeys(STRATEGIES, (18, "complete")),
    }
    events = read_journal(undisturbed("gru with attention") / "journal.jsonl")
    assert [event["averaged"] for event in events if "averaged" in event] == [[12, 16, 18]]
    events = read_journal(undisturbed("phases") / "journal.jsonl")
    phases = [(event["update"], event["strategy"]) for event in events if event["event"] == "phase"]
    assert phases == [(5, "phase 2, professor"), (11, "phase 3, free_running"), (14, "phase 4, optimal_completion")]
    professor = [e for e in read_journal(undisturbed("professor") / "journal.jsonl") if e["event"] == "update"]
    assert all("gradient_cosine" in event for event in professor[1:])


def test_a_run_that_was_stopped_again_and_again(pairs, undisturbed, tmp_path):
    for update in (2, 3, 7):
        interrupted(pairs, tmp_path / "run", "rnn", stop_after, update)
    train(pairs, tmp_path / "run", "rnn", resume=True)
    assert_same(tmp_path / "run", undisturbed("rnn"))


def test_an_old_checkpoint_is_as_good_as_a_new_one(pairs, undisturbed, tmp_path):
    """What a SIGKILL may leave: bundles and events of later updates, of which the checkpoint knows nothing."""
    name = "gru with attention"
    shutil.copytree(undisturbed(name), tmp_path / "run")
    for path in sorted((tmp_path / "run" / "checkpoints").iterdir())[1:]:
        path.rename(tmp_path / path.name)
    path = tmp_path / "run" / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20])  # in the middle of the last event, which says that the run is complete
    train(pairs, tmp_path / "run", name, resume=True)
    assert_same(tmp_path / "run", undisturbed(name))


def killed(pairs, folder, settings, kills, seed, longest):
    """Train in a process of its own that is killed and started again; returns from where it went on each time."""
    config = pairs.with_suffix(".toml")
    config.write_text(f'[data]\ntrain = "{pairs.name}"\n')
    arguments = [config, folder, seed, kills, longest, *COMMON, *settings]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", *map(str, arguments)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [int(line.split()[3]) for line in done.stdout.splitlines() if line.startswith("killed at")]


def test_a_run_that_was_killed(pairs, undisturbed, tmp_path):
    name = "gru with attention"
    reached = killed(pairs, tmp_path / "run", RUNS[name], kills=2, seed=0, longest=0.1)
    assert reached
    assert all(update > 0 for update in reached)
    assert_same(tmp_path / "run", undisturbed(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_killed_ten_times(pairs, tmp_path, name):
    longer = {
        "gru with attention": ("training.updates=150",),
        "lstm": ("training.updates=400",),
        "no progress": ("training.updates=400", "evaluation.patience=12"),
        "rnn": ("training.epochs=240",),
        **dict.fromkeys(STRATEGIES, ("training.updates=400",)),
    }
    settings = (*RUNS[name], *longer[name], "evaluation.every=30")
    assert killed(pairs, tmp_path / "whole", settings, kills=0, seed=0, longest=0) == []
    reached = killed(pairs, tmp_path / "run", settings, kills=10, seed=1, longest=0.3)
    assert len(reached) == 10
    assert all(update > 0 for update in reached)
    assert_same(tmp_path / "run", tmp_path / "whole")
