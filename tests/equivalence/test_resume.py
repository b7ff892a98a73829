"""A run that was stopped or killed and went on ends with the very bytes of one that was left alone."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from freerun.commands import train as command
from freerun.commands.train_progress import ConsoleProgress
from freerun.errors import Interrupted, RunError
from freerun.experiment import run as runs
from freerun.experiment import run_hooks
from freerun.experiment.request import TrainRequest
from freerun.files import bytes_hash
from freerun.training.checkpoint import Checkpoints, serialised
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
COLUMNS = "data.columns=[1,2,3]"
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
        'forcing={strategy="professor", hidden_size=5, warmup=4, model_gate=0.4, spectral_norm=true}',
        "forcing.include_teacher_term=true",
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
    "features": (
        COLUMNS,
        "model.num_layers=1",
        "model.embedding_dropout=0.3",
        'forcing={strategy="minimum_risk", samples=3}',
        "training.updates=18",
        "training.batch_size=8",
    ),
    "features in the memory": (
        COLUMNS,
        'model.cell="gru"',
        'model.feature_encoder="sequence"',
        'model.attention="luong"',
        "model.num_layers=1",
        "model.embedding_dropout=0.3",
        f"forcing.phases=[{', '.join(PHASES)}]",
        "training.updates=18",
        "training.batch_size=8",
        "training.accumulate=2",
    ),
}
STRATEGIES = ("scheduled sampling", "professor", "phases", "features", "features in the memory")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Sixty strings to be copied; and, in another file, with features that say which are reversed."""
    words = random.Random(0)
    path = tmp_path_factory.mktemp("data") / "pairs.tsv"
    texts = {"".join(words.choices("abcd", k=words.randint(1, 6))) for _ in range(70)}
    path.write_text("".join(f"{text}\t{text}\n" for text in sorted(texts)))
    both = [f"{text}\t{text}\t{'' if text < 'b' else 'W'}\n{text}\t{text[::-1]}\tR;W\n" for text in sorted(texts)]
    path.with_name("features.tsv").write_text("".join(both))
    return path


def configuration(pairs, settings):
    """A file that names the pairs, those with features if the settings name their column."""
    pairs = pairs.with_name("features.tsv") if COLUMNS in settings else pairs
    config = pairs.with_suffix(".toml")
    config.write_text(f'[data]\ntrain = "{pairs.name}"\n')
    return config


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(runs, "tensorboard_is_installed", lambda: False)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def train(pairs, folder, name, resume=False):
    """Through a configuration file, so that nothing is chosen from the speed of this machine."""
    config, settings = configuration(pairs, RUNS[name]), (*COMMON, *RUNS[name])
    return command.train(TrainRequest(source=config, out=folder, settings=settings, resume=resume))


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
    on_update = ConsoleProgress.on_update

    def with_signal(self, done, metrics):
        if done == update:
            ask_to_stop()
        on_update(self, done, metrics)

    patch.setattr(ConsoleProgress, "on_update", with_signal)


def stop_in_evaluation(patch, number):
    """A signal in the middle of the evaluation of this number."""
    outcome_of, calls = run_hooks.outcome_of, []

    def told(*arguments, progress, **options):
        calls.append("evaluation")

        def tell(done, total):
            if len(calls) == number and done > total // 2:
                ask_to_stop(signal.SIGTERM)
            progress(done, total)

        return outcome_of(*arguments, progress=tell, **options)

    patch.setattr(run_hooks, "outcome_of", told)


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
    config = configuration(pairs, settings)
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


@pytest.mark.slow
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


# ------------------------------------------------------------------------------------------------------- longer runs

