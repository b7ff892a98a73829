"""The journal: one JSON object per event, in chronological order."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from freerun.errors import RunError
from freerun.files import write_atomic

__all__ = ["Journal", "read_journal"]


class Journal:
    """Appends events to a JSON Lines file. An event outlives the process as soon as ``write`` returns.

    The file is open only while it is written, because events are rare. Methods raise RunError if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, update: int, **values: Any) -> None:
        """Append ``{"event": ..., "update": ..., **values}``; only times may differ between equal runs."""
        with self._opened() as handle:
            handle.write(_line(event, update, values))

    def size(self) -> int:
        """Return the number of bytes that would survive a power cut: a checkpoint's position in the journal."""
        with self._opened() as handle:
            os.fsync(handle.fileno())
            return os.fstat(handle.fileno()).st_size

    def hash(self, size: int) -> str:
        """Return the SHA-256 (hex) of the first ``size`` bytes, which a checkpoint records."""
        return hashlib.sha256(self._beginning(size)).hexdigest()

    def holds(self, size: int, sha256: str) -> bool:
        """Return True if the journal begins with ``size`` bytes that have this SHA-256."""
        beginning = self._beginning(size)
        return len(beginning) == size and hashlib.sha256(beginning).hexdigest() == sha256

    def clear(self) -> None:
        """Remove all events: the run starts again."""
        with self._opened() as handle:
            handle.truncate(0)

    def resume(self, size: int, update: int, **values: Any) -> None:
        """Replace everything after the first ``size`` bytes by a ``resume`` event, atomically.

        These bytes are the events up to the checkpoint that a run resumes from.
        """
        beginning = self._beginning(size)
        if len(beginning) < size:
            raise RunError(
                self.path,
                f"the journal has {len(beginning)} bytes, the checkpoint was written after {size}",
                "Expected the journal that belongs to the checkpoints next to it",
                "Put it back, or train again into another directory with --out",
            )
        with self._as_run_error():
            write_atomic(self.path, beginning + _line("resume", update, values))

    def _beginning(self, size: int) -> bytes:
        try:
            with self.path.open("rb") as handle:
                return handle.read(size)
        except OSError as error:
            raise RunError(
                self.path,
                f"the journal cannot be read ({error.strerror or error})",
                "Expected the journal of the checkpoints next to it",
                "Put it back, or train again into another directory with --out",
            ) from error

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        with self._as_run_error(), self.path.open("ab") as handle:
            yield handle

    @contextlib.contextmanager
    def _as_run_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                self.path,
                f"the journal could not be written ({error.strerror or error})",
                "Expected enough disk space and permission to write",
                "Free disk space, then rerun with --resume",
            ) from error


def _line(event: str, update: int, values: Mapping[str, Any]) -> bytes:
    content = {"event": event, "update": update, **values}
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_journal(path: Path, size: int | None = None) -> list[Mapping[str, Any]]:
    """Return all complete events of a journal, or of its first ``size`` bytes.

    A line that a crash truncated or damaged is left out, with everything after it.
    """
    if not path.exists():
        return []
    events: list[Mapping[str, Any]] = []
    for line in path.read_bytes()[:size].splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not _is_event(event):
            break
        events.append(event)
    return events


def _is_event(event: object) -> bool:
    """Return True for an event as ``Journal.write`` writes it: readers rely on these two keys."""
    return isinstance(event, dict) and type(event.get("event")) is str and type(event.get("update")) is int
