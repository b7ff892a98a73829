"""Print docs/commands.md: the help of every command, as the commands themselves print it.

python scripts/command_reference.py > docs/commands.md
"""

from __future__ import annotations

import os
import subprocess
import sys

COMMANDS = ("", "train", "predict", "score", "evaluate", "compare", "inspect", "data", "data list", "data make")


def help_of(command: str) -> str:
    """What ``freerun COMMAND --help`` prints, at a fixed width."""
    environment = {**os.environ, "COLUMNS": "110", "TERMINAL_WIDTH": "110", "NO_COLOR": "1"}
    arguments = [sys.executable, "-m", "freerun", *command.split(), "--help"]
    return subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout


def main() -> None:
    """Write the page to standard output."""
    print("# Commands\n\nMade by `python scripts/command_reference.py > docs/commands.md`; a test keeps it true.")
    for command in COMMANDS:
        text = "\n".join(line.rstrip() for line in help_of(command).strip().splitlines())
        print(f"\n## freerun {command}".rstrip() + f"\n\n```\n{text}\n```")


if __name__ == "__main__":
    main()
