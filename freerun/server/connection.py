"""One client's connection: uvicorn's, with limits of time and size, and an end that loses no request.

uvicorn waits indefinitely for a client that has sent half of a request, or that does not read its answer, and allows
any number of connections, any size of headers and any number of pipelined requests. It loses the body of a request that
offers another protocol, as each first one of Java's client does, and an answer whose client is still sending.

Over 350 lines, because the limits and the ways to end depend on the same states.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from freerun.server.arrival_clock import ArrivalClock
from freerun.server.counts import Counts
from freerun.server.problem import Problem, over_limit

__all__ = ["Connection", "ConnectionRules"]

_MAX_HEADERS: Final = 64_000
"""Bytes of the headers of one request, its address included."""
_MAX_PIPELINED: Final = 128
"""Requests that a client may send before the first is answered; it has to repeat the others."""
_PROGRESS: Final = 256
"""Bytes of a body within ``read_timeout`` that count as progress; in a stream, one is enough."""
_LINGER: Final = 2.0
"""Seconds in which what a client still sends is read and dropped after its last answer. If it were not read, the system
would reset the connection, and the client might miss the answer (RFC 9112, section 9.6)."""
_MAX_TURNED_AWAY: Final = 100
"""Clients beyond the maximum that may read why they are rejected; more of them are disconnected at once."""


class ConnectionRules:
    """What all connections of a worker share: limits in seconds, and the maximum number of connections."""

    def __init__(self, *, read_timeout: float, keep_alive: float, maximum: int, counts: Counts) -> None:
        self.clock = ArrivalClock()
        self.read_timeout, self.keep_alive = read_timeout, keep_alive
        self.maximum = maximum
        self.counts = counts
        self.is_draining = False
        self.turned_away = 0


class Connection(HttpToolsProtocol):
    """Created by uvicorn for each client. A request's scope has it as ``connection``.

    Attributes:
        when_lost: functions to call when the client is gone.
        is_stream: the current request is a stream, in which any byte is progress.
        is_patient: the client need not send anything now, because answers are due to it.
        is_reading: the first byte of the first request, or the end of the current one, is awaited.
        unanswered: requests whose headers have arrived and whose answers are not complete.
        is_counted: the application counts the request that is rejected.
        is_ending: no more requests are read; the connection is closed after the last answer.
        has_ended: the last answer was given.
    """

    def __init__(self, *arguments: Any, rules: ConnectionRules, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.rules = rules
        self.when_lost: set[Callable[[], None]] = set()
        self.is_stream = self.is_patient = self.is_ending = self.has_ended = self.has_headers = False
        self.is_reading = True
        self.unanswered = 0
        self.progress_at = self.idle_since = self.sent_at = self.loop.time()
        self.header_bytes = self.field_bytes = self.body_bytes = self.unsent = 0
        self.dropping_until: float | None = None
        self.is_counted = self._is_turned_away = False
        self._rejection: Problem | None = None
        self._answers = _Answers(self)

    # ------------------------------------------------------------------------------------------- uvicorn's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a client, or reject it if there are too many."""
        super().connection_made(transport)
        if len(self.connections) - self.rules.turned_away > self.rules.maximum:
            self._turn_away()

    def _turn_away(self) -> None:
        rules = self.rules
        self.is_counted = self._is_turned_away = True
        rules.turned_away += 1
        rules.counts.add("rejected_connections")
        detail = f"More than {rules.maximum:,} clients are connected. Try again later."
        headers = {"Retry-After": "1"}
        self.reject(Problem(503, detail, headers=headers, limit="max-connections", maximum=rules.maximum))
        if rules.turned_away > _MAX_TURNED_AWAY:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop what is computed for the client."""
        super().connection_lost(exc)
        self.has_ended = True
        self.rules.turned_away -= self._is_turned_away
        for function in tuple(self.when_lost):
            function()

    def data_received(self, data: bytes) -> None:
        """Parse bytes of a request."""
        if self.is_ending:
            return
        self.header_bytes += len(data)
        self._parse(data)
        # counted until the headers end, so the limit is reached by the headers themselves
        if self.header_bytes > _MAX_HEADERS:
            self._reject_headers()

    def _parse(self, data: bytes) -> None:
        """Parse bytes, in place of uvicorn's, which loses what follows the headers of a request to upgrade."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            self._parse(head + data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self.send_400_response(str(error))

    def _head_without_upgrade(self) -> bytes:
        """Return the current request's headers without the offer of another protocol (RFC 9110, section 7.8)."""
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    @property
    def _is_upgrade(self) -> bool:
        """Return True while the headers are those of a request that offers another protocol: it is parsed again."""
        return bool(self.parser.should_upgrade())

    def _reject_headers(self) -> None:
        self.reject(over_limit("headers", _MAX_HEADERS, f"The headers have more than {_MAX_HEADERS:,} bytes.", 431))

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self.unanswered >= _MAX_PIPELINED:
            self.is_ending = True
            raise ValueError("too many pipelined requests")  # which ends the parsing
        super().on_message_begin()
        self.is_reading, self.has_headers = True, False
        self.field_bytes = 0
        self.body_bytes = 0
        self.progress_at = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        self._count_field(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._count_field(len(name) + len(value))
        super().on_header(name, value)

    def _count_field(self, size: int) -> None:
        """Count a part of the headers, which may all have arrived in one packet."""
        self.field_bytes += size
        if self.field_bytes > _MAX_HEADERS:
            self._reject_headers()
            raise ValueError("too large headers")  # which ends the parsing

    def on_headers_complete(self) -> None:
        """Start the application, or let the request wait for the answers to those before it."""
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("no tunnels")  # which ends the parsing
        if self._is_upgrade:
            return
        self.is_stream = self.is_patient = False
        self.scope["arrived"] = self.rules.clock.arrived()  # type: ignore[typeddict-unknown-key]
        self.scope["connection"] = self  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()  # raises for an address that is none
        self.cycle.transport = self._answers  # type: ignore[assignment]
        self.header_bytes = 0
        self.unanswered += 1
        self.has_headers = True
        self.progress_at = self.loop.time()
        if self.rules.is_draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take bytes of a body."""
        self.header_bytes = 0
        self.body_bytes += len(body)
        if self.body_bytes >= _PROGRESS or self.is_stream:
            self.body_bytes, self.progress_at = 0, self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        if self._is_upgrade:
            return
        self.is_reading = False
        self.header_bytes = 0
        self.dropping_until = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer, and start the next request; a body that was not read is dropped for some time.

        In place of uvicorn's, which reads on while requests wait, and has a timer for each answer.
        """
        self.server_state.total_requests += 1
        if self.has_ended or self.transport.is_closing():
            return
        self.unanswered -= 1
        now = self.idle_since = self.loop.time()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self.flow.resume_reading()
        if self.is_ending and not self.unanswered:
            self._finish()
        elif self.is_reading and self.has_headers:
            self.dropping_until = now + _LINGER

    def send_400_response(self, msg: str) -> None:
        """Reject bytes that are not HTTP."""
        if self.is_ending:  # too many requests, or rejected already
            self._finish_when_answered()
        else:
            self.reject(Problem(400, "This is not a valid HTTP request."))

    def shutdown(self) -> None:
        """Close after the answer to the current request, or to the next one: it may be on its way already."""
        if self.unanswered:
            self.cycle.keep_alive = False

    # ---------------------------------------------------------------------------------------------------- our own

    @property
    def is_idle(self) -> bool:
        """Return True before the first byte of a request."""
        is_asking = self.is_reading and (self.has_headers or self.header_bytes)  # empty lines are no request
        return self.has_ended or not (self.unanswered or is_asking)

    @property
    def is_gone(self) -> bool:
        """Return True if nothing can be sent to the client any more."""
        return self.has_ended or self.transport.is_closing()

    def reject(self, problem: Problem) -> None:
        """Read nothing more; answer what came before, then this, and close."""
        if self.has_ended or self.is_ending:
            return
        self.is_ending = True
        self._rejection = problem
        if self.is_reading and self.has_headers:
            self._abandon()
        self._finish_when_answered()

    def _abandon(self) -> None:
        """Abandon the request whose body is incomplete."""
        cycle, rejection = self.cycle, self._rejection
        if cycle.response_started:
            self._rejection = None  # it would be read as part of the answer, or as that of another request
        if cycle.response_complete or rejection is None:
            return
        cycle.scope["rejected_with"] = rejection.status  # type: ignore[typeddict-unknown-key]
        self.is_counted = True
        cycle.disconnected = True
        cycle.message_event.set()
        self.unanswered -= 1
        if self.pipeline and self.pipeline[0][0] is cycle:  # the newest one is on the left
            self.pipeline.popleft()

    def _finish_when_answered(self) -> None:
        if not self.unanswered:
            self._finish()

    def _finish(self) -> None:
        """End, after the rejection."""
        if self.has_ended:
            return
        if self._rejection is not None:
            self.transport.write(self._rejection.as_http())
            if not self.is_counted:
                self.rules.counts.request("other", self._rejection.status, 0.0)
        self.end()

    def end(self) -> None:
        """Send nothing more, and close; but first drop for some time what the client still sends."""
        if self.has_ended:
            return
        is_sending = self.is_ending or self.pipeline or (self.is_reading and self.has_headers)
        self.is_ending = self.has_ended = True
        self.pipeline.clear()
        if not is_sending or self.transport.is_closing():
            self.transport.close()
            return
        self.dropping_until = self.loop.time() + _LINGER
        try:
            self.transport.write_eof()
        except OSError:  # the client has gone, and nothing was read from it since
            self.transport.abort()
            return
        self.flow.resume_reading()

    def check_progress(self, now: float) -> None:
        """Disconnect a client that has made no progress for too long. Called about once a second."""
        if self._reads_too_slowly(now):
            self._cut_off()
        elif self.dropping_until is not None:
            if now > self.dropping_until:
                self.transport.close()
        elif self.is_reading and (self.has_headers or self.header_bytes):
            self._check_request(now)
        elif not self.unanswered and now - self.idle_since > self.rules.keep_alive:
            self.transport.close()

    def _check_request(self, now: float) -> None:
        """Reject a request that does not come to its end."""
        timeout = self.rules.read_timeout
        if self.flow.read_paused or self.is_patient:  # the client cannot or need not send
            self.progress_at = now
        elif now - self.progress_at > timeout:
            self.rules.counts.add("cut_off_connections")
            detail = f"The request made no progress for {timeout:g} s."
            self.reject(over_limit("read-timeout", timeout, detail, 408))

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


class _Answers:
    """The transport of uvicorn's answers, which it closes after the last one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def write(self, data: bytes) -> None:
        """Send bytes of an answer."""
        if not self._connection.has_ended:
            self._connection.transport.write(data)

    def is_closing(self) -> bool:
        """Return True if nothing more is sent."""
        return self._connection.is_gone

    def close(self) -> None:
        """End the connection."""
        self._connection.end()
