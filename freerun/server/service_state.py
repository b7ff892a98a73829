"""What all routes of a worker share: models, the queue, limits; and how a request is read and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from starlette.types import Receive, Scope

from freerun.server.api_keys import ApiKeys
from freerun.server.batch_runner import BatchRunner, FailedText
from freerun.server.connection import ConnectionRules
from freerun.server.counts import Counts, CountTable
from freerun.server.fair_queue import Job
from freerun.server.problem import Problem, over_limit, unavailable
from freerun.server.serve_settings import RequestLimits, ServeSettings
from freerun.server.served_models import ServedModel
from freerun.server.server_log import ServerLog

__all__ = [
    "ClientGone",
    "ServiceState",
    "check_client",
    "check_json_type",
    "content_type_of",
    "header_of",
    "parts_of_body",
]

T = TypeVar("T")

_LARGE: Final = 65_536
"""Bytes of a body whose texts are checked in another thread, so that other requests need not wait."""
_SMALL_BODY: Final = 65_536
"""Bytes of a body that is read whatever else is held, and before its key is known."""
_MAX_HELD: Final = 512_000_000
"""Bytes of bodies and, by estimate, of answers that a worker holds at a time."""


class ClientGone(Exception):
    """The client has closed its connection, so no answer is needed."""


@dataclass(kw_only=True)
class ServiceState:
    """Shared by all routes of a worker."""

    settings: ServeSettings
    models: Mapping[str, ServedModel]
    keys: ApiKeys | None
    runner: BatchRunner
    counts: Counts
    table: CountTable
    log: ServerLog
    rules: ConnectionRules
    held: int = 0  # bytes
    parsing: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "freerun bodies"))
    writing: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "freerun answers"))

    @property
    def limits(self) -> RequestLimits:
        """What one request may ask for."""
        return self.settings.limits

    def model(self, name: str) -> ServedModel:
        """Return a model. Raises Problem 404 if there is none."""
        if name in self.models:
            return self.models[name]
        raise Problem(404, f"There is no model {name[:64]!r} here. GET /v1/models lists the models.")

    # ------------------------------------------------------------------------------------------------- keys and bodies

    def has_key(self, scope: Scope, key: str | None = None) -> bool:
        """Return True if a request has a valid key in its headers, or ``key`` is one, or none is needed."""
        return self.keys is None or self.keys.accept(key) or self.keys.accept(_key_in_headers(scope))

    def check_key(self, scope: Scope, key: str | None = None) -> None:
        """Raise Problem 401 unless ``has_key``."""
        if not self.has_key(scope, key):
            detail = "This service needs a key, and the request has no valid one. Send it as: Authorization: Bearer KEY"
            raise Problem(401, detail, headers={"WWW-Authenticate": "Bearer"})

    async def body(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body of a request; without a valid key in its headers it has to be small.

        Raises:
            Problem: it has more than ``max_bytes``, or does not arrive in time, or there is no memory for it besides
                the bodies of other requests.
            ClientGone: it does not come to its end.
        """
        has_key = self.has_key(scope)
        limit = self.limits.max_bytes if has_key else min(_SMALL_BODY, self.limits.max_bytes)
        length = header_of(scope, b"content-length")
        if length.isdigit() and int(length[:20]) > limit:
            raise self._too_large(scope, limit)
        content = bytearray()
        try:
            async with asyncio.timeout_at(scope["arrived"] + self.settings.timeout):
                async for part in parts_of_body(receive):
                    content += part
                    if len(content) > limit:
                        raise self._too_large(scope, limit)
                    if len(content) > _SMALL_BODY:
                        self.hold(scope, len(content) if "held_bytes" not in scope else len(part))
        except TimeoutError:
            seconds = self.settings.timeout
            raise over_limit("timeout", seconds, f"The body did not arrive within {seconds:g} s.", 408) from None
        return bytes(content)

    def _too_large(self, scope: Scope, limit: int) -> Problem:
        if limit < self.limits.max_bytes and not self.has_key(scope):
            detail = f"A body of more than {limit:,} bytes needs a key in the headers: Authorization: Bearer KEY"
            return Problem(401, detail, headers={"WWW-Authenticate": "Bearer"})
        return over_limit("max-bytes", limit, f"The body has more than {limit:,} bytes. Send several, or a stream.")

    def may_hold(self, scope: Scope, size: int) -> bool:
        """Return True if there is room for so many more bytes, or no other request holds any."""
        return self.held + size <= _MAX_HELD or self.held == scope.get("held_bytes", 0)

    def hold(self, scope: Scope, size: int) -> None:
        """Count bytes as held until the request ends. Raises Problem 503 if they are too many."""
        if not self.may_hold(scope, size):
            raise unavailable("Too many large requests at once. Try again later.", 1.0, limit="memory")
        self.held += size
        scope["held_bytes"] = scope.get("held_bytes", 0) + size

    def release(self, scope: Scope, size: int) -> None:
        """Forget bytes that a request held."""
        held = scope.get("held_bytes", 0)
        freed = min(size, held)
        self.held -= freed
        scope["held_bytes"] = held - freed

    async def release_when_sent(self, scope: Scope) -> None:
        """Forget all bytes that a request held, once the client has read nearly all of a large answer."""
        if held := scope.get("held_bytes", 0):
            try:
                await scope["connection"].flow.drain()
            finally:
                self.release(scope, held)

    # ------------------------------------------------------------------------------------------------------- computing

    async def parsed(self, scope: Scope, size: int, function: Callable[..., T], *arguments: Any) -> T:
        """Return ``function(*arguments)`` of a body, from another thread if its ``size`` bytes will take long.

        Raises:
            Problem: other bodies took so long that the time of the request is up.
            ClientGone: the client went away meanwhile.
        """
        return await self._computed(self.parsing, scope, size, function, *arguments)

    async def written(self, scope: Scope, size: int, function: Callable[..., bytes], *arguments: Any) -> bytes:
        """Return the JSON of an answer; as ``parsed``, but it does not wait for bodies to be parsed."""
        return await self._computed(self.writing, scope, size, function, *arguments)

    async def _computed(
        self, threads: Executor, scope: Scope, size: int, function: Callable[..., T], *arguments: Any
    ) -> T:
        if size <= _LARGE:
            return function(*arguments)

        def unless_gone() -> T:
            check_client(scope)
            return function(*arguments)

        deadline = scope.get("deadline", scope["arrived"] + self.settings.timeout)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.get_running_loop().run_in_executor(threads, unless_gone)
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> Problem:
        seconds = self.settings.timeout
        detail = f"There was no result within {seconds:g} s. Try again later, with fewer texts or a smaller beam_size."
        return unavailable(detail, 1.0, limit="timeout")

    async def results(self, job: Job, scope: Scope) -> list[Any]:
        """Wait for the results of a job, until ``timeout`` seconds after its request arrived.

        Raises:
            Problem: the queue is full, or the results are not there in time.
            ClientGone: the client went away meanwhile.
        """
        loop = asyncio.get_running_loop()
        check_client(scope)
        left = scope["arrived"] + self.settings.timeout - loop.time()
        if left <= 0:
            raise self._late()
        self.hold(scope, job.answer_bytes)
        self.runner.submit(job, left)

        def give_up(error: Exception) -> None:
            if not job.handle.done():
                self.runner.cancel(job)
                job.handle.set_exception(error)

        def leave() -> None:
            give_up(ClientGone())

        timer = loop.call_later(left, lambda: give_up(self._late()))
        scope["connection"].when_lost.add(leave)
        try:
            results: list[Any] = await job.handle
        finally:
            timer.cancel()
            scope["connection"].when_lost.discard(leave)
            if not job.handle.done():
                self.runner.cancel(job)
        for result in results:
            if isinstance(result, FailedText):
                raise result.problem()
        return results


def check_client(scope: Scope) -> None:
    """Raise ClientGone if the client has gone."""
    if scope["connection"].is_gone:
        raise ClientGone


async def parts_of_body(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the parts of a body as they arrive. Raises ClientGone if it does not come to its end."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = message.get("more_body", False)
        yield message.get("body", b"")


def header_of(scope: Scope, name: bytes) -> str:
    """Return a header, "" if there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


def _key_in_headers(scope: Scope) -> str:
    """Return the key in a request's headers, or ""."""
    kind, _, key = header_of(scope, b"authorization").partition(" ")
    return key.strip() if kind.lower() == "bearer" else header_of(scope, b"x-api-key")


def content_type_of(scope: Scope) -> str:
    """Return the type of a request's body, without parameters, in lower case."""
    return header_of(scope, b"content-type").partition(";")[0].strip().lower()


def check_json_type(scope: Scope) -> None:
    """Reject a body that is not declared as JSON, which pages of other hosts could send without asking first."""
    if content_type_of(scope) != "application/json":
        raise Problem(415, "The body has to be JSON. Send the header: Content-Type: application/json")
