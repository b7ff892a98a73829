"""Signs of life: each rank counts up in the store, and a rank that waits for it watches the count."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any, Final

__all__ = ["INTERVAL", "SILENCE", "SignsOfLife", "Watch"]

SILENCE: Final = 20.0
"""Seconds without a sign of life after which a rank counts as dead."""
INTERVAL: Final = 1.0
"""Seconds between signs of life."""


class Watch:
    """Notices when a count of signs of life stands still."""

    def __init__(self) -> None:
        self._count, self._since, self._looked = -1, time.monotonic(), time.monotonic()

    def is_silent(self, count: int, seconds: float) -> bool:
        """Return True if the count has been the same for so many seconds."""
        now = time.monotonic()
        if count != self._count or now - self._looked > seconds / 2:  # this process itself may have been suspended
            self._count, self._since = count, now
        self._looked = now
        return now - self._since > seconds


class SignsOfLife:
    """Counts up in the store, in a thread; asks this process to stop when the process that started it is gone."""

    def __init__(self, store: Any, rank: int) -> None:
        self._store, self._key = store, f"alive/{rank}"
        self._ended = threading.Event()
        self._parent = os.getppid()
        # a process that a person has started outlives the shell, if nohup says so
        self._has_launcher = "TORCHELASTIC_RUN_ID" in os.environ
        self._thread = threading.Thread(target=self._run, daemon=True, name="freerun-alive")
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL):
            if self._has_launcher and os.getppid() != self._parent:
                # nothing would restart this process, or report its end; the first signal saves a checkpoint
                os.kill(os.getpid(), signal.SIGTERM)
                return
            with contextlib.suppress(RuntimeError):  # a rank that waits for this one finds the store gone as well
                self._store.add(self._key, 1)
