"""How a process that the launcher started tells it how it ended.

torch's launcher starts all processes again when one ends with another exit code than 0. That is right for a process
that was killed, and wrong for a mistake in a configuration. So a process that ends by itself leaves its exit code in a
file and ends with 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["DIRECTORY", "is_launched", "read_statuses", "write_status"]

DIRECTORY = "FREERUN_STATUS_DIRECTORY"
"""The environment variable with the directory of these files."""


def is_launched() -> bool:
    """Return True if freerun's launcher started this process."""
    return DIRECTORY in os.environ


def write_status(code: int, lost: str = "") -> None:
    """Leave the exit code of this process; ``lost``: it ended only because another one did, with this message."""
    path = Path(os.environ[DIRECTORY]) / f"{os.environ['RANK']}.json"
    path.write_text(json.dumps({"code": code, "lost": lost}))


def read_statuses(directory: Path) -> Mapping[int, Mapping[str, Any]]:
    """Return what each rank has left, by rank; none of a process that was killed."""
    return {int(path.stem): json.loads(path.read_text()) for path in directory.glob("*.json")}
