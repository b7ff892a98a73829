"""Files and folders are whole or not there, whatever happens in between."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest

from freerun.files import (
    file_hash,
    new_sibling_dir,
    readable_dir,
    remove_leftovers,
    replace_dir,
    replacing_dir,
    replacing_file,
    restore_dir,
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
def test_a_file_is_written_as_it_is(tmp_path, data, expected, kind_of_file):
    write_atomic(tmp_path / "file", data)
    write_atomic(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == expected
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, kind_of_file):
    write_atomic(tmp_path / "file", "old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left") as error:
        write_atomic(tmp_path / "file", "new")
    assert error.value.filename == str(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, kind_of_file):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", "new")
    assert names(tmp_path) == []


def test_a_file_is_synced_before_it_gets_its_name(tmp_path, monkeypatch, kind_of_file):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: order.append(("fsync", os.fstat(handle).st_size)) or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda a, b: order.append("replace") or replace(a, b))
    write_atomic(tmp_path / "file", "12345")
    assert order == [("fsync", 5), "replace"]


def test_files_and_folders_have_the_usual_modes(tmp_path, kind_of_file):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "")
        new_sibling_dir(tmp_path / "folder").rename(tmp_path / "folder")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"file": 0o640, "folder": 0o750}


def test_a_replaced_file_keeps_its_mode_and_its_owner(tmp_path, monkeypatch, kind_of_file):
    owners = []
    monkeypatch.setattr(os, "fchown", lambda handle, *owner: owners.append(owner))
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o4710)
    write_atomic(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o4710)
    assert owners == [(path.stat().st_uid, path.stat().st_gid)]


def test_a_killed_write_leaves_nothing_where_the_system_can(tmp_path, kind_of_file):
    child = os.fork()
    if not child:
        with replacing_file(tmp_path / "file") as out:
            out.write(b"half")
            out.flush()
            os._exit(0)
    os.waitpid(child, 0)
    assert len(names(tmp_path)) == (kind_of_file == "named")
    remove_leftovers(tmp_path, "file")
    assert names(tmp_path) == []


def test_a_file_of_somebody_else_is_replaced_all_the_same(tmp_path, monkeypatch):
    def forbidden(*_):
        raise PermissionError

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "fchown", forbidden)
    write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_the_umask_of_the_process_is_never_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", full)
    write_atomic(tmp_path / "file", "")
    with replacing_dir(tmp_path / "folder"):
        pass
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path, there):
    (tmp_path / "place").mkdir()
    if there:
        (tmp_path / "place" / "file").write_text("old")
    (tmp_path / "link").symlink_to("place/file")
    (tmp_path / "link of link").symlink_to("link")
    write_atomic(tmp_path / "link of link", "new")
    assert (tmp_path / "link of link").is_symlink()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "place" / "file").read_text() == "new"
    assert names(tmp_path / "place") == ["file"]


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(tmp_path / "pipe", "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_a_device_is_written_to_and_its_errors_have_its_name():
    write_atomic(Path("/dev/null"), "text")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(OSError, match="No space left") as error:
        write_atomic(Path("/dev/full"), "text")
    assert error.value.filename == "/dev/full"


def test_an_open_file_is_written_where_it_stands(tmp_path):
    """Like ``{ echo head; freerun predict ... --output /dev/stdout; echo tail; } > file``, and through a link."""
    with (tmp_path / "file").open("wb", buffering=0) as out:
        out.write(b"head ")
        write_atomic(Path(f"/dev/fd/{out.fileno()}"), "one ")
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{out.fileno()}")
        write_atomic(tmp_path / "link", "two ")
        out.write(b"tail")
    assert (tmp_path / "file").read_text() == "head one two tail"
    assert names(tmp_path) == ["file", "link"]


def test_an_open_file_of_another_process_is_a_file_as_others(tmp_path):
    with (tmp_path / "file").open("wb") as out, subprocess.Popen(["sleep", "60"], stdout=out) as other:
        write_atomic(Path(f"/proc/{other.pid}/fd/1"), "text")
        other.kill()
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127])
def test_the_longest_names_can_be_written(tmp_path, kind_of_file, name):
    write_atomic(tmp_path / name, "text")
    assert names(tmp_path) == [name]


def test_links_in_a_circle_are_an_error_of_their_name(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels") as error:
        write_atomic(tmp_path / "loop", "text")
    assert error.value.filename == str(tmp_path / "loop")
    assert readable_dir(tmp_path / "loop") == tmp_path / "loop"


def test_an_error_that_names_its_file_keeps_the_name(tmp_path):
    with pytest.raises(FileNotFoundError) as error, replacing_dir(tmp_path / "best"):
        (tmp_path / "missing").read_text()
    assert error.value.filename == str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError) as error:
        write_atomic(tmp_path / "missing" / "file", "")
    assert error.value.filename == str(tmp_path / "missing" / "file")


@pytest.mark.parametrize("name", [".", "../best", "link"])
def test_a_directory_is_replaced_by_whatever_name(tmp_path, monkeypatch, name):
    final = folder_with(tmp_path / "best", "old")
    (final / "link").symlink_to("../best")
    monkeypatch.chdir(final)
    for text in ("new", "newer"):
        with replacing_dir(Path(name) if text == "new" else final) as new:
            (new / "a").write_text(text)
        assert (final / "a").read_text() == text
    assert names(tmp_path) == ["best"]


def test_behind_a_link_the_directory_is_replaced_and_found_after_a_crash(tmp_path, monkeypatch):
    (tmp_path / "place").mkdir()
    folder_with(tmp_path / "place" / "v1", "old")
    link = tmp_path / "current"
    link.symlink_to("place/v1")
    with monkeypatch.context() as patch:
        crash_at(patch, 2)
        with pytest.raises(SystemExit):
            replace_dir(folder_with(tmp_path / "new", "new"), link)
    assert (readable_dir(link) / "a").read_text() == "old"
    restore_dir(link)
    assert (link / "a").read_text() == "old"
    for text in ("newer", "newest"):
        with replacing_dir(link) as new:
            (new / "a").write_text(text)
    assert link.is_symlink()
    assert names(tmp_path / "place") == ["v1"]
    assert (tmp_path / "place" / "v1" / "a").read_text() == "newest"


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "directory"])
def test_whatever_has_the_name_of_the_old_content_does_not_block(tmp_path, kind):
    final, stray = folder_with(tmp_path / "best", "old"), tmp_path / ".best.old"
    folder_with(tmp_path / "other", "not ours")
    if kind == "file":
        stray.touch()
    elif kind == "directory":
        stray.mkdir()
    else:
        stray.symlink_to("other" if kind == "link" else "nothing")
    with replacing_dir(final) as new:
        (new / "a").write_text("new")
    assert (final / "a").read_text() == "new"
    assert (tmp_path / "other" / "a").read_text() == "not ours"
    assert names(tmp_path) == ["best", "other"]


def test_a_folder_is_replaced_whole(tmp_path):
    final = folder_with(tmp_path / "best", "old")
    (final / "only in the old one").touch()
    replace_dir(folder_with(tmp_path / "new", "new"), final)
    assert names(tmp_path) == ["best"]
    assert names(final) == ["a"]
    assert (final / "a").read_text() == "new"


def test_a_folder_is_made_where_there_was_none(tmp_path):
    with replacing_dir(tmp_path / "runs" / "best") as new:
        (new / "a").touch()
    assert names(tmp_path / "runs") == ["best"]


def test_a_folder_that_could_not_be_filled_is_gone_and_the_old_one_stays(tmp_path):
    final = folder_with(tmp_path / "best", "old")
    with pytest.raises(ZeroDivisionError), replacing_dir(final) as new:
        (new / "a").write_text(str(1 / 0))
    assert names(tmp_path) == ["best"]
    assert (final / "a").read_text() == "old"


@pytest.fixture(params=["without a name", "named"])
def kind_of_file(request, monkeypatch):
    """Both ways to write a new file: that of Linux, and that of systems and file systems that cannot."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    return request.param


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
                replace_dir(new, final)
        else:
            replace_dir(new, final)
    before = names(tmp_path)
    assert (readable_dir(final) / "a").read_text() == found
    assert names(tmp_path) == before  # a reader renames nothing: a writer may be at work
    restore_dir(final)
    assert (final / "a").read_text() == found


