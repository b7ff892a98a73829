"""Trainings in several processes of their own: started by freerun, by torchrun, or by hand; stopped, and killed."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from freerun.cli import main
from freerun.distributed import rendezvous
from freerun.distributed.launcher import _deaths, _signals_to_handle
from freerun.errors import RankError
from freerun.training.checkpoint import Checkpoints
from freerun.training.journal import read_journal
from tests.cli.conftest import write_pairs
from tests.killed import differences

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "freerun"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
LIMIT = 120


@pytest.fixture
def pairs(tmp_path):
    write_pairs(tmp_path)
    return tmp_path


def arguments(pairs, out="run", *more):
    return ["train", str(pairs / "config.toml"), "--out", str(pairs / out), *more]


def start(pairs, *more, out="run", **environment):
    """A training in processes of its own."""
    return subprocess.Popen(
        [*COMMAND, *arguments(pairs, out, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**ENVIRONMENT, **environment},
    )


def children(process):
    """The ids of a process's children that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == process and state != "Z":
                found.append(int(path.parent.name))
    return sorted(found)


def rank_of(process):
    """The rank of a process that the launcher has started."""
    variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return int(next(each for each in variables if each.startswith(b"RANK=")).removeprefix(b"RANK="))


def ranks_of(launcher):
    """The processes of a training, by rank."""
    ranks = {}
    for child in children(launcher.pid):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            ranks[rank_of(child)] = child
    return ranks


def wait_for_update(run, update, launcher):
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and launcher.poll() is None:
        events = read_journal(run / "journal.jsonl")
        if any(event["event"] == "update" and event["update"] >= update for event in events):
            return
        time.sleep(0.02)
    raise AssertionError(f"it ended with {launcher.poll()}: {launcher.communicate()[0]}")


