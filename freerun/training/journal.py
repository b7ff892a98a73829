"""The journal: one JSON object an event, in the order in which they happened."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freerun.errors import RunError

__all__ = ["Journal", "read_journal"]


class Journal:
    """Appends events to a JSON Lines file; a line is on disk before ``write`` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = path.open("ab")

    def write(self, event: str, update: int, **figures: Any) -> None:
        """Append ``{"event": ..., "update": ..., **figures}``. Keys in seconds are the only ones that may differ between runs."""
        line = json.dumps({"event": event, "update": update, **figures}, ensure_ascii=False, allow_nan=False)
        self._handle.write(line.encode() + b"\n")
        self._handle.flush()

    def size(self) -> int:
        """Bytes written and safely on disk: what a checkpoint remembers as its place in the journal."""
        self._handle.flush()
        os.fsync(self._handle.fileno())
        return self.path.stat().st_size

    def cut_back(self, size: int) -> None:
        """Forget everything after the first ``size`` bytes: the events after the checkpoint that a run goes on from."""
        if self.path.stat().st_size < size:
            raise RunError(
                self.path,
                f"the journal has {self.path.stat().st_size} bytes, the checkpoint was written after {size}",
                "Expected the journal that belongs to the checkpoints beside it",
                "Put it back, or train again into another folder",
            )
        self._handle.truncate(size)

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


def read_journal(path: Path) -> list[Mapping[str, Any]]:
    """All whole events of a journal; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    events = []
    for line in path.read_bytes().split(b"\n"):
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events
