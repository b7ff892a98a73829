"""One client's connection: uvicorn's, with limits of time and size, and an end that loses no request.

uvicorn waits for ever for a client that has sent half of a request, or that does not read its answer, and holds any
number of connections and any size of headers.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from freerun.server.arrival_clock import ArrivalClock
from freerun.server.counts import Counts
from freerun.server.problem import PROBLEM_JSON, Problem

__all__ = ["Connection", "ConnectionRules"]

_MAX_HEADERS: Final = 64_000
"""Bytes of the headers of one request, its address included."""
_PROGRESS: Final = 256
"""Bytes of a body within ``read_timeout`` that count as progress."""
_LINGER: Final = 2.0
"""Seconds that the rest of a refused body is read and dropped: if it were not, the client might miss the answer."""


class ConnectionRules:
    """What all connections of a worker share."""

    def __init__(self, read_timeout: float, maximum: int, counts: Counts) -> None:
        self.clock = ArrivalClock()
        self.read_timeout = read_timeout
        self.maximum = maximum
        self.counts = counts
        self.is_draining = False


class Connection(HttpToolsProtocol):
    """Created by uvicorn for each client."""

    def __init__(self, *arguments: Any, rules: ConnectionRules, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.rules = rules
        self.is_reading = True  # a request, or the first byte of the first one
        self.progress_at = self.loop.time()
        self.header_bytes = self.body_bytes = self.unsent = 0
        self.dropping_until: float | None = None
        self.was_refused = False

    # ------------------------------------------------------------------------------------------- uvicorn's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a client, or tell it that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.rules.maximum:
            self.rules.counts.add("refused_connections")
            self.refuse(Problem(503, "Too many connections. Try again later.", headers={"Retry-After": "1"}))

    def data_received(self, data: bytes) -> None:
        """Parse bytes of a request."""
        if self.was_refused:
            return
        if not self.is_reading and not self.is_answering:  # also for empty lines, which begin no request
            self.is_reading = True
            self.progress_at = self.loop.time()
        self.header_bytes += len(data)
        super().data_received(data)
        # counted until the headers end, so the limit is reached by the headers themselves
        if self.header_bytes > _MAX_HEADERS and not self.transport.is_closing():
            self.refuse(Problem(431, f"The headers have more than {_MAX_HEADERS:,} bytes."))

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.is_reading = True
        self.body_bytes = 0
        self.progress_at = self.loop.time()

    def on_headers_complete(self) -> None:
        """Start the application."""
        self.header_bytes = 0
        self.scope["arrived"] = self.rules.clock.arrived()  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        self.progress_at = self.loop.time()
        if self.rules.is_draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take bytes of a body."""
        self.header_bytes = 0
        self.body_bytes += len(body)
        if self.body_bytes >= _PROGRESS:
            self.body_bytes, self.progress_at = 0, self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self.is_reading = False
        self.header_bytes = 0
        self.dropping_until = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer; a body that was not read is dropped for some time."""
        super().on_response_complete()
        if self.is_reading and self.cycle.response_complete:
            self.dropping_until = self.loop.time() + _LINGER

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP."""
        self.refuse(Problem(400, "This is not a valid HTTP request."))

    def shutdown(self) -> None:
        """Close after the answer to the current request, or to the next one: it may be on its way already."""
        if self.is_answering:
            self.cycle.keep_alive = False

    # ---------------------------------------------------------------------------------------------------- our own

    @property
    def has_asked(self) -> bool:
        """Return True once the headers of a request have arrived."""
        cycle: object = self.cycle  # None at first, whatever uvicorn declares
        return cycle is not None

    @property
    def is_answering(self) -> bool:
        """Return True from the headers of a request to the end of its answer."""
        return self.has_asked and not self.cycle.response_complete

    @property
    def is_idle(self) -> bool:
        """Return True before the first request and between two."""
        return not self.is_answering and not (self.is_reading and self.has_asked)

    def refuse(self, problem: Problem) -> None:
        """Write an answer without the application, and close."""
        if self.transport.is_closing():
            return
        self.was_refused = True
        if self.pipeline:  # an earlier request is being answered, whose client would take this for its answer
            self.cycle.disconnected = True
        elif not (self.is_answering and self.cycle.response_started):
            if self.is_answering:
                self.cycle.disconnected = True  # the application's answer would follow this one
                self.cycle.message_event.set()
            self.transport.write(_as_http(problem))
            self.rules.counts.request("other", problem.status, 0.0)
        self.transport.close()

    def check_progress(self, now: float) -> None:
        """Cut off a client that has made no progress for too long. Called about once a second."""
        if self._reads_too_slowly(now):
            self._cut_off()
        elif self.dropping_until is not None and now > self.dropping_until:
            self.transport.close()
        elif self.is_reading and now - self.progress_at > self.rules.read_timeout:
            if self.flow.read_paused:  # we do not read: the client cannot send
                self.progress_at = now
            elif not self.has_asked and not self.header_bytes:
                self.transport.close()  # it never asked for anything
            else:
                self.rules.counts.add("cut_off_connections")
                self.refuse(Problem(408, f"The request was not complete after {self.rules.read_timeout:g} s."))

    def _reads_too_slowly(self, now: float) -> bool:
        """Return True if nothing of what waits to be sent has left for ``read_timeout``."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self.unsent or not self.unsent:
            self.unsent, self.sent_at = unsent, now
            return False
        self.unsent = unsent
        return now - self.sent_at > self.rules.read_timeout

    def _cut_off(self) -> None:
        self.rules.counts.add("cut_off_connections")
        self.transport.abort()


def _as_http(problem: Problem) -> bytes:
    response = problem.response()
    head = f"HTTP/1.1 {problem.status} {problem.as_json()['title']}\r\n"
    headers = {
        "content-type": PROBLEM_JSON,
        "content-length": str(len(response.body)),
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        **problem.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{head}{lines}connection: close\r\n\r\n".encode() + bytes(response.body)
