"""Inputs that users of comparable tools reported: streams, links, odd directories, and what is written into a home."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from freerun.cli import main
from tests.trained import once

SETTINGS = {"hidden_size": 32, "embedding_size": 16, "num_layers": 1}
FREERUN = f"{shlex.quote(sys.executable)} -m freerun"


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The run ``m`` on letters, its export ``x``, and the run ``mu`` that writes ä and б. Read only."""

    def make(folder):
        words = ["a", "b", "c", "d", "e", "ab", "ba", "cd", "dc", "abc", "cab", "dea"]
        (folder / "p.tsv").write_text("".join(f"{word}\t{word.upper()}\n" for word in words))
        (folder / "u.tsv").write_text("a\tä\nb\tб\nc\tä\nd\tб\n")
        chosen = [part for key, value in SETTINGS.items() for part in ("--set", f"model.{key}={value}")]
        chosen += ["--set", "training.updates=20", "--set", "training.threads=1"]
        assert main(["train", str(folder / "p.tsv"), "--out", str(folder / "m"), *chosen]) == 0
        assert main(["train", str(folder / "u.tsv"), "--out", str(folder / "mu"), *chosen]) == 0
        assert main(["export", str(folder / "m"), "--out", str(folder / "x")]) == 0

    return once(tmp_path_factory, "outside", make)


@pytest.fixture
def place(models, tmp_path):
    """A directory of one's own with links to the models, and the run ``own``, which may be written to."""
    for name in ("m", "x", "mu", "p.tsv"):
        (tmp_path / name).symlink_to(models / name)
    shutil.copytree(models / "m", tmp_path / "own")
    return tmp_path