LONGER = {
    # name: the shorter run, the longer one, settings of both
    "between evaluations": (9, 20, ()),
    "at an evaluation": (12, 20, ()),
    "at a checkpoint": (8, 20, ()),
    "before the first checkpoint": (3, 20, ()),
    "an average that is taken at the end": (12, 20, ("training.average=3", "training.learning_rate=0.05")),
    "an average between evaluations": (10, 21, ("training.average=2", "training.keep=2")),
    "few checkpoints": (9, 20, ("training.keep=1",)),
    "evaluated only at the end": (9, 14, ("evaluation.every=0",)),
    "checkpoints only at evaluations": (9, 20, ("training.checkpoint_every=0",)),
    "patience at the end": (12, 30, ("evaluation.patience=1", "training.learning_rate=1e-30")),
    "patience between evaluations": (9, 30, ("evaluation.patience=1", "training.learning_rate=1e-30")),
    "patience before the end": (
        29,
        60,
        ("evaluation.patience=2", "training.learning_rate=1e-30", "training.average=2"),
    ),
    "by one update": (9, 10, ()),
    "inverse square root": (9, 20, ('training.schedule={kind="inverse_sqrt", warmup=5}',)),
}
CONSTANT = ("model.num_layers=1", "training.batch_size=8", "training.learning_rate=0.02")


def lengthened(pairs, folder, settings, *lengths, key="training.updates"):
    """Train to each of the lengths in turn, in one directory."""
    config = configuration(pairs, settings)
    for length in lengths:
        given = (*COMMON, *CONSTANT, *settings, f"{key}={length}")
        command.train(TrainRequest(source=config, out=folder, settings=given, resume=True))


def assert_as_if_longer_from_the_start(folder, whole):
    """All files; the journal except the length in its first event, and resume events."""
    assert [name for name in differences(folder, whole) if name != "journal.jsonl"] == []
    found, expected = ([json.loads(line) for line in journal(each)] for each in (folder, whole))
    assert found[1:] == expected[1:]
    for start in (found[0], expected[0]):
        del start["updates"]
        for key in ("updates", "epochs"):
            start["config"]["training"].pop(key, None)
    assert found[0] == expected[0]
    assert leftovers(folder) == []


