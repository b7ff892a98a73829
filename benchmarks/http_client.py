"""An HTTP client for measurements: one request at a time on a connection, as fast as Python can."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httptools

__all__ = ["Answer", "Clients", "Request", "arrivals"]

_LONGEST_IDLE = 5.0
"""Seconds after which a connection is not used again: a request might meet the service's --keep-alive."""


@dataclass(frozen=True)
class Request:
    """The bytes of a request. ``kind`` names it in tables."""

    kind: str
    content: bytes
    expected: int = 200

    @classmethod
    def of(
        cls,
        kind: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        expected: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Request:
        """Return a POST with this body, which may be JSON, or a GET without one."""
        given = {"Content-Type": "application/json", **(headers or {})} if body is not None else dict(headers or {})
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in given.items()]
        head = "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""])
        return cls(kind, head.encode() + content, expected)


@dataclass(slots=True)
class Answer:
    """What came back: ``status`` is 0 if the connection failed, with ``error``. Times are of the loop, in seconds."""

    sent: float
    seconds: float = 0.0
    status: int = 0
    body: bytes = b""
    error: str = ""


Done = Callable[[Request, Answer], None]


@dataclass(slots=True)
class _Waiting:
    """A request that waits for its answer, with which ``done`` is called."""

    request: Request
    answer: Answer
    done: Done
    chunks: list[bytes] = field(default_factory=list)


class _Connection(asyncio.Protocol):
    """A connection to the service; ``_waiting`` is its request without an answer."""

    def __init__(self, clients: Clients, waiting: _Waiting) -> None:
        self._clients = clients
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: _Waiting | None = waiting
        self.is_open = True
        self.idle_since = 0.0
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: Any) -> None:
        """Send the first request."""
        self._transport = transport
        if self._waiting is not None:
            self._transport.write(self._waiting.request.content)

    @property
    def is_usable(self) -> bool:
        """Return True unless the service has closed it, or is about to."""
        if self.is_open and time.perf_counter() - self.idle_since > _LONGEST_IDLE:
            self.close()
        return self.is_open

    def send(self, waiting: _Waiting) -> None:
        """Send a further request."""
        self._waiting = waiting
        self._transport.write(waiting.request.content)

    def data_received(self, data: bytes) -> None:
        """Parse an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}")
            self._transport.abort()

    def on_body(self, body: bytes) -> None:
        """Keep part of a body."""
        if self._waiting is not None:
            self._waiting.chunks.append(body)

    def on_message_complete(self) -> None:
        """Hand out the answer."""
        status, keeps = self._parser.get_status_code(), self._parser.should_keep_alive()
        waiting, self._waiting = self._waiting, None
        self.idle_since = time.perf_counter()
        if not keeps:
            self.close()
        if waiting is not None:
            waiting.answer.status, waiting.answer.body = status, b"".join(waiting.chunks)
            self._clients.finish(waiting)
        if keeps:
            self._clients.idle.append(self)

    def close(self) -> None:
        """Close the connection."""
        self.is_open = False
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Let the request fail that has no answer."""
        self._end("closed" if error is None else type(error).__name__)

    def _end(self, error: str) -> None:
        self.is_open = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.answer.error = error
            self._clients.finish(waiting)


class Clients:
    """Connections to a service: as many as there are requests at a time, but no more than ``maximum``."""

    def __init__(self, port: int, maximum: int) -> None:
        self._port, self.maximum = port, maximum
        self.idle: deque[_Connection] = deque()
        self.busy = self.most = 0
        self._connecting: set[asyncio.Task[None]] = set()

    async def ask(self, request: Request) -> Answer:
        """Send a request, and return the answer."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.start(request, lambda _, answer: future.set_result(answer))
        return await future

    def start(self, request: Request, done: Done) -> None:
        """Send a request on a connection that is free, or a new one; ``done`` is called with the answer."""
        answer = Answer(time.perf_counter())
        if self.busy >= self.maximum:
            answer.error = "not sent: all connections are busy"
            done(request, answer)
            return
        waiting = _Waiting(request, answer, done)
        self.busy += 1
        self.most = max(self.most, self.busy)
        while self.idle:
            connection = self.idle.pop()  # the one that was used last
            if connection.is_usable:
                connection.send(waiting)
                return
        task = asyncio.get_running_loop().create_task(self._connect(waiting))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, waiting: _Waiting) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Connection(self, waiting), "127.0.0.1", self._port)
        except OSError as error:
            waiting.answer.error = f"not connected: {type(error).__name__}"
            self.finish(waiting)

    def finish(self, waiting: _Waiting) -> None:
        """Note the time of an answer, and hand it out."""
        self.busy -= 1
        waiting.answer.seconds = time.perf_counter() - waiting.answer.sent
        waiting.done(waiting.request, waiting.answer)

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self.idle:
            connection.close()
        self.idle.clear()


async def arrivals(
    clients: Clients, rate: float, seconds: float, next_request: Callable[[], Request], done: Done
) -> list[float]:
    """Send requests at a fixed rate, however many wait; return how late each was sent, in seconds."""
    start, number, late = time.perf_counter(), 0, []
    while (now := time.perf_counter() - start) < seconds:
        due = int(now * rate)
        for each in range(number, due):
            late.append(now - each / rate)
            clients.start(next_request(), done)
        number = due
        await asyncio.sleep(0.001)
    return late
