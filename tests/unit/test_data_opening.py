"""Which files are read: regular ones and pipes, which are waited for; everything else is rejected by what it is."""

from __future__ import annotations

import gzip
import os
import pty
import socket
import threading
import time
from pathlib import Path

import pytest

from freerun.data import opening
from freerun.data.opening import is_pipe, is_read_once, reject_read_once
from freerun.data.readers import MAX_LINE_BYTES, ParallelFiles, content_hash, copy_pairs, read_pairs, read_texts
from freerun.errors import DataError


def error_of(call, *arguments):
    with pytest.raises(DataError) as caught:
        list(call(*arguments) or ())
    return str(caught.value)


def fifo(path: Path, content: bytes = b"", after: float = 0.0) -> Path:
    """A named pipe into which a thread writes once somebody reads."""
    os.mkfifo(path)

    def write():
        with path.open("wb") as out:
            time.sleep(after)
            out.write(content)

    threading.Thread(target=write, daemon=True).start()
    return path


READERS = {
    "pairs": read_pairs,
    "texts": lambda path: read_texts(path, str(path)),
    "hash": content_hash,
    "parallel": lambda path: read_pairs(ParallelFiles(path, path)),
}


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "/dev/full", "/dev/tty"])
@pytest.mark.parametrize("reader", READERS)
def test_a_device_is_rejected_before_it_is_read(device, reader):
    found = error_of(READERS[reader], Path(device))
    assert found.startswith(f"{device}: this is a ") and (
        "device, which may have no end" in found or "terminal" in found
    )
    assert "Expected a file or a pipe." in found


@pytest.mark.parametrize("reader", READERS)
def test_a_socket_and_a_terminal_are_named(tmp_path, reader, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("s")
        assert error_of(READERS[reader], Path("s")).startswith("s: this is a socket. Expected a file or a pipe.")
    ends = pty.openpty()
    try:
        name = os.ttyname(ends[1])
        assert error_of(READERS[reader], Path(name)).startswith(
            f"{name}: this is a terminal. Expected a file or a pipe."
        )
    finally:
        for end in ends:
            os.close(end)


def test_the_null_device_is_an_empty_file():
    assert "/dev/null: the file is empty and has no pairs" in error_of(read_pairs, Path(os.devnull))
    assert list(read_texts(Path(os.devnull), "x")) == []


def test_a_pipe_is_read_as_a_file(tmp_path):
    assert [pair[:2] for pair in read_pairs(fifo(tmp_path / "a", b"a\tb\nc\td"))] == [("a", "b"), ("c", "d")]
    assert list(read_texts(fifo(tmp_path / "b", b"a\n\nb\n"), "b")) == ["a", "", "b"]
    assert "the file is empty and has no pairs" in error_of(read_pairs, fifo(tmp_path / "c"))


def test_a_pipe_that_gives_nothing_is_reported_once_and_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "PATIENCE_SECONDS", 0.05)
    said = []
    slow = fifo(tmp_path / "slow", b"a\tb\n", after=0.4)
    assert len(list(read_pairs(slow, None, said.append))) == 1
    assert said == [f"{slow}: this is a pipe, and nothing has been written into it yet; waiting for its first line."]
    said.clear()
    assert list(read_texts(fifo(tmp_path / "texts", b"a\n", after=0.4), "texts", said.append)) == ["a"]
    assert len(said) == 1


def test_a_pipe_that_gives_something_at_once_is_not_reported(tmp_path):
    said = []
    assert len(list(read_pairs(fifo(tmp_path / "x", b"a\tb\n"), None, said.append))) == 1
    assert said == []


def test_reading_a_pipe_blocks_after_its_first_line(tmp_path):
    path = tmp_path / "x"
    os.mkfifo(path)

    def write():
        with path.open("wb", buffering=0) as out:
            out.write(b"a\tb\n")
            time.sleep(0.3)
            out.write(b"c\td\n")

    threading.Thread(target=write, daemon=True).start()
    assert len(list(read_pairs(path))) == 2


def test_what_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    assert is_pipe(tmp_path / "pipe") and is_read_once(tmp_path / "pipe")
    assert not is_read_once(tmp_path / "file") and not is_read_once(tmp_path / "none") and not is_read_once(Path("a\0"))
    for name in ("/dev/stdin", "/dev/fd/63", "/proc/self/fd/3", f"/proc/{os.getpid()}/fd/3", "/proc/1/task/2/fd/3"):
        assert is_read_once(Path(name)), name
    for name in ("/dev/fd/x", "/dev/null", "/proc/self/fd/3/x", "x/dev/stdin"):
        assert not is_read_once(Path(name)), name


def test_a_pipe_is_rejected_where_it_would_be_read_twice(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for call in (content_hash, reject_read_once):
        assert error_of(call, tmp_path / "pipe") == (
            f"{tmp_path / 'pipe'}: this is a pipe, which can be read only once. Expected a regular file, because it is "
            "read several times. Write the pairs to a file first."
        )
    assert "an open file of one process, which can be read only once" in error_of(reject_read_once, Path("/dev/stdin"))


def test_a_copy_has_the_bytes_of_the_lines(tmp_path):
    content = b"\xef\xbb\xbfa\tb\r\nc\td"
    (tmp_path / "x.gz").write_bytes(gzip.compress(content))
    copied = bytearray()
    copy_pairs(tmp_path / "x.gz", {tmp_path / "x.gz": copied.extend})
    assert copied == content
    (tmp_path / "y").write_bytes(b"x\n")
    sides = {tmp_path / "y": bytearray(), tmp_path / "z": bytearray()}
    (tmp_path / "z").write_bytes(b"z\n")
    copy_pairs(ParallelFiles(tmp_path / "y", tmp_path / "z"), {file: side.extend for file, side in sides.items()})
    assert [bytes(side) for side in sides.values()] == [b"x\n", b"z\n"]


def test_a_copy_of_a_stream_without_line_ends_stays_small(tmp_path):
    (tmp_path / "x").write_bytes(b"y" * (3 * MAX_LINE_BYTES))
    copied = bytearray()
    with pytest.raises(DataError, match="longer than 1,000,000 bytes"):
        copy_pairs(tmp_path / "x", {tmp_path / "x": copied.extend})
    assert len(copied) == MAX_LINE_BYTES + 2


def test_files_are_closed(tmp_path):
    (tmp_path / "x").write_text("a\tb\nc\td\n")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        list(read_pairs(tmp_path / "x"))
        with pytest.raises(DataError):
            content_hash(Path("/dev/zero"))
    assert len(os.listdir("/proc/self/fd")) == before
