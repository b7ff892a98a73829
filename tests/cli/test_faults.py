"""Every command under every fault of the operating system: tests/faults/table.py says what has to hold."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import typer.main

from freerun.cli import app
from tests.compiled import COMPILER
from tests.faults.table import COMMANDS, FAULTS, Cell, run_table
from tests.trained import once

WRITING = {"--out", "--output", "--html"}
"""Options that name a file or directory to write."""


def leaves(command, name=""):
    """Every command without subcommands, by its full name."""
    if not hasattr(command, "commands"):
        return {name: command}
    return {
        key: leaf for word, each in command.commands.items() for key, leaf in leaves(each, f"{name} {word}").items()
    }


EVERY = {name.strip(): command for name, command in leaves(typer.main.get_command(app)).items()}


@pytest.fixture(scope="session")
def cells(tmp_path_factory):
    """What became of every command under every fault, by (command, fault)."""
    if COMPILER is None:
        if os.environ.get("FREERUN_SANITIZERS") == "required":
            pytest.fail("no C compiler")
        pytest.skip("no C compiler: install gcc or clang")

    def make(folder: Path) -> None:
        found = run_table(folder, COMPILER)
        for scenes in folder.glob("*/scenes"):
            shutil.rmtree(scenes)
        (folder / "table.json").write_text(json.dumps([asdict(cell) for cell in found]))

    folder = once(tmp_path_factory, "faults", make)
    found = [Cell(**each) for each in json.loads((folder / "table.json").read_text())]
    return {(cell.command, cell.fault): cell for cell in found}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_fault_loses_nothing_and_is_told(cells, command, fault):
    cell = cells.get((command, fault))
    if cell is None:  # nothing is written, or nothing is locked
        assert not COMMANDS[command].locks
        assert not FAULTS[fault].streams
        return
    assert cell.problems == []
    assert cell.code != 2 or cell.message.startswith("error: ") or fault == "stderr closed"


def test_every_command_and_every_option_that_writes_is_in_the_table():
    tried = [" ".join(command.arguments) for command in COMMANDS.values()]
    for name, command in EVERY.items():
        if name == "serve":  # it writes nothing; what faults do to its log is in test_serve_chaos
            continue
        lines = [line for line in tried if f"{line} ".startswith(f"{name} ")]
        assert lines, f"{name} is not in the table"
        options = {option for parameter in command.params for option in parameter.opts} & WRITING
        for option in options:
            assert any(f" {option} " in line for line in lines), f"{name} {option} is not in the table"


@pytest.mark.slow
def test_what_writes_to_disk_is_tried_with_faults_of_writing(cells):
    writing = {name for name, command in COMMANDS.items() if command.locks or {*command.arguments} & WRITING}
    faults = {name for name, fault in FAULTS.items() if fault.writes or fault.lock}
    assert {name for name, fault in cells if fault in faults} == writing
    assert all((name, fault) in cells for name in writing for fault in faults)