def shell(folder, script, **environment):
    """Run a script; ``freerun`` is this freerun. Returns exit code, output and errors."""
    script = f'freerun() {{ {FREERUN} "$@"; }}\n{script}'
    every = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    done = subprocess.run(["sh", "-c", script], cwd=folder, env=every, capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.slow
def test_nothing_is_written_into_the_home(place):
    home = place / "home"
    home.mkdir()
    script = """
freerun predict x ab --beam-size 2 && freerun predict m ab --threads 1 && freerun export own && freerun predict own ab
freerun train p.tsv --out r --set training.updates=1 --set training.threads=1
freerun evaluate x --runtime onnx p.tsv && freerun diagnose m
"""
    script += f"{shlex.quote(sys.executable)} -c 'import freerun; freerun.load(\"x\")'"
    unset = dict.fromkeys(("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), "")
    code, _, err = shell(place, script, HOME=str(home), **unset)
    assert code == 0, err
    assert sorted(home.rglob("*")) == []


def test_telemetry_stays_as_the_user_has_set_it():
    code = "import os; from freerun.runtime.session import import_onnxruntime; import_onnxruntime()"
    for setting, expected in ({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0"):
        environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"} | setting
        environment["HOME"] = "/nonexistent"
        script = f"{code}; print(os.environ['ORT_DISABLE_TELEMETRY'])"
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.stdout == f"{expected}\n", done.stderr


def test_output_goes_through_a_link_to_an_open_file(place):
    (place / "out").symlink_to("/proc/self/fd/1")
    expected = shell(place, "freerun predict x ab")[1]
    code, out, _ = shell(place, "{ echo head; freerun predict x ab --output out; echo tail; } > got; cat got")
    assert (code, out) == (0, f"head\n{expected}tail\n")
    assert (place / "out").is_symlink()
    assert shell(place, "freerun predict x ab --output /dev/stdout | cat")[1] == expected


def test_output_follows_links_and_keeps_modes(place):
    (place / "real").write_text("old")
    (place / "link").symlink_to("real")
    (place / "secret").write_text("x")
    (place / "secret").chmod(0o600)
    expected = shell(place, "freerun predict x ab")[1]
    code, _, err = shell(place, "freerun predict x ab --output link && freerun predict x ab --output secret")
    assert code == 0, err
    assert (place / "link").is_symlink()
    assert (place / "real").read_text() == (place / "secret").read_text() == expected
    assert stat.S_IMODE((place / "secret").stat().st_mode) == 0o600


def test_a_directory_behind_a_link_is_exported_to_again_and_again(place):
    (place / "v1").mkdir()
    (place / "cur").symlink_to("v1")
    for stray in ("file", "directory"):
        (place / ".v1.old").touch() if stray == "file" else (place / ".v1.old").mkdir()
        assert main(["export", str(place / "m"), "--out", str(place / "cur")]) == 0
    assert (place / "cur").is_symlink()
    assert (place / "v1" / "greedy.onnx").exists()
    assert [name for name in os.listdir(place) if name.startswith(".")] == []


@pytest.mark.parametrize(("inside", "model"), [("best", "."), ("best", ".."), ("best/sub", ".."), ("", ".")])
def test_a_run_is_exported_from_inside(place, inside, model):
    (place / "own" / "best" / "sub").mkdir()
    code, out, err = shell(place / "own" / inside, f"freerun export {model}")
    assert code == 0, err
    assert out.startswith("Wrote ")
    assert (place / "own" / "best" / "greedy.onnx").exists()
    assert (place / "own" / "best" / "sub").is_dir()
    assert [name for name in os.listdir(place / "own") if name.startswith(".")] == []
    entered = place / "own" / inside
    told = f"Your current directory was replaced. To enter the new one: cd {entered}\n"
    assert err == (told if inside else "")


def test_closed_streams_are_like_the_null_device(place):
    (place / "words").write_text("zz\nab\n")
    expected = shell(place, "freerun predict x < words")[1]
    assert expected.count("\n") == 2
    assert shell(place, "freerun predict x < words 2>&-") == (0, expected, "")
    assert shell(place, "freerun predict x <&-") == (0, "", "")
    code, out, err = shell(place, "freerun predict x ab >&-")
    assert (code, out) == (0, "")
    assert "Traceback" not in err
    figures = shell(place, "freerun evaluate m --threads 1")[1]
    assert shell(place, "freerun evaluate m --threads 1 2>&-") == (0, figures, "")
    assert shell(place, "freerun predict x < words 2>/dev/full") == (0, expected, "")


def test_warnings_do_not_go_into_an_output_when_standard_error_is_closed(place):
    (place / "words").write_text("zz\n")
    assert shell(place, "freerun predict x --input words --output out 2>&-")[0] == 0
    assert (place / "out").read_text() == shell(place, "freerun predict x < words")[1]


def test_utf_8_is_written_whatever_the_locale(place):
    code, out, err = shell(place, "freerun predict mu a b --prefix б --threads 1", PYTHONIOENCODING="latin-1")
    assert code == 0, err
    assert [line[0] for line in out.splitlines()] == ["б", "б"]


@pytest.mark.parametrize("command", ["predict x ab", "inspect x", "data list", "--version", "--help", "train --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_a_sentence(place, command, unbuffered):
    code, _, err = shell(place, f"freerun {command} > /dev/full", PYTHONUNBUFFERED=unbuffered)
    told = "standard output: No space left on device. Expected enough space. Free some space, or write elsewhere."
    assert (code, err) == (2, f"error: {told}\n")


def test_a_full_output_is_a_sentence_with_its_name(place):
    code, out, err = shell(place, "freerun predict x ab --output /dev/full")
    told = "/dev/full: No space left on device. Expected enough space. Free some space, or write elsewhere."
    assert (code, out, err) == (2, "", f"error: {told}\n")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("loop", "cannot be written (Too many levels of symbolic links)"),
        ("m", "this is a directory"),
        ("missing/file", "cannot be written (No such file or directory)"),
        ("x" * 300, "cannot be written (File name too long)"),
        ("p.tsv/file", "cannot be written (Not a directory)"),
    ],
)
def test_an_output_that_cannot_be(place, freerun, path, told):
    (place / "loop").symlink_to("loop")
    found = freerun("predict", place / "x", "ab", "--output", place / path)
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith(f"error: {place / path}: {told}. Expected ")


def test_an_export_into_links_in_a_circle(place, freerun):
    (place / "loop").symlink_to("loop")
    found = freerun("export", place / "m", "--out", place / "loop")
    assert found.code == 2
    assert found.err.startswith(f"error: {place / 'loop'}: ")


def test_line_buffered_answers_before_the_next_line(place):
    command = [sys.executable, "-m", "freerun", "predict", "x", "--line-buffered"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "", "PYTHONPATH": str(Path(__file__).parents[2])}
    expected = shell(place, "freerun predict x ab zz")[1].splitlines(keepends=True)
    with subprocess.Popen(
        command, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        limit = threading.Timer(60, process.kill)  # if it waits for more input, so would the test
        limit.daemon = True
        limit.start()
        for text, answer in zip(("ab", "zz"), expected, strict=True):
            process.stdin.write(f"{text}\n".encode())
            process.stdin.flush()
            assert process.stdout.readline().decode() == answer
        out, err = process.communicate()
        limit.cancel()
    assert (process.returncode, out) == (0, b"")
    assert re.search(rb"[12] source tokens? (is|are) not in the vocabulary", err)


def test_line_buffered_gives_the_same_lines(place):
    (place / "words").write_text("ab\n\nzz\nba\n" * 3)
    plain = shell(place, "freerun predict x --input words --json")
    assert shell(place, "freerun predict x --input words --json --line-buffered") == plain


def test_a_reader_that_leaves_is_no_error(place):
    (place / "words").write_text("ab\n" * 20_000)
    started = time.monotonic()
    _, out, err = shell(place, "{ freerun predict x --input words; echo $? >&2; } | head -1")
    assert out.count("\n") == 1
    assert err.endswith("1\n")
    assert "Traceback" not in err
    assert "Exception" not in err
    assert time.monotonic() - started < 60
