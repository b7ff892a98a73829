"""Starts the processes of a training on this machine, with torch's elastic agent, and starts them again if one dies.

The agent watches the processes: when one is killed it stops the others and starts all of them anew, and they resume
from the last checkpoint. They meet in a store in this process, which listens on this machine's loopback interface only.
For several machines there is torchrun, which starts the same processes.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous.api import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from freerun.distributed.status import DIRECTORY, read_statuses
from freerun.errors import RankError
from freerun.lock import holder

__all__ = ["launch"]

_LOOPBACK = "127.0.0.1"
# Windows has no SIGHUP
_STOPS = [signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
_STOPPING_SECONDS = 120
"""How long processes may take to save a checkpoint after a signal."""


class Request(Protocol):
    """A request for a checkpoint, as ``training.signals`` records it."""

    is_open: bool

    def take(self) -> bool:
        """Return True if a checkpoint was requested since the last call."""
        ...


def launch(
    arguments: Sequence[str],
    *,
    processes: int,
    max_restarts: int,
    lock: Path,
    requested: Request,
    say: Callable[[str], None],
) -> int:
    """Run ``freerun`` with these arguments in several processes, and return the exit code.

    Args:
        arguments: of the command line.
        processes: how many.
        max_restarts: how many times they are started again after one was killed.
        lock: of the run directory; while rank 0 holds it, it takes SIGUSR1 as a request for a checkpoint.
        requested: a request for a checkpoint, which is passed on to rank 0.
        say: prints a line.

    Raises:
        RankError: a process was killed, and no restarts are left.
    """
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(_signals_to_handle())
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch's own words about a lost connection fill a screen
    with tempfile.TemporaryDirectory(prefix="freerun-") as directory, _silent():
        statuses = Path(directory) / "statuses"
        statuses.mkdir()
        os.environ[DIRECTORY] = str(statuses)
        agent = _Agent(
            WorkerSpec(
                role="rank",
                local_world_size=processes,
                entrypoint=sys.executable,
                # -P: not what lies in the working directory; torch expands $, as in $local_rank
                args=("-P", "-m", "freerun", *(argument.replace("$", "$$") for argument in arguments)),
                rdzv_handler=_Loopback(),
                max_restarts=max_restarts,
                monitor_interval=0.1,
                local_addr=_LOOPBACK,
            ),
            DefaultLogsSpecs(log_dir=str(Path(directory) / "torch")),
            statuses,
            lock,
            requested,
            say,
        )
        try:
            result = agent.run()
        except SignalException as error:
            return _code(read_statuses(statuses), 128 + error.sigval)
        finally:
            del os.environ[DIRECTORY]
        if agent.stopped:
            return 128 + agent.stopped
        if result.is_failed():
            raise RankError(
                "freerun train",
                f"{agent.deaths}, and this was the last of {max_restarts + 1} attempts",
                "Expected all processes to train to the end",
                "Check whether memory ran out (fewer processes or a lower training.batch_size need less), then rerun "
                "with --resume",
            )
        found = read_statuses(statuses)
        code = _code(found, 1)
        if all(status["lost"] for status in found.values()) and found:
            say(f"error: {found[min(found)]['lost']}")  # nobody else has said it
            code = 2
        return code


def _signals_to_handle() -> list[str]:
    """Return the signals that stop a training; SIGHUP only if it is not ignored, as under nohup."""
    return [number.name for number in _STOPS if signal.getsignal(number) is not signal.SIG_IGN]


def _code(statuses: Any, otherwise: int) -> int:
    """Return the exit code of the lowest rank that ended for a reason of its own."""
    for _, status in sorted(statuses.items()):
        if not status["lost"]:
            return int(status["code"])
    return otherwise


class _Agent(LocalElasticAgent):
    """torch's agent, with words for a person, and with SIGUSR1 passed on to rank 0."""

    def __init__(
        self,
        spec: WorkerSpec,
        logs: DefaultLogsSpecs,
        statuses: Path,
        lock: Path,
        requested: Request,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(spec, logs, start_method="spawn", shutdown_timeout=_STOPPING_SECONDS)
        self.deaths, self.stopped = "", 0
        self._statuses, self._lock, self._requested, self._say = statuses, lock, requested, say

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # when a terminal is closed, two may come
        super()._shutdown(death_sig, timeout)

    def _monitor_workers(self, worker_group: WorkerGroup) -> Any:
        result = super()._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED:
            codes = {rank: failure.exitcode for rank, failure in sorted(result.failures.items())}
            self.deaths = _deaths(codes)
            if self.stopped or all(-code in _STOPS for code in codes.values()):
                # a signal that came before the process was ready for it
                self.stopped, self._remaining_restarts = self.stopped or -next(iter(codes.values())), 0
            elif self._remaining_restarts:
                number = worker_group.spec.max_restarts - self._remaining_restarts + 1
                self._say(
                    f"{self.deaths}. Starting all processes again, from the last checkpoint if there is one (restart "
                    f"{number} of at most {worker_group.spec.max_restarts})."
                )
                self._forget_statuses()
        # before it holds the lock, the process would not survive the signal
        is_healthy = result.state == WorkerState.HEALTHY
        if is_healthy and self._requested.is_open and holder(self._lock) is not None and self._requested.take():
            os.kill(int(worker_group.workers[0].id), signal.SIGUSR1)
        return result

    def _forget_statuses(self) -> None:
        for path in self._statuses.glob("*.json"):
            path.unlink()


def _deaths(codes: Mapping[int, int]) -> str:
    """Describe how processes ended, by rank; those that the agent itself stopped, with SIGTERM, only if all were."""
    others = {rank: code for rank, code in codes.items() if code != -signal.SIGTERM}
    return " and ".join(_death(rank, code) for rank, code in (others or codes).items())


def _death(rank: int, code: int) -> str:
    if code < 0:
        return f"rank {rank} was killed by {signal.Signals(-code).name}"
    return f"rank {rank} ended with exit code {code}"


class _Loopback(RendezvousHandler):
    """Where the processes of one machine meet: a new store for each attempt, on the loopback interface."""

    def __init__(self) -> None:
        self._store: TCPStore | None = None

    def get_backend(self) -> str:
        return "loopback"

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        listener = socket.create_server((_LOOPBACK, 0), backlog=1024)
        port = listener.getsockname()[1]
        self._store = TCPStore(
            _LOOPBACK,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(minutes=5),
            master_listen_fd=listener.detach(),
        )
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo(_LOOPBACK, port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        self._store = None

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return f"freerun-{os.getpid()}"

    def shutdown(self) -> bool:
        return True


@contextmanager
def _silent() -> Iterator[None]:
    """Silence torch's launcher within the block: what it reports is reported here, in fewer words."""
    loggers = [
        logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")
    ]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
