"""Files and folders are whole or not there, whatever happens in between."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from freerun.files import (
    file_hash,
    mend_leftovers,
    new_folder_beside,
    present_folder,
    replace_folder,
    replacing_folder,
    restore_folder,
    write_atomic,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def folder_with(path, text):
    path.mkdir()
    (path / "a").write_text(text)
    return path


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("data", "expected"), [(b"\x00\xff", b"\x00\xff"), ("é\n", b"\xc3\xa9\n"), ("", b"")])
def test_a_file_is_written_as_it_is(tmp_path, data, expected):
    write_atomic(tmp_path / "file", data)
    write_atomic(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == expected
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    write_atomic(tmp_path / "file", "old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", "new")
    assert names(tmp_path) == []


def test_a_file_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: order.append(("fsync", os.fstat(handle).st_size)) or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda a, b: order.append("replace") or replace(a, b))
    write_atomic(tmp_path / "file", "12345")
    assert order == [("fsync", 5), "replace"]


def test_files_and_folders_have_the_usual_modes(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "")
        new_folder_beside(tmp_path / "folder").rename(tmp_path / "folder")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"file": 0o640, "folder": 0o750}


def test_a_folder_is_replaced_whole(tmp_path):
    final = folder_with(tmp_path / "best", "old")
    (final / "only in the old one").touch()
    replace_folder(folder_with(tmp_path / "new", "new"), final)
    assert names(tmp_path) == ["best"]
    assert names(final) == ["a"]
    assert (final / "a").read_text() == "new"


def test_a_folder_is_made_where_there_was_none(tmp_path):
    with replacing_folder(tmp_path / "runs" / "best") as new:
        (new / "a").touch()
    assert names(tmp_path / "runs") == ["best"]


def test_a_folder_that_could_not_be_filled_is_gone_and_the_old_one_stays(tmp_path):
    final = folder_with(tmp_path / "best", "old")
    with pytest.raises(ZeroDivisionError), replacing_folder(final) as new:
        (new / "a").write_text(str(1 / 0))
    assert names(tmp_path) == ["best"]
    assert (final / "a").read_text() == "old"


def crash_at(monkeypatch, number):
    """The process is killed at this rename."""
    replace, calls = os.replace, []

    def killed(a, b):
        calls.append(a)
        if len(calls) == number:
            raise SystemExit
        replace(a, b)

    monkeypatch.setattr(os, "replace", killed)


@pytest.mark.parametrize(("renames", "found"), [(1, "old"), (2, "old"), (3, "new")])
def test_after_a_crash_a_reader_finds_one_of_the_two_whole(tmp_path, monkeypatch, renames, found):
    final = folder_with(tmp_path / "best", "old")
    new = folder_with(tmp_path / "new", "new")
    with monkeypatch.context() as patch:
        crash_at(patch, renames)
        if renames < 3:
            with pytest.raises(SystemExit):
                replace_folder(new, final)
        else:
            replace_folder(new, final)
    before = names(tmp_path)
    assert (present_folder(final) / "a").read_text() == found
    assert names(tmp_path) == before  # a reader renames nothing: a writer may be at work
    restore_folder(final)
    assert (final / "a").read_text() == found


def test_what_a_crash_left_aside_survives_the_next_replacement_until_the_new_one_is_there(tmp_path, monkeypatch):
    folder_with(tmp_path / ".best.old", "old")
    with monkeypatch.context() as patch:
        crash_at(patch, 2)
        with pytest.raises(SystemExit):
            replace_folder(folder_with(tmp_path / "new", "new"), tmp_path / "best")
    assert (present_folder(tmp_path / "best") / "a").read_text() == "old"


def test_a_folder_that_cannot_be_put_in_its_place_leaves_the_old_one_there(tmp_path, monkeypatch):
    final = folder_with(tmp_path / "best", "old")
    new = folder_with(tmp_path / "new", "new")
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: full() if a == new else replace(a, b))
    with pytest.raises(OSError, match="No space left"):
        replace_folder(new, final)
    assert (final / "a").read_text() == "old"
    assert names(tmp_path) == ["best", "new"]


def test_restoring_never_replaces_what_is_there(tmp_path):
    final = folder_with(tmp_path / "best", "new")
    folder_with(tmp_path / ".best.old", "old")
    restore_folder(final)
    assert (final / "a").read_text() == "new"
    assert (present_folder(final) / "a").read_text() == "new"


def test_a_folder_that_never_was_is_looked_for_in_its_place(tmp_path):
    assert present_folder(tmp_path / "best") == tmp_path / "best"
    assert present_folder(tmp_path) == tmp_path
    restore_folder(tmp_path / "best")
    assert names(tmp_path) == []


def test_leftovers_go_away_and_what_stepped_aside_comes_back(tmp_path):
    folder_with(tmp_path / ".update-01.old", "old")
    folder_with(tmp_path / ".update-02.old", "old")
    folder_with(tmp_path / ".update-02.x1y2z3ab.tmp", "half")
    folder_with(tmp_path / "update-02", "new")
    (tmp_path / ".update-03.abcdefgh.tmp").write_text("half a file")
    folder_with(tmp_path / ".git.old", "not ours")
    others = [".update-03.tmp", ".update-03.settings", ".update-03.my-notes.tmp"]
    for name in others:
        (tmp_path / name).write_text("a user's own")
    mend_leftovers(tmp_path, "update-*")
    assert names(tmp_path) == sorted([".git.old", *others, "update-01", "update-02"])
    assert [(tmp_path / name / "a").read_text() for name in ("update-01", "update-02")] == ["old", "new"]
    mend_leftovers(tmp_path / "missing", "update-*")


def test_what_a_killed_write_leaves_is_a_leftover(tmp_path, monkeypatch):
    """The names that are written and those that are cleared away are the same."""
    with monkeypatch.context() as patch:
        patch.setattr("freerun.files.shutil.rmtree", lambda *_, **__: None)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(tmp_path / "file", "new")
        with pytest.raises(OSError, match="No space left"), replacing_folder(tmp_path / "best"):
            pass
    assert len(names(tmp_path)) == 2
    mend_leftovers(tmp_path, "other")
    assert len(names(tmp_path)) == 2
    mend_leftovers(tmp_path, "file")
    mend_leftovers(tmp_path, "best")
    assert names(tmp_path) == []


def test_file_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc\n" * 100_000)
    assert file_hash(tmp_path / "file") == hashlib.sha256(b"abc\n" * 100_000).hexdigest()
