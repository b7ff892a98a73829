"""A process that answers requests, forked from the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import select
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import uvicorn

from freerun.server.api_keys import ApiKeys
from freerun.server.batch_runner import BatchRunner
from freerun.server.connection import Connection, ConnectionRules
from freerun.server.counts import CountTable
from freerun.server.listener import BACKLOG, reject_new_clients
from freerun.server.serve_settings import ServeSettings
from freerun.server.served_models import ServedModel
from freerun.server.server_log import ServerLog
from freerun.server.service import Service
from freerun.server.service_state import ServiceState

__all__ = ["WorkerSetup", "run_worker"]

_AT_ONCE: Final = 16
"""Connections that one of several workers accepts at a time, so that the others get some, too."""
_IDLE: Final = 1.0
"""Seconds that idle connections stay open when the worker ends: a request may be on its way."""
_LAST_CLIENTS: Final = (0.1, 2.0)
"""Seconds, at least and at most, in which connections that were made before the service stopped are accepted."""
_SILENCE: Final = 10.0
"""Seconds between two reports of the same error of the event loop."""
_SETTLING: Final = 0.1
"""Seconds in which asyncio makes connections of the last clients that it has accepted: it takes some rounds."""


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """What a worker gets from the supervisor.

    Attributes:
        settings: the service's.
        models: by name.
        keys: those that clients must show, or None.
        listener: the socket that all workers accept from.
        table: the counts of all processes.
        row: the worker's own row in it.
        supervisor: a pipe that is at its end when the supervisor has died.
        ready: a pipe to write a byte to when the worker answers.
    """

    settings: ServeSettings
    models: Mapping[str, ServedModel]
    keys: ApiKeys | None
    listener: socket.socket
    table: CountTable
    row: int
    supervisor: int
    ready: int


def run_worker(setup: WorkerSetup) -> None:
    """Answer requests until SIGTERM or the supervisor's death, then finish what runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the supervisor decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    gc.freeze()  # objects of before the fork stay shared memory
    asyncio.run(_serve(setup))


async def _serve(setup: WorkerSetup) -> None:
    settings = setup.settings
    counts = setup.table.row(setup.row)
    log = ServerLog(settings.log_json, partial(counts.add, "lost_log_lines"))
    asyncio.get_running_loop().set_exception_handler(_LoopErrors(log))
    logging.getLogger("uvicorn.error").addHandler(_UvicornErrors(log))
    logging.getLogger("uvicorn.error").propagate = False
    runner = BatchRunner(settings.queue, counts, log)
    rules = ConnectionRules(
        read_timeout=settings.read_timeout,
        keep_alive=settings.keep_alive,
        maximum=settings.max_connections,
        counts=counts,
    )
    state = ServiceState(
        settings=settings,
        models=setup.models,
        keys=setup.keys,
        runner=runner,
        counts=counts,
        table=setup.table,
        log=log,
        rules=rules,
    )
    config = uvicorn.Config(
        Service(state),
        http=partial(Connection, rules=rules),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG if settings.workers == 1 else _AT_ONCE,
    )
    server = _WorkerServer(config, setup, state)
    await server.serve(sockets=[setup.listener])
    if server.lost:
        log.warning("ended before all requests were answered", requests=server.lost)
    log.flush()


class _WorkerServer(uvicorn.Server):
    """uvicorn's server, which ends by finishing what runs."""

    def __init__(self, config: uvicorn.Config, setup: WorkerSetup, service: ServiceState) -> None:
        super().__init__(config)
        self._setup, self._rules = setup, service.rules
        self._runner, self._counts, self._log = service.runner, service.counts, service.log
        self.lost = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGTERM end the server; uvicorn would take SIGINT, too."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end)
        loop.add_reader(self._setup.supervisor, self._end_alone)
        try:
            yield
        finally:
            loop.remove_reader(self._setup.supervisor)

    def _end_alone(self) -> None:
        """End because the supervisor has died, and do what it would have done first."""
        reject_new_clients(self._setup.listener)
        self._end()

    def _end(self) -> None:
        self.should_exit = True
        asyncio.get_running_loop().remove_reader(self._setup.supervisor)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._setup.listener.listen(BACKLOG)  # which uvicorn may have set to _AT_ONCE
        with contextlib.suppress(OSError):
            os.write(self._setup.ready, b"1")
        os.close(self._setup.ready)

    async def on_tick(self, counter: int) -> bool:
        """Report the queue's length ten times a second, and look after connections once."""
        self._counts.set("queue_texts", self._runner.waiting)
        if counter % 10 == 0:
            self._counts.set("connections", len(self.server_state.connections))
            self._check_connections()
        return await super().on_tick(counter)

    def _check_connections(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in self._connections():
            try:
                connection.check_progress(now)
            except Exception as error:  # noqa: BLE001 (one client must not end the worker)
                self._log.failure("a connection failed", error, trace=True)
                connection.transport.abort()

    def _connections(self) -> list[Connection]:
        """Return those that are open now; uvicorn knows several kinds."""
        return [each for each in self.server_state.connections if isinstance(each, Connection)]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was asked, within ``drain`` seconds; then close."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline = now + self._setup.settings.drain
        self._rules.is_draining = True
        await self._accept_last_clients()
        for server in self.servers:
            server.close()
        await asyncio.sleep(_SETTLING)
        for connection in self._connections():
            connection.shutdown()
        while self.server_state.connections and loop.time() < deadline:
            await asyncio.sleep(0.02)
            if loop.time() - now > _IDLE:
                self._close_idle()
        self.lost = sum(not each.is_idle for each in self._connections())
        for connection in self._connections():
            connection.transport.abort()

    async def _accept_last_clients(self) -> None:
        """Wait until no client waits to be accepted: new workers accept them, or attempts to connect are dropped."""
        at_least, at_most = _LAST_CLIENTS
        await asyncio.sleep(at_least)
        for _ in range(round(at_most / at_least)):
            if not select.select([self._setup.listener], [], [], 0)[0]:
                return
            await asyncio.sleep(at_least)

    def _close_idle(self) -> None:
        for connection in self._connections():
            if connection.is_idle and connection.dropping_until is None:
                connection.transport.close()
        self._check_connections()


class _UvicornErrors(logging.Handler):
    """Passes uvicorn's errors on to the log; its warnings are about requests that clients got wrong."""

    def __init__(self, log: ServerLog) -> None:
        super().__init__(logging.ERROR)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError):  # a request that did not end within ``drain``, which is counted
            return
        self._log.failure("the application failed", error, trace=True, message=record.getMessage().strip())


class _LoopErrors:
    """Logs errors of the event loop, outside of requests: each kind once per ``_SILENCE`` seconds."""

    def __init__(self, log: ServerLog) -> None:
        self._log = log
        self._logged: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an error: asyncio's ``exception_handler``."""
        message, error = context.get("message", "unexpected"), context.get("exception")
        if loop.time() - self._logged.get(message, -_SILENCE) >= _SILENCE:
            self._logged[message] = loop.time()
            # one of the operating system, such as too many open files, is no mistake of ours
            self._log.failure(message, error, trace=not isinstance(error, OSError))
