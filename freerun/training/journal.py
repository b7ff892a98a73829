"""The journal: one JSON object an event, in the order in which they happened."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freerun.errors import RunError

__all__ = ["Journal", "read_journal"]


class Journal:
    """Appends events to a JSON Lines file. An event outlives the process as soon as ``write`` returns.

    Every method but ``close`` raises RunError when the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._writing():
            self._handle = path.open("ab")

    def write(self, event: str, update: int, **figures: Any) -> None:
        """Append ``{"event": ..., "update": ..., **figures}``; only keys in seconds may differ between equal runs."""
        line = json.dumps({"event": event, "update": update, **figures}, ensure_ascii=False, allow_nan=False)
        with self._writing():
            self._handle.write(line.encode() + b"\n")
            self._handle.flush()

    def size(self) -> int:
        """Bytes that would survive a power cut: what a checkpoint remembers as its place in the journal."""
        with self._writing():
            self._handle.flush()
            os.fsync(self._handle.fileno())
            return self.path.stat().st_size

    def cut_back(self, size: int) -> None:
        """Forget everything after the first ``size`` bytes: the events after the checkpoint that a run goes on from."""
        present = self.path.stat().st_size
        if present < size:
            raise RunError(
                self.path,
                f"the journal has {present} bytes, the checkpoint was written after {size}",
                "Expected the journal that belongs to the checkpoints beside it",
                "Put it back, or train again into another folder with --out",
            )
        with self._writing():
            self._handle.truncate(size)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # what could not be written has been told before
            self._handle.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                self.path,
                f"the journal could not be written ({error.strerror or error})",
                "Expected room and permission to write",
                "Make room, then go on with --resume",
            ) from error


def read_journal(path: Path) -> list[Mapping[str, Any]]:
    """All whole events of a journal; a last line that a crash cut short, and anything after it, is left out."""
    if not path.exists():
        return []
    events: list[Mapping[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            break
        if not isinstance(event, dict):
            break
        events.append(event)
    return events
