"""One writer at a time: two processes, two threads, a killed holder, and what is left behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from freerun.errors import RunError
from freerun.lock import holder, inner_lock, only_writer, outer_lock

HOLD = """
import sys, time
from pathlib import Path
from freerun.lock import inner_lock, only_writer
with only_writer(inner_lock(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(600)
"""


FORK = """
import os, sys
from pathlib import Path
from freerun.lock import holder, inner_lock, only_writer
file = inner_lock(Path(sys.argv[1]))
block = only_writer(file)
with block:
    child = os.fork()
    if child == 0:
        block.__exit__(None, None, None)
        os._exit(0)
    os.waitpid(child, 0)
    print(file.exists(), f"process {os.getpid()} on" in holder(file))
"""


@contextlib.contextmanager
def held_elsewhere(folder):
    """Another process that holds the lock of a directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def refused(*files):
    with pytest.raises(RunError) as error, only_writer(*files):
        raise AssertionError("the lock was held twice")
    return str(error.value)


def test_a_second_process_is_refused_by_a_message_that_names_the_holder(tmp_path):
    with held_elsewhere(tmp_path) as process:
        note = json.loads((tmp_path / ".lock").read_text())
        told = refused(inner_lock(tmp_path))
        assert told == (
            f"{tmp_path}: process {process.pid} on {socket.gethostname()} (-c {tmp_path}, since {note['since']}) is "
            "writing here. Expected one writer at a time. Wait until that process ends, stop it, or choose another "
            "directory."
        )
        assert holder(inner_lock(tmp_path)) == told.removeprefix(f"{tmp_path}: ").partition(" is writing")[0]
        assert note.keys() == {"host", "process", "command", "since"}


def test_a_killed_holder_blocks_no_one(tmp_path):
    with held_elsewhere(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert json.loads((tmp_path / ".lock").read_text())["process"] == process.pid
        assert holder(inner_lock(tmp_path)) is None
        with only_writer(inner_lock(tmp_path)):
            assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_child_process_does_not_inherit_the_lock(tmp_path):
    with only_writer(inner_lock(tmp_path)):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with only_writer(inner_lock(tmp_path)):
            pass
    finally:
        child.communicate(b"\n")


def test_a_forked_child_that_leaves_the_block_releases_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr


def test_threads_exclude_each_other(tmp_path):
    found = []
    with only_writer(inner_lock(tmp_path)):
        thread = threading.Thread(target=lambda: found.append(refused(inner_lock(tmp_path))))
        thread.start()
        thread.join()
    assert f"process {os.getpid()} on" in found[0]


def test_one_after_the_other_is_no_conflict_also_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), only_writer(inner_lock(tmp_path)):
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_directories_are_created_and_go_away_again_if_nothing_was_written(tmp_path):
    folder = tmp_path / "runs" / "a"
    with only_writer(inner_lock(folder)):
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert not (tmp_path / "runs").exists()
    with only_writer(inner_lock(folder)):
        (folder / "journal.jsonl").touch()
    assert [path.name for path in folder.iterdir()] == ["journal.jsonl"]


def test_a_directory_that_is_replaced_is_locked_beside_it_whatever_it_is_called(tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "link").symlink_to("best")
    assert outer_lock(tmp_path / "link") == outer_lock(tmp_path / "best") == tmp_path / ".best.lock"
    with only_writer(outer_lock(tmp_path / "best")):
        assert refused(outer_lock(tmp_path / "link")).startswith(f"{tmp_path / 'best'}: process")
        assert [path.name for path in (tmp_path / "best").iterdir()] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "link"]


def test_a_lock_that_is_named_twice_is_held_once(tmp_path):
    with only_writer(inner_lock(tmp_path), inner_lock(tmp_path / "." / "x" / "..")):
        assert holder(inner_lock(tmp_path))
    assert holder(inner_lock(tmp_path)) is None


def test_of_several_locks_none_stays_if_one_is_taken(tmp_path):
    with only_writer(inner_lock(tmp_path / "b")):
        refused(inner_lock(tmp_path / "a"), inner_lock(tmp_path / "b"))
        assert not (tmp_path / "a").exists()


def test_a_holder_that_ends_in_the_meantime_is_waited_for(tmp_path, monkeypatch):
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_writer(inner_lock(tmp_path)))
        monkeypatch.setattr("freerun.lock.time.sleep", lambda seconds: stack.close())
        with only_writer(inner_lock(tmp_path)):
            pass


def test_a_file_that_its_last_holder_removed_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    """Locked after the removal, it would be one that no other process sees."""
    (tmp_path / ".lock").touch()
    flock, calls = fcntl.flock, []

    def slow(handle, operation):
        calls.append(operation)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    with only_writer(inner_lock(tmp_path)):
        assert len(calls) == 2
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def missing(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.warns(UserWarning, match="no locks"), only_writer(inner_lock(tmp_path)):
        pass


def test_another_error_of_the_lock_is_told(tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", failing)
    assert refused(inner_lock(tmp_path)).startswith(
        f"{tmp_path}: this directory cannot be written (Input/output error)."
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 1}', b"\xff"])
def test_a_note_that_cannot_be_read_hides_nothing_else(tmp_path, content):
    with only_writer(inner_lock(tmp_path)):
        (tmp_path / ".lock").write_bytes(content)
        assert "another process, which is not named in the lock file, is writing here." in refused(inner_lock(tmp_path))


def test_a_note_never_reaches_a_terminal_raw(tmp_path):
    with only_writer(inner_lock(tmp_path)):
        note = {"host": "\x1b[2J", "process": 1, "command": "a\nb", "since": "now"}
        (tmp_path / ".lock").write_text(json.dumps(note))
        assert "process 1 on ?[2J (a?b, since now) is writing here" in refused(inner_lock(tmp_path))


def test_a_lock_without_a_note_is_a_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with only_writer(inner_lock(tmp_path)):
        assert refused(inner_lock(tmp_path))


def test_a_shorter_note_leaves_nothing_of_a_longer_one(tmp_path):
    (tmp_path / ".lock").write_text("x" * 9999)
    with only_writer(inner_lock(tmp_path)):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


def test_a_long_command_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/freerun", "train", "x" * 1000])
    with only_writer(inner_lock(tmp_path)):
        assert json.loads((tmp_path / ".lock").read_text())["command"] == "freerun train " + "x" * 186


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "file").touch()
    assert refused(inner_lock(tmp_path / "file")) == (
        f"{tmp_path / 'file'}: this is a file. Expected a directory. Choose another directory."
    )
    assert refused(inner_lock(tmp_path / "file" / "run")).startswith(
        f"{tmp_path / 'file' / 'run'}: this directory cannot be written (Not a directory)."
    )


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".lock").symlink_to("precious")
    assert "cannot be written" in refused(inner_lock(tmp_path))
    assert (tmp_path / "precious").read_text() == "mine"


def test_nothing_is_held_where_there_is_no_lock_file(tmp_path):
    assert holder(inner_lock(tmp_path / "nowhere")) is None
    assert not (tmp_path / "nowhere").exists()


def test_asking_disturbs_no_writer(tmp_path):
    """Two who ask at the same time are not in each other's way, nor is a writer refused because of them."""
    (tmp_path / ".lock").touch()
    handle = os.open(tmp_path / ".lock", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    try:
        assert holder(Path(tmp_path / ".lock")) is None
    finally:
        os.close(handle)
