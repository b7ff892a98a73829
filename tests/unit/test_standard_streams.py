"""Standard streams: closed, bare, full, and in another encoding."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from freerun.commands.console import CountLine, say
from freerun.commands.train_progress import ConsoleProgress
from freerun.streams import binary_input, is_terminal, prepare_streams, write_notice


class Bare:
    """A stream of a host program that can only be written to."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


class Full(Bare):
    def write(self, text):
        raise OSError("full")


def python(code, redirection, **environment):
    """Run code in a shell's child with streams redirected."""
    command = ["sh", "-c", f'"$0" -c "$1" {redirection}', sys.executable, code]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_news_never_goes_to_standard_output(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    say("news")
    with CountLine("reading", "texts") as line:
        line(1, 2)
    ConsoleProgress().on_message("news")
    assert capsys.readouterr().out == ""


def test_news_goes_to_what_can_only_write():
    bare = Bare()
    write_notice("one\n", bare)
    progress = ConsoleProgress(bare)
    progress.on_message("two")
    progress.on_end()
    assert bare.text == "one\ntwo\n"


@pytest.mark.parametrize("stream", [Full(), io.StringIO()])
def test_news_that_cannot_be_written_ends_nothing(stream):
    if isinstance(stream, io.StringIO):
        stream.close()
    write_notice("news\n", stream)


@pytest.mark.parametrize("stream", [None, Bare(), io.StringIO()])
def test_what_is_no_terminal(stream):
    assert not is_terminal(stream)
    if isinstance(stream, io.StringIO):
        stream.close()
        assert not is_terminal(stream)


def test_a_terminal_is_one():
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as stream:
        assert is_terminal(stream)
    os.close(leader)


def test_input_as_bytes(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("é\n"))
    assert binary_input().read() == "é\n".encode()
    monkeypatch.setattr(sys, "stdin", None)
    assert binary_input().read() == b""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert binary_input().read() == b"\xff"


@pytest.mark.parametrize(("number", "name"), [(0, "stdin"), (1, "stdout"), (2, "stderr")])
def test_a_closed_stream_counts_as_the_null_device(tmp_path, number, name):
    """Its number is taken, also for children: the next file that is opened must not get it."""
    code = f"""
import os, subprocess, sys
from freerun.streams import prepare_streams
prepare_streams()
with open({str(tmp_path / "file")!r}, "w") as out:
    out.write(str(out.fileno() > 2))
    subprocess.run(["sh", "-c", "echo news >&2 && echo text && cat"], check=True)
if {number}:
    print("text", file=sys.{name}, flush=True)
else:
    assert sys.stdin.read() == ""
assert os.stat({number}).st_rdev == os.stat("/dev/null").st_rdev
"""
    done = python(code, f"{number}{'<' if number == 0 else '>'}&-")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "True"


def test_text_is_written_as_utf_8_whatever_the_locale():
    code = "from freerun.streams import prepare_streams\nprepare_streams()\nimport sys\nprint('б')\n"
    code += "print('é\\udcff', file=sys.stderr)"
    done = python(code, "", PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert (done.stdout, done.stderr) == ("б\n", "é\\udcff\n")


def test_streams_of_a_host_program_stay(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    prepare_streams()
    assert sys.stdout is text
