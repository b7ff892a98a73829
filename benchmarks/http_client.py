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


@dataclass(slots=True)
class _Waiting:
    """A request that waits for its answer."""

    answer: Answer
    future: asyncio.Future[Answer]
    chunks: list[bytes] = field(default_factory=list)


class _Connection(asyncio.Protocol):
    """A connection to the service; ``waiting`` is its request without an answer."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._parser = httptools.HttpResponseParser(self)
        self.waiting: _Waiting | None = None
        self.is_open = True
        self.idle_since = 0.0
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    @property
    def is_usable(self) -> bool:
        """Return True unless the service has closed it, or is about to."""
        if self.is_open and time.perf_counter() - self.idle_since > _LONGEST_IDLE:
            self.close()
        return self.is_open

    def send(self, waiting: _Waiting, content: bytes) -> None:
        """Send a request."""
        self.waiting = waiting
        self._transport.write(content)

    def data_received(self, data: bytes) -> None:
        """Parse an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}")
            self._transport.abort()

    def on_body(self, body: bytes) -> None:
        """Keep part of a body."""
        if self.waiting is not None:
            self.waiting.chunks.append(body)

    def on_message_complete(self) -> None:
        """Hand out the answer."""
        status, keeps = self._parser.get_status_code(), self._parser.should_keep_alive()
        waiting, self.waiting = self.waiting, None
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
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.answer.error = error
            self._clients.finish(waiting)


class Clients:
    """Connections to a service: as many as there are requests at a time, but no more than ``maximum``."""

    def __init__(self, port: int, maximum: int) -> None:
        self._port, self.maximum = port, maximum
        self.idle: deque[_Connection] = deque()
        self.busy = self.most = 0

    async def ask(self, request: Request) -> Answer:
        """Send a request on a connection that is free, or a new one; return the answer."""
        loop = asyncio.get_running_loop()
        answer = Answer(time.perf_counter())
        if self.busy >= self.maximum:
            answer.error = "not sent: all connections are busy"
            return answer
        waiting = _Waiting(answer, loop.create_future())
        self.busy += 1
        self.most = max(self.most, self.busy)
        while self.idle:
            connection = self.idle.pop()  # the one that was used last
            if connection.is_usable:
                break
        else:
            try:
                _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
            except OSError as error:
                answer.error = f"not connected: {type(error).__name__}"
                self.finish(waiting)
                return await waiting.future
        connection.send(waiting, request.content)
        return await waiting.future

    def finish(self, waiting: _Waiting) -> None:
        """Note the time of an answer, and hand it out."""
        self.busy -= 1
        waiting.answer.seconds = time.perf_counter() - waiting.answer.sent
        if not waiting.future.done():
            waiting.future.set_result(waiting.answer)

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self.idle:
            connection.close()
        self.idle.clear()


async def arrivals(
    clients: Clients,
    rate: float,
    seconds: float,
    next_request: Callable[[], Request],
    answered: Callable[[Request, Answer], None],
) -> list[float]:
    """Send requests at a fixed rate, however many wait; return how late each was sent, in seconds."""
    start, number, late = time.perf_counter(), 0, []
    running: set[asyncio.Task[Answer]] = set()
    while (now := time.perf_counter() - start) < seconds:
        for each in range(number, int(now * rate)):
            late.append(now - each / rate)
            request = next_request()
            task = asyncio.create_task(clients.ask(request))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda done, request=request: answered(request, done.result()))
        number = max(number, int(now * rate))
        await asyncio.sleep(0.001)
    return late
