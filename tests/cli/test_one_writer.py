"""One writer for each run, study, export and dataset; readers are never in the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from freerun import lock
from freerun.api import arm_study, model_export
from freerun.config import StudyConfig, parse_config
from freerun.files import bytes_hash
from freerun.forcing.registry import settings_of
from freerun.lock import holder, inner_lock, only_writer, outer_lock
from freerun.log import log
from freerun.studies import plan, runner
from freerun.studies.plan import StudyRun
from freerun.studies.training_process import TrainingProcess
from tests.cli.conftest import Freerun

STUDY = 'base = "config.toml"\ncontrol = "a"\nseeds = [1]\n[strategies.a]\nstrategy = "teacher"\n'
STUDY += '[strategies.b]\nstrategy = "free_running"\n'


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run."""
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


def content(folder: Path) -> dict[Path, str]:
    return {path: bytes_hash(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def here(folder: Path) -> str:
    """How a message begins that names this process as the one that writes into a directory."""
    return f"error: {folder}: process {os.getpid()} on {socket.gethostname()} ("


@pytest.fixture
def training(pairs: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that trains into ``pairs / "run"`` and has a checkpoint."""
    arguments = ["train", "config.toml", "--out", "run", "--set", "training.updates=1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "freerun", *arguments],
        cwd=pairs,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not list(pairs.glob("run/checkpoints/update-*")) and process.poll() is None:
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


def test_the_second_of_two_trainings_names_the_first_and_changes_nothing(
    freerun: Freerun, pairs: Path, training: subprocess.Popen[bytes]
) -> None:
    first = f"run: process {training.pid} on {socket.gethostname()} (__main__.py train config.toml --out run "
    command = ("train", pairs / "config.toml", "--out", pairs / "run")
    for second in ((*command, "--seed", 2), (*command, "--resume")):
        result = freerun(*second)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"error: {pairs}/{first}")
        assert "is writing here. Expected one writer at a time. Wait until that process ends, stop it, or" in result.err
    assert freerun("export", pairs / "run").err.startswith(f"error: {pairs}/{first}")

    training.kill()
    training.wait()
    assert (pairs / "run" / ".lock").exists()  # what is left of it blocks no one
    events = [json.loads(line) for line in (pairs / "run" / "journal.jsonl").read_text().splitlines()[:-1]]
    assert [event["event"] for event in events].count("start") == 1
    assert {event["event"] for event in events} <= {"start", "update", "evaluation", "checkpoint"}
    assert "the configuration has changed" in freerun(*command, "--resume").err
    assert not (pairs / "run" / ".lock").exists()


def test_a_run_that_is_being_written_can_be_read(freerun: Freerun, run: Path, trained: Path) -> None:
    with only_writer(inner_lock(run)):
        for command in (
            ("predict", run, "ab"),
            ("evaluate", run),
            ("inspect", run),
            ("score", run, trained / "dev.tsv"),
        ):
            assert freerun(*command).code == 0


def test_nothing_is_read_before_the_lock_is_held(freerun: Freerun, pairs: Path) -> None:
    """What another process is just writing is neither judged nor cleared away."""
    (pairs / "run" / ".best.old").mkdir(parents=True)
    (pairs / "run" / "config.toml").write_text("[data")
    with only_writer(inner_lock(pairs / "run")):
        result = freerun("train", pairs / "config.toml", "--out", pairs / "run", "--resume")
    assert result.err.startswith(here(pairs / "run"))
    assert (pairs / "run" / ".best.old").exists()


def test_a_training_leaves_no_lock_and_a_mistake_no_folder(freerun: Freerun, trained: Path, pairs: Path) -> None:
    assert not (trained / "run" / ".lock").exists()
    assert freerun("train", pairs / "config.toml", "--out", pairs / "a" / "b", "--set", "model.cell=gpu").code == 2
    assert not (pairs / "a").exists()


def test_what_a_training_left_that_was_killed_as_it_began_is_in_nobodys_way(freerun: Freerun, pairs: Path) -> None:
    (pairs / "run").mkdir()
    (pairs / "run" / ".lock").write_text('{"host": "gone"')
    (pairs / "run" / ".config.toml.abcdefgh.tmp").touch()
    command = ("train", pairs / "config.toml", "--out", pairs / "run", "--set", "training.updates=1")
    result = freerun(*command)
    assert result.code == 0, result.err
    assert list((pairs / "run").glob(".*")) == []


# -------------------------------------------------------------------------------------------------------------- export


def test_while_a_run_is_exported_nothing_else_writes_into_it(
    freerun: Freerun, run: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def meanwhile(*_: object) -> None:
        train = ("train", trained / "config.toml", "--out", run, "--resume")
        told.extend(freerun(*command).err for command in (("export", run), ("export", run / "best"), train))

    with monkeypatch.context() as patch:
        patch.setattr(model_export, "_verify", meanwhile)
        assert freerun("export", run / "best").code == 0
    assert [each.startswith(here(run)) for each in told] == [True, True, True]
    assert holder(inner_lock(run)) is None


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("model", [".", "best", "../link"])
def test_a_run_in_training_is_not_exported(freerun: Freerun, run: Path, out: bool, model: str) -> None:
    (run.parent / "link").symlink_to(run / "best")
    before = content(run)
    with only_writer(inner_lock(run)):
        result = freerun("export", run / model, *(("--out", run.parent / "x") if out else ()))
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(here(run))
    assert content(run) == before
    assert not (run.parent / "x").exists()


def test_a_bundle_is_locked_beside_it(freerun: Freerun, run: Path) -> None:
    bundle = run.parent / "bundle"
    shutil.copytree(run / "best", bundle)
    with only_writer(outer_lock(bundle)):
        for command in (
            ("export", bundle),
            ("export", bundle, "--out", run.parent / "x"),
            ("export", run, "--out", bundle),
        ):
            assert freerun(*command).err.startswith(here(bundle))
    assert freerun("export", bundle, "--out", run.parent / "x").code == 0
    assert sorted(path.name for path in run.parent.iterdir()) == ["bundle", "run", "x"]


def test_a_bundle_next_to_a_configuration_is_no_part_of_a_run(freerun: Freerun, run: Path) -> None:
    bundle = Path(shutil.copytree(run / "best", run.parent / "bundle"))
    (run.parent / "config.toml").touch()
    with only_writer(inner_lock(run.parent)):
        assert freerun("export", bundle).code == 0
    with only_writer(outer_lock(bundle)):
        assert freerun("export", bundle).code == 2


def test_a_model_in_a_folder_that_cannot_be_written_is_exported_elsewhere(
    freerun: Freerun, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = lock._open_lock_file

    def refuses(file: Path) -> int:
        if file.parent == run:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(file)

    monkeypatch.setattr(lock, "_open_lock_file", refuses)
    assert "this directory cannot be written (Permission denied)" in freerun("export", run).err
    monkeypatch.setattr(os, "access", lambda path, mode: (Path(path), mode) != (run, os.W_OK))
    result = freerun("export", run, "--out", run.parent / "x")
    assert result.code == 0, result.err


def test_what_a_killed_export_left_is_cleared_away_and_nothing_else(freerun: Freerun, run: Path) -> None:
    (run / "best").rename(run / ".best.old")  # killed between the two renames
    (run / ".best.abcdefgh.tmp").mkdir()
    (run.parent / ".x.abcdefgh.tmp").mkdir()
    (run.parent / ".x.settings").write_text("a user's own")
    assert freerun("export", run).code == 0
    assert (run / "best" / "greedy.onnx").exists()
    assert [path.name for path in run.glob(".*")] == []
    assert freerun("export", run / "best", "--out", run.parent / "x").code == 0
    assert sorted(path.name for path in run.parent.iterdir()) == [".x.settings", "run", "x"]


# ------------------------------------------------------------------------------------------------- studies and datasets


def test_the_second_of_two_studies_is_told(freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pairs / "study.toml").write_text(STUDY)
    command = ("study", pairs / "study.toml", "--out", pairs / "out")
    told = []

    def meanwhile(*_: object) -> None:
        before = content(pairs / "out")
        told.append(freerun(*command).err)
        assert content(pairs / "out") == before
        raise KeyboardInterrupt

    monkeypatch.setattr(arm_study, "train_all", meanwhile)
    assert freerun(*command).code == 130
    assert told[0].startswith(here(pairs / "out"))
    assert holder(inner_lock(pairs / "out")) is None


def test_a_study_that_was_killed_as_it_began_begins_again(
    freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its first writes."""
    (pairs / "study.toml").write_text(STUDY)
    command = ("study", pairs / "study.toml", "--out", pairs / "out")
    monkeypatch.setattr(arm_study, "train_all", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    write = plan.write_atomic

    def killed_at(number: int):  # type: ignore[no-untyped-def]
        calls: list[Path] = []

        def killed(path: Path, data: bytes | str) -> None:
            calls.append(path)
            if len(calls) == number:
                path.with_name(f".{path.name}.abcdefgh.tmp").touch()
                raise KeyboardInterrupt
            write(path, data)

        return killed

    for number in (1, 2, 3, 9):
        with monkeypatch.context() as patch:
            patch.setattr(plan, "write_atomic", killed_at(number))
            (pairs / "out").mkdir(exist_ok=True)
            (pairs / "out" / ".lock").touch()
            result = freerun(*command)
            assert result.code == 130, result.err
    assert list((pairs / "out").rglob(".*")) == []


def test_a_study_waits_for_a_training_that_outlived_an_earlier_one(
    caplog: pytest.LogCaptureFixture, pairs: Path
) -> None:
    caplog.set_level("INFO", log.name)
    config = parse_config({"data": {"train": "t.tsv"}}, "test", settings_of)
    todo = [StudyRun(name, 1, config, pairs) for name in ("a", "b")]
    told: set[str] = set()
    with only_writer(inner_lock(todo[0].directory)):
        assert runner._take_free_run(todo, told).name == "b-1"
        assert runner._take_free_run(todo, told) is None
        assert [run.name for run in todo] == ["a-1"]
        (line,) = caplog.messages
        assert line.startswith(f"a-1: process {os.getpid()} on ")
        assert line.endswith(" is training it; waiting for it to end.")
    assert runner._take_free_run(todo, told).name == "a-1"
    assert runner._take_free_run(todo, told) is None


class Training:
    """Stands for a training process that ended."""

    start_time = 0.0

    def __init__(self, code: int, was_locked_out: bool) -> None:
        self.poll = lambda: code
        self.was_locked_out = lambda: was_locked_out


def test_a_training_that_was_locked_out_is_started_again(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that outlived an earlier study was just starting, and took its lock after this study had looked."""
    config = parse_config({"data": {"train": "t.tsv"}}, "test", settings_of)
    trainings = [Training(2, True), Training(0, False), Training(0, False)]
    started, kept = [], []
    monkeypatch.setattr(runner, "_start", lambda run, *_: started.append(run.name) or trainings.pop(0))
    monkeypatch.setattr(runner, "_save_result", lambda run, code, *_: kept.append((run.name, code)))
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0.0)
    settings = StudyConfig(base="b", control="a", seeds=[1])
    runner.train_all([StudyRun(name, 1, config, pairs) for name in "ab"], settings)
    assert (started, kept) == (["a-1", "b-1", "a-1"], [("b-1", 0), ("a-1", 0)])


@pytest.mark.parametrize(("device", "options"), [(None, []), ("cpu", ["--device", "cpu"])])
def test_a_study_trains_on_the_device_that_was_named(pairs, monkeypatch, device, options) -> None:
    config = parse_config({"data": {"train": "t.tsv"}}, "test", settings_of)
    commands = []

    def start(arguments: list[str], *_: object) -> Training:
        commands.append(arguments)
        return Training(0, False)

    monkeypatch.setattr(runner, "TrainingProcess", start)
    monkeypatch.setattr(runner, "_save_result", lambda *_: None)
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0.0)
    run = StudyRun("a", 1, config, pairs)
    runner.train_all([run], StudyConfig(base="b", control="a", seeds=[1]), device=device)
    assert [each[1:3] + each[3:-3] for each in commands] == [["--seed", "1", *options]]
    assert commands[0][-3:] == ["--out", str(run.directory), "--resume"]


def test_a_training_reports_whether_it_was_locked_out(pairs: Path) -> None:
    log = pairs / "logs" / "a.log"
    log.parent.mkdir()
    log.write_text("an earlier one: process 1 on host is writing here\n")
    arguments = ["config.toml", "--out", "run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pairs)
        with only_writer(inner_lock(Path("run"))):
            refused = TrainingProcess(arguments, log, os.environ)
            refused.wait()
        wrong = TrainingProcess([*arguments, "--set", "model.cell=gpu"], log, os.environ)
        assert wrong.poll() is None
        wrong.wait()
    assert (refused.poll(), refused.was_locked_out()) == (2, True)
    assert (wrong.poll(), wrong.was_locked_out()) == (2, False)
    assert f"process {os.getpid()} on" in log.read_text()


def test_a_dataset_is_written_by_one_process(freerun: Freerun, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with only_writer(inner_lock(folder)):
        assert freerun("data", "make", "copy", folder).err.startswith(here(folder))
        assert [path.name for path in folder.iterdir()] == [".lock"]
    folder.mkdir()
    (folder / ".train.tsv.abcdefgh.tmp").touch()
    assert freerun("data", "make", "copy", folder).code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["dev.tsv", "test.tsv", "train.tsv"]
