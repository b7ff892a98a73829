"""How torch's threads wait: the command line decides, unless the user has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from freerun.cli import set_wait_policy


def test_threads_spin_briefly_and_then_sleep():
    environment = {"PATH": "/bin"}
    set_wait_policy(environment)
    assert environment == {"PATH": "/bin", "GOMP_SPINCOUNT": "2000"}


@pytest.mark.parametrize("variable", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_what_the_user_has_set_remains(variable):
    environment = {variable: "something"}
    set_wait_policy(environment)
    assert environment == {variable: "something"}


def test_a_command_sets_it_before_torch_is_imported():
    code = (
        "import os, sys; from freerun.cli import main; assert 'torch' not in sys.modules; main(['data', 'list']); "
        "print(os.environ['GOMP_SPINCOUNT'])"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "2000"
