"""Training processes, as a study starts them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from freerun.lock import BUSY_MESSAGE

__all__ = ["TrainingProcess"]


class TrainingProcess:
    """``freerun train`` with these arguments; its messages are appended to ``log``.

    ``start_time`` is in seconds since 1970.
    """

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.start_time = time.time()
        self._log = log
        with log.open("ab") as out:
            self._logged = out.tell()
            # a separate group: Ctrl-C is sent to the study, which passes it on once
            self._process = subprocess.Popen(
                [sys.executable, "-m", "freerun", "train", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=dict(environment),
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Return the exit code, None while it trains."""
        return self._process.poll()

    def was_locked_out(self) -> bool:
        """Return True if the process ended because another one trains this run.

        The part of the log that it wrote says so. The lock may be free again by now, and the other process may write to
        the same log.
        """
        with self._log.open("rb") as log:
            log.seek(self._logged)
            return self._process.returncode == 2 and BUSY_MESSAGE.encode() in log.read()

    def request_stop(self) -> None:
        """Request a checkpoint and the end of the training."""
        self._process.send_signal(signal.SIGTERM)

    def request_checkpoint(self) -> None:
        """Request a checkpoint; only a process that holds the lock of its run handles the signal."""
        if sys.platform != "win32":
            self._process.send_signal(signal.SIGUSR1)

    def wait(self) -> None:
        """Wait for the end."""
        self._process.wait()
