"""Signals to a training and to a study, in processes of their own: checkpoints on request, hang-ups, nohup."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from freerun.cli import main
from freerun.training.checkpoint import Checkpoints
from freerun.training.journal import read_journal
from tests.killed import differences

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "freerun"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def text_of_config(pairs, updates):
    config = pairs / "config.toml"
    text = config.read_text().replace("updates = 60", f"updates = {updates}")
    config.write_text(text.replace("checkpoint_every = 20", "checkpoint_every = 0").replace("every = 30", "every = 0"))
    return config


def begun(run, process, update=1):
    """Wait until some updates are made."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        events = read_journal(run / "journal.jsonl")
        if any(event["event"] == "update" and event["update"] >= update for event in events):
            return
        time.sleep(0.02)
    raise AssertionError(f"it ended with {process.poll()}")


def wait_for(condition, process):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)


@pytest.fixture
def training(pairs):
    """A training in a process of its own: returns the process and the run directory; killed in the end."""
    started = []

    def start(*prefix, updates=100_000, **options):
        config = text_of_config(pairs, updates)
        arguments = ["train", config, "--out", pairs / "run", "--set", "training.journal_every=5"]
        command = [*prefix, *COMMAND, *map(str, arguments)]
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, **options}
        started.append(subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True, **options))
        return started[-1], pairs / "run"

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_sigusr1_writes_a_checkpoint_and_training_continues(training):
    process, run = training()
    begun(run, process)
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: len(Checkpoints(run / "checkpoints", 3).updates()) == 1, process)
    first = Checkpoints(run / "checkpoints", 3).updates()
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: len(now := Checkpoints(run / "checkpoints", 3).updates()) == 1 and now != first, process)
    (update,) = Checkpoints(run / "checkpoints", 3).updates()
    begun(run, process, update + 1)
    state = Checkpoints(run / "checkpoints", 3).load(update).state
    assert (state["update"], state["scheduled"]) == (update, False)
    assert not [event for event in read_journal(run / "journal.jsonl") if event["event"] in ("checkpoint", "stop")]
    process.kill()  # and what was written is what a killed run resumes from
    told = process.stderr.read()
    assert f"\nSaved the checkpoint of update {update:,}, as requested by SIGUSR1; training continues.\n" in told
    assert told.count("as requested by SIGUSR1") == 2


@pytest.mark.slow
def test_requested_checkpoints_do_not_change_a_run(training, pairs):
    process, run = training(updates=400)
    begun(run, process)
    while read_journal(run / "journal.jsonl")[-1]["update"] < 400:
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.05)
    assert "as requested by SIGUSR1" in process.communicate(timeout=60)[1]
    assert process.returncode == 0
    arguments = ["train", pairs / "config.toml", "--out", pairs / "whole", "--set", "training.journal_every=5"]
    assert main([*map(str, arguments)]) == 0
    assert differences(run, pairs / "whole") == []


def test_sigusr1_while_the_data_are_read_is_remembered(pairs):
    script = (
        "import os, signal, sys\n"
        "from freerun.experiment import prepare\n"
        "load = prepare.load_data\n"
        "def loads(*given):\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    return load(*given)\n"
        "prepare.load_data = loads\n"
        "from freerun.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    config = text_of_config(pairs, 3)
    arguments = [sys.executable, "-c", script, "train", str(config), "--out", str(pairs / "run")]
    done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Saved the checkpoint of update 1, as requested by SIGUSR1; training continues.\n" in done.stderr


def test_sighup_stops_as_sigterm_does_with_129(training):
    process, run = training()
    begun(run, process)
    process.send_signal(signal.SIGHUP)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 129
    assert "checkpoint saved." in told
    last = read_journal(run / "journal.jsonl")[-1]
    assert (last["event"], last["reason"], last["signal"]) == ("stop", "signal", signal.SIGHUP)
    assert Checkpoints(run / "checkpoints", 3).updates() == [last["update"]]


@pytest.mark.slow
def test_nohup_keeps_working(training):
    process, run = training("nohup")
    begun(run, process)
    process.send_signal(signal.SIGHUP)
    begun(run, process, read_journal(run / "journal.jsonl")[-1]["update"] + 10)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


@pytest.mark.slow
def test_a_terminal_that_is_closed_leaves_a_checkpoint(pairs):
    """Nothing can be written to it any more, and the signal comes from the system."""
    config = text_of_config(pairs, 100_000)
    child, terminal = pty.fork()
    if not child:
        os.environ.update(ENVIRONMENT)
        arguments = ["train", str(config), "--out", str(pairs / "run"), "--set", "training.journal_every=5"]
        os.execv(sys.executable, [*COMMAND, *arguments])
    end = time.monotonic() + 60
    journal = pairs / "run" / "journal.jsonl"
    while not [event for event in read_journal(journal) if event["event"] == "update"]:
        assert time.monotonic() < end
        os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 129
    last = read_journal(journal)[-1]
    assert (last["event"], last["signal"]) == ("stop", signal.SIGHUP)
    assert Checkpoints(pairs / "run" / "checkpoints", 3).updates() == [last["update"]]


def test_other_commands_die_of_a_hang_up_as_usual():
    code = (
        "import os, signal, sys\n"
        "from freerun.commands import data\n"
        "data.list_datasets = lambda: os.kill(os.getpid(), signal.SIGHUP)\n"
        "from freerun.cli import main\n"
        "sys.exit(main(['data', 'list']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGHUP


STUDY = """
base = "config.toml"
control = "teacher"
seeds = [1]
processes = 2
[strategies]
teacher = { strategy = "teacher" }
free = { strategy = "free_running" }
"""


@pytest.mark.slow
def test_a_study_passes_both_on_to_its_trainings(pairs):
    text_of_config(pairs, 100_000)
    (pairs / "study.toml").write_text(STUDY)
    out, runs = pairs / "study", [pairs / "study" / "runs" / name for name in ("teacher-1", "free-1")]
    arguments = [*COMMAND, "study", str(pairs / "study.toml"), "--out", str(out)]
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for run in runs:
            begun(run, process)
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: all(Checkpoints(run / "checkpoints", 3).updates() for run in runs), process)
        process.send_signal(signal.SIGHUP)
        told = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 129
    assert "Received SIGUSR1: requested a checkpoint from 2 trainings.\n" in told
    for run in runs:
        last = read_journal(run / "journal.jsonl")[-1]
        assert (last["event"], last["signal"]) == ("stop", signal.SIGTERM)
        log = (out / "logs" / f"{run.name}.log").read_text()
        assert log.count("as requested by SIGUSR1; training continues.") == 1


def test_a_training_that_is_still_starting_gets_no_sigusr1(monkeypatch):
    """It would end it."""
    from freerun.studies import runner

    class Process:
        def __init__(self):
            self.asked = 0

        def request_checkpoint(self):
            self.asked += 1

    class Run:
        def __init__(self, name):
            self.directory = Path(name)

    monkeypatch.setattr(runner, "holder", lambda file: "process 7" if file.parent.name == "begun" else None)
    running = {name: (Run(name), Process()) for name in ("begun", "starting")}
    runner._request_checkpoints(running.values())
    assert {name: process.asked for name, (_, process) in running.items()} == {"begun": 1, "starting": 0}
