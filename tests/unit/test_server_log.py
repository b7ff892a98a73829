"""The log of a service, wherever standard error leads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from freerun.server.server_log import ServerLog


def test_a_line_has_time_event_and_values(capfd):
    ServerLog(False).info("request", path="/a b", status=200)
    line = capfd.readouterr().err
    stamp, rest = line.split(" ", 1)
    assert rest == "request path=/a b status=200\n"
    assert len(stamp) == len("2026-01-01T00:00:00.000Z")


def test_an_event_never_takes_more_than_its_line(capfd):
    ServerLog(False).warning("a\nb", path="/x\r\ny\x1b[2J")
    [line] = capfd.readouterr().err.splitlines()
    assert "warning: " in line
    assert "\x1b" not in line


def test_json_lines_are_objects(capfd):
    log = ServerLog(True)
    log.info("request", path='/"\n', status=200)
    log.failure("no", ValueError("why"), trace=True)
    first, second = map(json.loads, capfd.readouterr().err.splitlines())
    assert first["level"] == "info"
    assert (first["event"], first["path"], first["status"]) == ("request", '/"\n', 200)
    assert first["process"] == os.getpid()
    assert second["error"] == "why"
    assert "ValueError: why" in second["traceback"]


def test_an_error_without_words_is_named_by_its_type(capfd):
    ServerLog(False).failure("no", KeyError())
    assert "error: no error=KeyError" in capfd.readouterr().err


def test_tracebacks_follow_their_line(capfd):
    try:
        raise ValueError("why")
    except ValueError as error:
        ServerLog(False).failure("no", error, trace=True)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith("error: no error=why")
    assert lines[1].startswith("Traceback")


def logged_to(standard_error, lines=3, flush=2.0):
    """Log in a process with this standard error; return what it counted as lost, and whether it hung."""
    code = f"""
        import json, sys
        from freerun.server.server_log import ServerLog
        lost = []
        log = ServerLog(True, lambda: lost.append(1))
        for number in range({lines}):
            log.info("x" * 100, number=number)
        log.flush({flush})
        print(len(lost))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        stderr=standard_error,
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    return int(done.stdout)


def test_lines_that_a_full_disk_rejects_are_counted():
    with Path("/dev/full").open("wb") as full:
        assert logged_to(full) == 3


def test_a_closed_pipe_does_not_end_the_service():
    out, into = os.pipe()
    os.close(out)
    try:
        assert logged_to(into) == 3
    finally:
        os.close(into)


def test_a_pipe_that_is_not_read_does_not_stop_the_service():
    out, into = os.pipe()
    try:
        lost = logged_to(into, lines=12_000, flush=0.2)
        assert 500 < lost < 2500  # those beyond the pipe and the queue
    finally:
        os.close(out)
        os.close(into)


def test_lines_are_written_in_their_order():
    out, into = os.pipe()
    assert logged_to(into, lines=50) == 0
    os.close(into)
    with os.fdopen(out) as file:
        assert [json.loads(line)["number"] for line in file] == list(range(50))


@pytest.mark.parametrize("value", ["\ud800", "\x00", "é"])
def test_any_text_can_be_logged(capfd, value):
    ServerLog(False).info("x", path=value)
    ServerLog(True).info("x", path=value)
    assert len(capfd.readouterr().err.splitlines()) == 2
