from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from typer.core import TyperGroup
from typer.main import get_command

import freerun as package
from freerun.cli import app
from tests.cli.conftest import Freerun

ROOT = Path(__file__).parents[2]


def commands(command: click.Command, name: str = "") -> Iterator[str]:
    """The command and all below it, in the order of the documentation."""
    yield name
    if isinstance(command, TyperGroup):
        for word, each in command.commands.items():
            yield from commands(each, f"{name} {word}".lstrip())


COMMANDS = list(commands(get_command(app)))


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_help_teaches_every_command(freerun: Freerun, command: str) -> None:
    result = freerun(*command.split(), "--help")
    assert result.code == 0
    assert f"freerun {command}" in result.out


def test_the_command_reference_is_up_to_date() -> None:
    script = ROOT / "scripts" / "command_reference.py"
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "docs" / "commands.md").read_text()


def test_the_command_reference_has_every_command() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    assert re.findall(r"^## freerun ?(.*)$", page, re.MULTILINE) == COMMANDS
    assert {"diagnose", "study", "export", "data make"} <= set(COMMANDS)


def test_the_version(freerun: Freerun) -> None:
    assert freerun("--version").out == f"freerun {package.__version__}\n"


def test_no_arguments_show_help(freerun: Freerun) -> None:
    result = freerun()
    assert result.code == 2
    assert "Usage: freerun" in result.err and "error" not in result.err


@pytest.mark.parametrize("arguments", [("trian",), ("train", "--bogus"), ("predict",)])
def test_wrong_usage_is_told_in_one_line(freerun: Freerun, arguments: tuple[str, ...]) -> None:
    result = freerun(*arguments)
    assert result.code == 2
    assert result.err.startswith("error: freerun") and result.err.count("\n") == 1


def test_everything_public_can_be_imported() -> None:
    assert sorted(package.__all__) == package.__all__
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.__getattr__("nothing")


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, freerun, freerun.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0


def test_every_module_lists_what_it_offers() -> None:
    for path in sorted((ROOT / "freerun").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", []):
            assert hasattr(module, public), f"{name}.{public}"
