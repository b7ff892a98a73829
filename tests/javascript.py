"""Node and what the examples need from npm: there, installed, or the test says what is missing."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def missing(what):
    """Skip, or fail where nothing may be left out."""
    if os.environ.get("FREERUN_BROWSER") == "required":
        pytest.fail(what)
    pytest.skip(what)


def program(name):
    """The path of ``node`` or ``npm``."""
    return shutil.which(name) or missing(f"no {name} on the PATH (Debian: nodejs, npm)")


def run(command, directory, env=None, **options):
    """The finished process; its output is shown when it fails."""
    environment = None if env is None else {**os.environ, **env}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, encoding="utf-8", timeout=300, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def installed(directory):
    """Install the packages of the directory's lock file and return it; safe for several test processes at once."""
    npm, lock = program("npm"), directory / "package-lock.json"
    stamp = directory / "node_modules" / ".installed"
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        wanted = hashlib.sha256(file.read()).hexdigest()
        if not (stamp.exists() and stamp.read_text() == wanted):
            run([npm, "ci"], directory)
            stamp.write_text(wanted)
    return directory


def answers(script, questions):
    """What a Node script makes of questions: JSON in, JSON out."""
    done = run([program("node"), str(script)], script.parent, input=json.dumps(questions))
    return json.loads(done.stdout)