def orphans(run):
    """The command lines of processes that still train into a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(run) in line and "-m freerun" in line and int(path.parent.name) != os.getpid():
                found.append(line)
    return found


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["0", "-1", "257", "1.5", "many", "9" * 30, "\u0663"])
def test_a_number_of_processes_that_makes_no_sense(pairs, freerun, number):
    result = freerun(*arguments(pairs), "--processes", number)
    assert result.code == 2
    assert result.err == (
        f'error: --processes: the value is {number}. Expected "auto", or a number from 1 to 256. '
        "Choose another number.\n"
    )
    assert not (pairs / "run").exists()


def test_restarts_are_for_processes(pairs, freerun):
    result = freerun(*arguments(pairs), "--max-restarts", "1")
    assert result.code == 2
    assert "--max-restarts without --processes" in result.err


def test_more_processes_than_pairs_in_a_batch(pairs, freerun):
    result = freerun(*arguments(pairs), "--processes", "20", "--set", "training.batch_size=16")
    assert result.code == 2
    assert result.err == (
        "error: --processes: the value is 20, and a batch has 16 pairs. "
        "Expected at most as many processes as pairs in a batch. "
        "Choose a smaller number, or raise training.batch_size.\n"
    )


def test_another_run_is_seen_before_processes_start(pairs, freerun):
    (pairs / "run").mkdir()
    (pairs / "run" / "config.toml").write_text("")
    result = freerun(*arguments(pairs), "--processes", "2")
    assert result.code == 2
    assert "this directory holds another run" in result.err
    assert "Starting" not in result.err


def test_a_pipe_in_a_configuration_is_one_too(pairs, freerun):
    os.mkfifo(pairs / "pipe.tsv")
    result = freerun(*arguments(pairs), "--processes", "2", "--set", f"data.dev={pairs / 'pipe.tsv'}")
    assert result.code == 2
    assert "is a pipe, which only one process can read" in result.err


def test_a_pipe_can_be_read_by_one_process_only(pairs, freerun):
    os.mkfifo(pairs / "pipe.tsv")
    result = freerun("train", pairs / "pipe.tsv", "--out", pairs / "run", "--processes", "2")
    assert result.code == 2
    assert result.err == (
        f"error: --processes: {pairs / 'pipe.tsv'} is a pipe, which only one process can read. "
        "Expected files. Write the pairs to a file first, or train with one process.\n"
    )


@pytest.fixture
def place(monkeypatch):
    """Set the variables of one of two processes, as torchrun or a person does."""

    def become(rank, port, size=2):
        for name, value in {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, str(value))

    return become


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as made:
        return made.getsockname()[1]


def test_a_port_in_use(pairs, freerun, place, listener):
    port = listener.getsockname()[1]
    place(0, port)
    result = freerun(*arguments(pairs), "--timeout", "5")
    assert result.code == 2
    assert result.err == (
        f"error: MASTER_PORT: port {port} is in use on this machine. "
        "Expected a free port, on which the processes meet. Choose another port, the same in all processes.\n"
    )


def test_rank_0_waits_for_the_others_only_so_long(pairs, freerun, place):
    port = free_port()
    place(0, port)
    result = freerun(*arguments(pairs), "--timeout", "1")
    assert result.code == 2
    assert (
        f"error: 127.0.0.1:{port}: not all of the 2 processes have joined within 1 s. Expected WORLD_SIZE "
        "processes, with the ranks 0 to WORLD_SIZE - 1. Start them all, or raise --timeout.\n"
    ) in result.err


def test_a_rank_that_cannot_reach_rank_0_says_so_in_time(pairs, freerun, place):
    port = free_port()
    place(1, port)
    began = time.monotonic()
    result = freerun(*arguments(pairs), "--timeout", "1")
    assert time.monotonic() - began < 20
    assert result.code == 2
    assert result.err == (
        f"error: rank 1: rank 0 cannot be reached at 127.0.0.1:{port} within 1 s (Connection refused). "
        "Expected rank 0 to be running there. "
        "Check MASTER_ADDR and MASTER_PORT, the firewall, and that rank 0 has started; "
        "--timeout sets how long to wait.\n"
    )


@pytest.mark.parametrize(
    ("rank", "port", "size", "message"),
    [
        ("2", "1234", "2", "RANK: the value is 2, and WORLD_SIZE is 2. Expected 0 to WORLD_SIZE - 1."),
        ("x", "1234", "2", "RANK: the value is 'x'. Expected a whole number."),
        ("0", "1234", "0", "WORLD_SIZE: the value is '0'. Expected a whole number."),
        ("0", "99999", "2", "MASTER_PORT: the value is 99999. Expected a number from 1 to 65,535."),
    ],
)
def test_variables_that_contradict_each_other(pairs, freerun, place, rank, port, size, message):
    place(rank, port, size)
    result = freerun(*arguments(pairs), "--timeout", "1")
    assert (result.code, message in result.err) == (2, True), result.err


def test_the_number_of_processes_is_torchruns_under_torchrun(pairs, freerun, place):
    place(0, free_port())
    result = freerun(*arguments(pairs), "--processes", "3")
    assert result.code == 2
    assert "--processes: the value is 3, and WORLD_SIZE says that 2 were started." in result.err


def test_versions_have_to_be_equal():
    hellos = [{"freerun": "1.0", "host": "a", "backend": "gloo"}, {"freerun": "1.1", "host": "b", "backend": "gloo"}]
    with pytest.raises(RankError, match=r"rank 1 \(b\): runs freerun 1.1, and rank 0 \(a\) runs freerun 1.0"):
        rendezvous._check_equal(hellos, 0)
    with pytest.raises(rendezvous.Ended):
        rendezvous._check_equal(hellos, 1)
    hellos[1] |= {"freerun": "1.0", "backend": "cpu:gloo,cuda:nccl"}
    with pytest.raises(RankError, match="sends gradients by cpu:gloo,cuda:nccl, and rank 0"):
        rendezvous._check_equal(hellos, 0)


def test_what_the_agent_stopped_is_not_what_died():
    assert _deaths({0: -9, 1: -15}) == "rank 0 was killed by SIGKILL"
    assert _deaths({0: -15, 1: -15}) == "rank 0 was killed by SIGTERM and rank 1 was killed by SIGTERM"
    assert _deaths({1: 3}) == "rank 1 ended with exit code 3"


def test_a_hang_up_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert _signals_to_handle() == ["SIGTERM", "SIGINT"]
    finally:
        signal.signal(signal.SIGHUP, before)


# -- real processes ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_together_and_a_mistake_is_reported_once(pairs):
    temporary = pairs / "temporary"
    temporary.mkdir()
    process = start(pairs, "--processes", "2", TMPDIR=str(temporary))
    output = process.communicate(timeout=LIMIT)[0]
    assert process.returncode == 0, output
    assert not list(temporary.glob("freerun-*"))
    assert output.count("Done: 60 updates") == 1
    assert "fp32 on 2 processes, each with 1 thread" in output
    assert output.rstrip().endswith(f"freerun train --resume --out {pairs / 'run'} --processes 2")
    assert read_journal(pairs / "run" / "journal.jsonl")[0]["processes"] == 2
    main(arguments(pairs, "one", "--set", "training.accumulate=2"))
    one, two = ((pairs / name / "config.toml").read_bytes() for name in ("one", "run"))
    assert one == two
    wrong = start(pairs, "--processes", "2", "--resume", "--set", "model.hidden_size=25")
    output = wrong.communicate(timeout=LIMIT)[0]
    assert wrong.returncode == 2, output
    assert output.count("model.hidden_size was 24, now 25") == 1
    assert not orphans(pairs / "run")


@pytest.mark.slow
def test_a_killed_rank_changes_nothing(pairs):
    """Twenty runs, and in each one a rank is killed at a random moment."""
    more = ("--processes", "2", "--set", "training.updates=400", "--set", "training.checkpoint_every=50")
    began = time.monotonic()
    whole = start(pairs, *more, out="whole")
    output = whole.communicate(timeout=LIMIT)[0]
    assert whole.returncode == 0, output
    seconds, longest, chance = time.monotonic() - began, 0.0, random.Random(1)
    for number in range(20):
        run = f"run{number}"
        process = start(pairs, *more, out=run)
        time.sleep(chance.uniform(1, seconds - 0.5))
        ranks = ranks_of(process)
        if len(ranks) < 2:
            process.communicate(timeout=LIMIT)
            continue  # it was not begun, or over
        victim = chance.choice(list(ranks))
        os.kill(ranks.pop(victim), signal.SIGKILL)
        killed = time.monotonic()
        while any(other in children(process.pid) for other in ranks.values()):
            time.sleep(0.05)
            assert time.monotonic() - killed < 30, "the others wait for a rank that is gone"
        longest = max(longest, time.monotonic() - killed)
        output = process.communicate(timeout=LIMIT)[0]
        assert process.returncode == 0, output
        assert differences(pairs / run, pairs / "whole") == [], output
        assert not orphans(pairs / run)
    logging.getLogger("tests").info("the others noticed a death after %.1f s at most", longest)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["launcher", 0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_any_process_does_what_it_does_to_one(pairs, target, number):
    run, more = pairs / "run", ("--processes", "2", "--set", "training.journal_every=5")
    asked = number == signal.SIGUSR1
    process = start(pairs, *more, "--set", f"training.updates={400 if asked else 100_000}")
    wait_for_update(run, 10, process)
    os.kill(process.pid if target == "launcher" else ranks_of(process)[target], number)
    output = process.communicate(timeout=LIMIT)[0]
    assert not orphans(run)
    if asked:
        assert process.returncode == 0, output
        assert output.count("as requested by SIGUSR1") == 1
        return
    assert process.returncode == 128 + number, output
    last = read_journal(run / "journal.jsonl")[-1]
    assert (last["event"], last["reason"], last["signal"]) == ("stop", "signal", number)
    assert last["update"] in Checkpoints(run / "checkpoints", 3).updates()
    assert "checkpoint saved" in output


@pytest.mark.slow
def test_without_restarts_a_death_is_reported(pairs):
    run = pairs / "run"
    process = start(
        pairs,
        "--processes",
        "2",
        "--max-restarts",
        "0",
        "--set",
        "training.updates=100000",
        "--set",
        "training.journal_every=5",
    )
    wait_for_update(run, 10, process)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    output = process.communicate(timeout=LIMIT)[0]
    assert process.returncode == 2, output
    assert "error: freerun train: rank 1 was killed by SIGKILL, and this was the last of 1 attempts." in output
    assert "Traceback" not in output
    assert not orphans(run)


@pytest.mark.slow
def test_without_their_launcher_processes_end(pairs):
    run = pairs / "run"
    process = start(pairs, "--processes", "2", "--set", "training.updates=100000", "--set", "training.journal_every=5")
    wait_for_update(run, 10, process)
    process.kill()
    process.communicate(timeout=LIMIT)  # to the end of the ranks' output
    end = time.monotonic() + 30
    while orphans(run):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert read_journal(run / "journal.jsonl")[-1]["event"] == "stop", "a checkpoint was saved"


@pytest.mark.slow
def test_torchrun_starts_the_same_training_on_several_machines(pairs):
    """Two agents, each with one process, stand for two machines."""
    whole = start(pairs, "--processes", "2", out="whole")
    output = whole.communicate(timeout=LIMIT)[0]
    assert whole.returncode == 0, output
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test"]
    meeting += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    command = [sys.executable, "-m", "torch.distributed.run", *meeting, "-m", "freerun", *arguments(pairs)]
    agents = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)
        for _ in range(2)
    ]
    outputs = [agent.communicate(timeout=LIMIT)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert sum(output.count("Done: 60 updates") for output in outputs) == 1
    assert differences(pairs / "run", pairs / "whole") == []


@pytest.mark.slow
def test_processes_that_a_person_starts_meet_and_say_who_differs(pairs):
    port, other = free_port(), pairs / "other"
    other.mkdir()
    write_pairs(other)
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    leader = start(pairs, **place, RANK="0")
    (other / "train.tsv").write_text((other / "train.tsv").read_text() + "abc\tA B C\n")
    follower = start(other, **place, RANK="1")
    said, heard = (process.communicate(timeout=LIMIT)[0] for process in (leader, follower))
    assert (leader.returncode, follower.returncode) == (2, 2), (said, heard)
    assert "error: rank 1 (" in said
    assert "its training pairs and encoded pairs differ from rank 0's" in said
    assert heard == ""
    assert not (pairs / "run" / "journal.jsonl").exists()