def test_what_a_crash_left_aside_survives_the_next_replacement_until_the_new_one_is_there(tmp_path, monkeypatch):
    folder_with(tmp_path / ".best.old", "old")
    with monkeypatch.context() as patch:
        crash_at(patch, 2)
        with pytest.raises(SystemExit):
            replace_dir(folder_with(tmp_path / "new", "new"), tmp_path / "best")
    assert (readable_dir(tmp_path / "best") / "a").read_text() == "old"


def test_a_folder_that_cannot_be_put_in_its_place_leaves_the_old_one_there(tmp_path, monkeypatch):
    final = folder_with(tmp_path / "best", "old")
    new = folder_with(tmp_path / "new", "new")
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: full() if a == new else replace(a, b))
    with pytest.raises(OSError, match="No space left"):
        replace_dir(new, final)
    assert (final / "a").read_text() == "old"
    assert names(tmp_path) == ["best", "new"]


def test_restoring_never_replaces_what_is_there(tmp_path):
    final = folder_with(tmp_path / "best", "new")
    folder_with(tmp_path / ".best.old", "old")
    restore_dir(final)
    assert (final / "a").read_text() == "new"
    assert (readable_dir(final) / "a").read_text() == "new"


def test_a_folder_that_never_was_is_looked_for_in_its_place(tmp_path):
    assert readable_dir(tmp_path / "best") == tmp_path / "best"
    assert readable_dir(tmp_path) == tmp_path
    restore_dir(tmp_path / "best")
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
    remove_leftovers(tmp_path, "update-*")
    assert names(tmp_path) == sorted([".git.old", *others, "update-01", "update-02"])
    assert [(tmp_path / name / "a").read_text() for name in ("update-01", "update-02")] == ["old", "new"]
    remove_leftovers(tmp_path / "missing", "update-*")


def test_what_a_killed_write_leaves_is_a_leftover(tmp_path, monkeypatch):
    """The names that are written and those that are cleared away are the same."""
    with monkeypatch.context() as patch:
        patch.setattr("freerun.files.shutil.rmtree", lambda *_, **__: None)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(tmp_path / "file", "new")
        with pytest.raises(OSError, match="No space left"), replacing_dir(tmp_path / "best"):
            pass
    assert len(names(tmp_path)) == 2
    remove_leftovers(tmp_path, "other")
    assert len(names(tmp_path)) == 2
    remove_leftovers(tmp_path, "file")
    remove_leftovers(tmp_path, "best")
    assert names(tmp_path) == []


def test_file_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc\n" * 100_000)
    assert file_hash(tmp_path / "file") == hashlib.sha256(b"abc\n" * 100_000).hexdigest()
