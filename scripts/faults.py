"""Try every command under operating system faults, and print the table of commands and faults.

Examples:
  python scripts/faults.py                                   everything, in about a minute
  python scripts/faults.py --command export --fault killed   one cell
  python scripts/faults.py --json faults.json                including all messages

The exit code is 1 if a requirement is violated. Write faults need a C compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.faults.table import COMMANDS, FAULTS, Cell, run_table


def main() -> int:
    """Run the cells and print them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", action="append", choices=COMMANDS, default=[])
    parser.add_argument("--fault", action="append", choices=FAULTS, default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        parser.error("no C compiler: install gcc or clang")
    with tempfile.TemporaryDirectory() as folder:
        cells = run_table(Path(folder), compiler, tuple(options.command), tuple(options.fault))
    if options.json:
        options.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    print(as_table(cells))
    wrong = [cell for cell in cells if cell.problems]
    for cell in wrong:
        print(f"\n{cell.command}, {cell.fault}: {'; '.join(cell.problems)}\n  {cell.message}")
    return int(bool(wrong))


def as_table(cells: list[Cell]) -> str:
    """Return a Markdown table of exit codes, one row per command; ! marks violations, - faults that do not apply."""
    faults = list(dict.fromkeys(cell.fault for cell in cells))
    commands = list(dict.fromkeys(cell.command for cell in cells))
    by_place = {(cell.command, cell.fault): f"{cell.code}{' !' if cell.problems else ''}" for cell in cells}
    rows = [["command", *faults], ["---"] * (len(faults) + 1)]
    rows += [[f"`{name}`", *(by_place.get((name, fault), "-") for fault in faults)] for name in commands]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
