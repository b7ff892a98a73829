"""The journal: an event a line, cut back to a checkpoint, read in spite of a crash."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from freerun.errors import RunError
from freerun.training.journal import Journal, read_journal


def journal(tmp_path, *events):
    written = Journal(tmp_path / "journal.jsonl")
    for number, event in enumerate(events):
        written.write(event, number)
    return written


def test_an_event_is_a_line_of_json_with_its_keys_in_order(tmp_path):
    journal(tmp_path).write("update", 50, loss=0.25, name="über")
    assert (tmp_path / "journal.jsonl").read_text() == (
        '{"event": "update", "update": 50, "loss": 0.25, "name": "über"}\n'
    )


def test_an_event_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    written = journal(tmp_path, "start", "update")
    assert [event["event"] for event in read_journal(written.path)] == ["start", "update"]


def test_a_journal_that_is_opened_again_is_continued(tmp_path):
    journal(tmp_path, "start")
    journal(tmp_path, "resume")
    assert [event["event"] for event in read_journal(tmp_path / "journal.jsonl")] == ["start", "resume"]


def test_numbers_come_back_as_the_very_same_floats(tmp_path):
    value = 0.1 + 0.2
    journal(tmp_path).write("update", 1, loss=value)
    assert read_journal(tmp_path / "journal.jsonl")[0]["loss"] == value


def test_the_event_of_a_resumed_run_replaces_what_came_after_in_one_step(tmp_path, monkeypatch):
    """A process that is killed leaves the one journal or the other."""
    written, seen = journal(tmp_path, "start", "update"), []
    size = len(written.path.read_bytes().splitlines(keepends=True)[0])
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: seen.append(read_journal(written.path)) or replace(*paths))
    written.resume(size, 0)
    assert [event["event"] for event in seen[0]] == ["start", "update"]
    assert [event["event"] for event in read_journal(written.path)] == ["start", "resume"]


def test_a_run_that_starts_again_has_an_empty_journal(tmp_path):
    written = journal(tmp_path, "start", "update")
    written.clear()
    assert written.path.read_bytes() == b""


def test_a_figure_that_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal(tmp_path).write("update", 1, loss=float("nan"))
    assert read_journal(tmp_path / "journal.jsonl") == []


def test_cutting_back_forgets_what_came_after_and_writing_goes_on_there(tmp_path):
    written = journal(tmp_path, "start", "update")
    size = written.size()
    written.write("update", 2)
    written.resume(size, 1, changed={"training.updates": [1, 2]})
    written.write("update", 2)
    events = read_journal(written.path)
    assert [event["event"] for event in events] == ["start", "update", "resume", "update"]
    assert events[2] == {"event": "resume", "update": 1, "changed": {"training.updates": [1, 2]}}
    assert read_journal(written.path, size) == events[:2]
    assert size == len(b"".join((tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)[:2]))


def test_cutting_back_beyond_the_end_names_both_sizes(tmp_path):
    written = journal(tmp_path, "start")
    with pytest.raises(RunError, match=rf"has {written.size()} bytes, the checkpoint was written after 1000\."):
        written.resume(1000, 1)
    assert len(read_journal(written.path)) == 1


@pytest.mark.parametrize("torn", ['{"event": "upd', '{"event": "update", "update": 2', '"', "7", "null"])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    path = journal(tmp_path, "start").path
    path.write_text(path.read_text() + torn)
    assert [event["event"] for event in read_journal(path)] == ["start"]


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\n"])
def test_a_journal_without_a_whole_event_is_empty(tmp_path, content):
    (tmp_path / "journal.jsonl").write_bytes(content)
    assert read_journal(tmp_path / "journal.jsonl") == []
    assert read_journal(tmp_path / "missing.jsonl") == []


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    written = journal(tmp_path, "start")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError) as error:
        written.size()
    assert str(error.value) == (
        f"{written.path}: the journal could not be written (No space left on device). "
        "Expected enough disk space and permission to write. Free disk space, then rerun with --resume."
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_line_that_does_not_fit_on_the_disk_is_told(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(RunError, match="No space left on device"):
        Journal(path).write("update", 1)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(RunError, match=r"could not be written \(No such file or directory\)"):
        Journal(tmp_path / "missing" / "journal.jsonl").write("start", 0)


def test_size_is_what_reached_the_disk(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size) or fsync(handle))
    written = journal(tmp_path, "start")
    assert written.size() == len(json.dumps({"event": "start", "update": 0})) + 1
    assert synced == [written.path.stat().st_size]


def test_a_journal_is_known_by_the_hash_of_its_beginning(tmp_path):
    written = journal(tmp_path, "start", "update")
    size = written.size()
    sha256 = written.hash(size)
    assert sha256 == hashlib.sha256(written.path.read_bytes()).hexdigest()
    written.write("update", 2)
    assert written.holds(size, sha256)
    assert not written.holds(size - 1, sha256)
    written.path.write_bytes(written.path.read_bytes()[: size - 1])
    assert not written.holds(size, written.hash(size))  # it is shorter, whatever its hash
    assert not written.holds(size, sha256)


@pytest.mark.parametrize(
    "line",
    ['{"event": "stop", "updatf": 3}', '{"event": "stop", "update": "3"}', '{"event": 1, "update": 3}', "[" * 100_000],
)
def test_a_line_that_is_no_event_ends_the_journal_that_is_read(tmp_path, line):
    """Readers rely on both keys."""
    path = journal(tmp_path, "start").path
    path.write_text(path.read_text() + line + "\n" + path.read_text())
    assert [event["event"] for event in read_journal(path)] == ["start"]