@pytest.mark.parametrize("name", LONGER)
def test_a_complete_run_that_is_made_longer(pairs, tmp_path, name):
    shorter, longer, settings = LONGER[name]
    lengthened(pairs, tmp_path / "whole", settings, longer)
    lengthened(pairs, tmp_path / "run", settings, shorter, longer)
    assert_as_if_longer_from_the_start(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("lengths", [(3, 9, 20), (9, 10, 11, 20), (6, 12, 20)])
def test_a_run_that_is_made_longer_again_and_again(pairs, tmp_path, lengths):
    settings = LONGER["an average that is taken at the end"][2]
    lengthened(pairs, tmp_path / "whole", settings, lengths[-1])
    lengthened(pairs, tmp_path / "run", settings, *lengths)
    assert_as_if_longer_from_the_start(tmp_path / "run", tmp_path / "whole")
    events = [event for event in read_journal(tmp_path / "run" / "journal.jsonl") if event["event"] == "resume"]
    assert [(event["update"], event["changed"]) for event in events] == [
        (before, {"training.updates": [before, after]}) for before, after in itertools.pairwise(lengths)
    ]


def test_a_run_in_epochs_is_made_longer(pairs, tmp_path):
    settings = ('training.optimizer="sgd"', 'training.schedule={kind="halving", start_epoch=0.5}')
    lengthened(pairs, tmp_path / "whole", settings, 3.7, key="training.epochs")
    lengthened(pairs, tmp_path / "run", settings, 1.3, 3.7, key="training.epochs")
    assert_as_if_longer_from_the_start(tmp_path / "run", tmp_path / "whole")
    (event,) = [event for event in read_journal(tmp_path / "run" / "journal.jsonl") if event["event"] == "resume"]
    assert event["changed"] == {"training.epochs": [1.3, 3.7]}


def longer_while_stopped(pairs, folder, settings, arrange, when, first, *lengths):
    """Stop the first of several lengths by a signal, then train to the others."""
    with pytest.MonkeyPatch.context() as patch:
        arrange(patch, when)
        with pytest.raises(Interrupted):
            lengthened(pairs, folder, settings, first)
    lengthened(pairs, folder, settings, *lengths)


@pytest.mark.parametrize(
    ("arrange", "when"),
    [
        (stop_after, 3),
        (stop_after, 7),
        (stop_after, 9),  # the end of the shorter run: before its evaluation
        (stop_in_evaluation, 2),  # the one that the longer run does not have
        (stop_in_evaluation, 3),  # the average, when best/ is that of update 9 already
        (stop_in_evaluation, 4),  # the last one, on all pairs
    ],
)
def test_a_run_that_was_stopped_is_made_longer(pairs, tmp_path, arrange, when):
    settings = ("training.average=2", "training.keep=2", "training.learning_rate=0.05")
    lengthened(pairs, tmp_path / "whole", settings, 20)
    longer_while_stopped(pairs, tmp_path / "run", settings, arrange, when, 9, 20)
    assert_as_if_longer_from_the_start(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("when", [10, 13])
def test_a_longer_run_is_stopped_and_resumed(pairs, tmp_path, when):
    """Before its first checkpoint, so that the length is recorded again, and after it."""
    lengthened(pairs, tmp_path / "whole", (), 20)
    lengthened(pairs, tmp_path / "run", (), 9)
    longer_while_stopped(pairs, tmp_path / "run", (), stop_after, when, 20)
    command.train(TrainRequest(out=tmp_path / "run", resume=True))
    assert_as_if_longer_from_the_start(tmp_path / "run", tmp_path / "whole")


class Killed(BaseException):
    """Ends a process at once, as far as the files of its run are concerned."""


@pytest.mark.parametrize("step", range(12))
@pytest.mark.parametrize("again", [True, False])
def test_a_run_that_is_killed_while_it_is_made_longer(pairs, tmp_path, monkeypatch, step, again):
    """Before each of the renames that make it longer, whether the length is given again or not."""
    settings = LONGER["an average that is taken at the end"][2]
    lengthened(pairs, tmp_path / "whole", settings, 20)
    lengthened(pairs, tmp_path / "run", settings, 9)
    done, replace = [], os.replace

    def replace_or_die(*paths):
        if len(done) == step:
            raise Killed
        done.append(paths)
        return replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
        with pytest.raises(Killed):
            lengthened(pairs, tmp_path / "run", settings, 20)
    recorded = read_journal(tmp_path / "run" / "journal.jsonl")[-1].get("event") == "stop"
    if again or recorded:  # nothing has happened yet: the run is complete as it was
        lengthened(pairs, tmp_path / "run", settings, 20)
    else:
        command.train(TrainRequest(out=tmp_path / "run", resume=True))
    assert_as_if_longer_from_the_start(tmp_path / "run", tmp_path / "whole")


def test_a_run_that_was_killed_while_it_was_made_longer_may_stay_as_it_was(pairs, tmp_path, monkeypatch):
    """best/ is restored before the journal says so; a resumed run of the old length concludes again."""
    settings = LONGER["an average that is taken at the end"][2]
    lengthened(pairs, tmp_path / "whole", settings, 9)
    lengthened(pairs, tmp_path / "run", settings, 9)
    with monkeypatch.context() as patch:
        patch.setattr("freerun.training.journal.write_atomic", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            lengthened(pairs, tmp_path / "run", settings, 20)
    assert differences(tmp_path / "run", tmp_path / "whole") != []
    lengthened(pairs, tmp_path / "run", settings, 9)
    assert differences(tmp_path / "run", tmp_path / "whole") == []


def test_a_cosine_schedule_continues_with_the_new_length_and_says_so(pairs, tmp_path, capsys):
    settings = ('training.schedule={kind="cosine"}', "training.journal_every=1", "training.learning_rate=0.5")
    lengthened(pairs, tmp_path / "run", settings, 10)
    lengthened(pairs, tmp_path / "run", settings, 20)
    told = capsys.readouterr().err
    assert "This run is longer now: training.updates was 10, now 20.\n" in told
    assert "From here on, the learning rate follows the cosine schedule of the new length, so the result " in told
    rates = {
        event["update"]: event["learning_rate"]
        for event in read_journal(tmp_path / "run" / "journal.jsonl")
        if event["event"] == "update"
    }
    expected = {n: 0.25 * (1 + math.cos(math.pi * n / (10 if n <= 10 else 20))) for n in range(1, 21)}
    assert rates == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("schedule", ['{kind="constant"}', '{kind="inverse_sqrt"}', '{kind="halving"}'])
def test_other_schedules_do_not_depend_on_the_length(pairs, tmp_path, capsys, schedule):
    lengthened(pairs, tmp_path / "run", (f"training.schedule={schedule}",), 4, 5)
    told = capsys.readouterr().err
    assert "This run is longer now: training.updates was 4, now 5.\n" in told
    assert "Resuming from update 4." in told
    assert "learning rate" not in told


def test_a_run_without_improvement_ends_where_it_did(pairs, tmp_path, capsys):
    settings = LONGER["patience before the end"][2]
    lengthened(pairs, tmp_path / "run", settings, 29, 60)
    assert (
        "The last 2 evaluations found no better model (evaluation.patience), so the run ends at this update whatever "
        "its length.\n"
    ) in capsys.readouterr().err
    assert read_journal(tmp_path / "run" / "journal.jsonl")[-1]["update"] == 18


def test_the_end_of_a_run_keeps_what_a_longer_one_needs(pairs, tmp_path):
    """The checkpoint is from before the last evaluation, with the best model, which that evaluation may replace."""
    lengthened(pairs, tmp_path / "run", ("training.learning_rate=0.05",), 9)
    events = read_journal(tmp_path / "run" / "journal.jsonl")
    evaluations = [(event["update"], event["best"]) for event in events if event["event"] == "evaluation"]
    assert evaluations[:2] == [(6, True), (9, True)], "otherwise this tests nothing"
    assert [event["update"] for event in events if event["event"] == "checkpoint"] == [4, 6, 8, 9]
    checkpoint = Checkpoints(tmp_path / "run" / "checkpoints", 3).load(9)
    assert (checkpoint.state["evaluated"], checkpoint.state["best_update"], checkpoint.state["scheduled"]) == (
        6,
        6,
        False,
    )
    assert bytes_hash(serialised(checkpoint.best)) == checkpoint.state["best_sha256"]
    best = (tmp_path / "run" / "best" / "model.safetensors").read_bytes()
    assert bytes_hash(best) != checkpoint.state["best_sha256"]


def test_a_complete_run_without_checkpoints_cannot_be_made_longer(pairs, tmp_path):
    lengthened(pairs, tmp_path / "run", (), 9)
    before = journal(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(RunError, match=r"checkpoints: no checkpoint is left to continue this run from\. Expected"):
        lengthened(pairs, tmp_path / "run", (), 20)
    assert journal(tmp_path / "run") == before
    lengthened(pairs, tmp_path / "run", (), 9)  # it is complete as it is


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again_with_the_new_length(pairs, tmp_path):
    lengthened(pairs, tmp_path / "whole", (), 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.Trainer, "run", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            lengthened(pairs, tmp_path / "run", (), 9)
    lengthened(pairs, tmp_path / "run", (), 20)
    assert_as_if_longer_from_the_start(tmp_path / "run", tmp_path / "whole")
    assert read_journal(tmp_path / "run" / "journal.jsonl")[0]["updates"] == 20


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_checkpoint_of_an_earlier_version_is_left_out(pairs, tmp_path, keep):
    """It is from after an evaluation that a longer run does not have."""
    settings = (f"training.keep={keep}",)
    lengthened(pairs, tmp_path / "whole", settings, 20)
    with pytest.MonkeyPatch.context() as patch:

        def evaluate_at_the_end(self, stop):
            self._evaluate(stop)
            self.save_checkpoint()

        patch.setattr(runs.Trainer, "_evaluate_at_the_end", evaluate_at_the_end)
        lengthened(pairs, tmp_path / "run", settings, 9)
    if keep == 1:
        with pytest.raises(RunError, match=r"update 9: saved at the end of a shorter run, after an evaluation that"):
            lengthened(pairs, tmp_path / "run", settings, 20)
        return
    lengthened(pairs, tmp_path / "run", settings, 20)
    assert_as_if_longer_from_the_start(tmp_path / "run", tmp_path / "whole")
