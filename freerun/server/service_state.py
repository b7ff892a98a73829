"""What all routes of a worker share: models, the queue, limits; and how a request is read and waited for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope

from freerun.server.api_keys import ApiKeys
from freerun.server.batch_runner import BatchRunner, FailedText
from freerun.server.connection import ConnectionRules
from freerun.server.counts import Counts, CountTable
from freerun.server.fair_queue import Job
from freerun.server.problem import Problem, invalid, over_limit, unavailable
from freerun.server.serve_settings import RequestLimits, ServeSettings
from freerun.server.served_models import ServedModel
from freerun.server.server_log import ServerLog
from freerun.strict_json import MAX_DEPTH, depth

__all__ = ["ClientGone", "ServiceState", "content_type_of", "header_of", "validated"]

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_LARGE: Final = 65_536
"""Bytes of a body whose texts are checked in another thread, so that other requests need not wait."""
_SHOWN_MISTAKES: Final = 20
_MAX_BODIES: Final = 64
"""Bodies of ``max_bytes`` that a worker holds at a time."""


class ClientGone(Exception):
    """The client has closed its connection: nobody reads an answer."""


@dataclass(frozen=True, kw_only=True)
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
    held: Counter[str] = field(default_factory=Counter)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "freerun requests"))

    @property
    def limits(self) -> RequestLimits:
        """What one request may ask for."""
        return self.settings.limits

    def model(self, name: str) -> ServedModel:
        """Return a model. Raises Problem 404 if there is none."""
        if name in self.models:
            return self.models[name]
        raise Problem(404, f"There is no model {name[:64]!r} here. GET /v1/models lists those that there are.")

    def check_key(self, scope: Scope, key: str | None = None) -> None:
        """Check a request's key: in its headers, or ``key`` from its body. Raises Problem 401 for a wrong one."""
        if self.keys is None or self.keys.accept(key) or self.keys.accept(key_in_headers(scope)):
            return
        detail = (
            "This service needs a key, and the request has none that is valid. Send it as: Authorization: Bearer KEY"
        )
        raise Problem(401, detail, headers={"WWW-Authenticate": "Bearer"})

    async def body(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body of a request.

        Raises:
            Problem: it has more than ``max_bytes``, or there is no memory for it beside the bodies of other requests.
            ClientGone: it does not come to its end.
        """
        limit = self.limits.max_bytes
        length = header_of(scope, b"content-length")
        if length.isdigit() and int(length[:20]) > limit:
            raise _too_large(limit)
        content = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            content += message.get("body", b"")
            if len(content) > limit:
                raise _too_large(limit)
            self._hold(scope, len(content))
            if not message.get("more_body", False):
                return bytes(content)

    def _hold(self, scope: Scope, size: int) -> None:
        """Count the bytes of a body as held until ``release``."""
        self.held["bytes"] += size - scope.get("held_bytes", 0)
        scope["held_bytes"] = size
        if self.held["bytes"] > _MAX_BODIES * self.limits.max_bytes:
            raise unavailable("Too many large requests at once. Try again later.", 1.0, limit="max-bytes")

    def release(self, scope: Scope) -> None:
        """Forget the body of a request that has ended."""
        self.held["bytes"] -= scope.get("held_bytes", 0)

    async def computed(self, size: int, function: Callable[..., T], *arguments: Any) -> T:
        """Return ``function(*arguments)``, from another thread if ``size`` bytes will take long."""
        if size <= _LARGE:
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)

    async def results(self, job: Job, scope: Scope, receive: Receive) -> list[Any]:
        """Wait for the results of a job, until ``timeout`` seconds after its request arrived.

        Raises:
            Problem: the queue is full, or the results are not there in time.
            ClientGone: the client went away meanwhile.
        """
        loop = asyncio.get_running_loop()
        timeout = self.settings.timeout
        left = scope["arrived"] + timeout - loop.time()
        self.runner.submit(job, left)

        def give_up(error: Exception) -> None:
            if not job.handle.done():
                self.runner.cancel(job)
                job.handle.set_exception(error)

        late = unavailable(f"There was no result within {timeout:g} s. Try again later.", 1.0, limit="timeout")
        timer = loop.call_later(max(0.0, left), give_up, late)
        watcher = loop.create_task(_until_gone(receive))
        watcher.add_done_callback(lambda task: None if task.cancelled() else give_up(ClientGone()))
        try:
            results: list[Any] = await job.handle
        finally:
            timer.cancel()
            watcher.cancel()
            if not job.handle.done():
                self.runner.cancel(job)
        for result in results:
            if isinstance(result, FailedText):
                raise result.problem()
        return results


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(limit: int) -> Problem:
    return over_limit(
        "max-bytes", limit, f"The body has more than {limit:,} bytes. Send several requests, or a stream."
    )


def header_of(scope: Scope, name: bytes) -> str:
    """Return a header, "" if there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


def key_in_headers(scope: Scope) -> str:
    """Return the key in a request's headers, or ""."""
    kind, _, key = header_of(scope, b"authorization").partition(" ")
    return key.strip() if kind.lower() == "bearer" else header_of(scope, b"x-api-key")


def content_type_of(scope: Scope) -> str:
    """Return the type of a request's body, without parameters, in lower case."""
    return header_of(scope, b"content-type").partition(";")[0].strip().lower()


def check_json_type(scope: MutableMapping[str, Any]) -> None:
    """Refuse a body that is not declared as JSON, which pages of other hosts could send without asking first."""
    if content_type_of(scope) != "application/json":
        raise Problem(415, "The body has to be JSON. Send the header: Content-Type: application/json")


def validated(kind: type[M], content: bytes) -> M:
    """Return JSON as an object of a type.

    Raises:
        Problem: not JSON, nested too deep, or not of this type.
    """
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH and _is_too_deep(content):
        raise invalid(f"The JSON is nested more than {MAX_DEPTH} deep.")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise explained(error) from None


def _is_too_deep(content: bytes) -> bool:
    return depth(content.decode(errors="replace")) > MAX_DEPTH


def explained(error: ValidationError) -> Problem:
    """Return the refusal of a request with mistakes; it does not repeat what was sent."""
    mistakes = error.errors(include_url=False, include_context=False, include_input=False)
    if mistakes[0]["type"] == "json_invalid":
        return Problem(400, f"The body is not JSON: {mistakes[0]['msg'].removeprefix('Invalid JSON: ')[:200]}.")
    listed = [
        {"pointer": "".join(f"/{part}"[:80] for part in mistake["loc"]), "detail": mistake["msg"][:200]}
        for mistake in mistakes[:_SHOWN_MISTAKES]
    ]
    first = listed[0]
    return invalid(f"{first['pointer'].lstrip('/') or 'body'}: {first['detail']}.", listed)
