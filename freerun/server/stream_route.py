"""A stream of predictions: lines in, lines out, in order and in bounded memory, for inputs of any length."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from pydantic import ValidationError
from pydantic_core import from_json, to_json
from starlette.types import Receive, Scope, Send

from freerun.data.features import Features
from freerun.runtime.encoded_texts import EncodedText
from freerun.server.asked import PredictOptions, StreamLine
from freerun.server.batch_runner import FailedText
from freerun.server.fair_queue import Job
from freerun.server.model_calls import predict_job
from freerun.server.prediction_routes import Predicting, check_texts, features_for, prediction_json
from freerun.server.problem import Problem, over_limit
from freerun.server.service_state import (
    ClientGone,
    ServiceState,
    content_type_of,
    explained,
    validated,
)

__all__ = ["STREAM_TYPE", "predict_stream", "wants_stream"]

STREAM_TYPE: Final = "application/x-ndjson"
_GROUP: Final = 64
"""Lines of a stream that wait for the model together."""
_GROUPS: Final = 4
"""Groups of a stream that wait at a time; no more is read until the first is answered."""
_PAUSE: Final = 0.02
"""Seconds between two looks at a queue that is full of other requests."""
_TYPES: Final = (STREAM_TYPE, "application/jsonl", "text/plain")


def wants_stream(accepted: str) -> bool:
    """Return True for the header Accept of a client that asks for a stream."""
    return STREAM_TYPE in accepted.lower()


@dataclass(slots=True)
class _Group:
    """Consecutive lines: for each an encoded text, None for an empty one, or the problem with it."""

    lines: list[EncodedText | Problem | None]
    job: Job | None


async def predict_stream(state: ServiceState, name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer each line of the body with a line: a prediction, or what is wrong with it."""
    served = state.model(name)
    if content_type_of(scope) not in _TYPES:
        raise Problem(415, f"A stream is sent as one of: {', '.join(_TYPES)}. Set the header Content-Type.")
    predicting = Predicting(served, _options_in_query(scope), state.limits)
    headers = [(b"content-type", STREAM_TYPE.encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    stream = _Stream(state, predicting, is_json=content_type_of(scope) != "text/plain")
    groups: deque[_Group] = deque()
    try:
        reading = _groups_of_lines(receive, 2 * state.limits.max_bytes)
        while lines := await _next(reading, stream, groups, send):
            if len(groups) == _GROUPS:
                await send(_chunk(await stream.answers(groups.popleft())))
            groups.append(await stream.group(lines))
            while groups and stream.is_done(groups[0]):
                await send(_chunk(await stream.answers(groups.popleft())))
        while groups:
            await send(_chunk(await stream.answers(groups.popleft())))
    except Problem as problem:  # a line that has no end: the rest cannot be understood
        while groups:
            await send(_chunk(await stream.answers(groups.popleft())))
        await send(_chunk(to_json({"error": problem.as_json()}) + b"\n"))
    finally:
        for group in groups:
            stream.cancel(group)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _next(
    reading: AsyncIterator[list[bytes]], stream: _Stream, groups: deque[_Group], send: Send
) -> list[bytes] | None:
    """Return the next lines, None after the last ones. Answers that are there earlier are sent: a client may wait."""
    coming = asyncio.ensure_future(anext(reading, None))
    try:
        while groups and not coming.done():
            job = groups[0].job
            if job is not None:
                await asyncio.wait({coming, job.handle}, return_when=asyncio.FIRST_COMPLETED)
            if stream.is_done(groups[0]):
                await send(_chunk(await stream.answers(groups.popleft())))
        return await coming
    finally:
        coming.cancel()


def _chunk(content: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": True}


def _options_in_query(scope: Scope) -> PredictOptions:
    """Return the options in a query string; those of sampling are named ``sample.seed`` and so on."""
    values: dict[str, Any] = {}
    try:
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise Problem(400, "The query has more than 50 fields.") from None
    for key, value in pairs:
        part, dot, option = key.partition(".")
        if dot and part == "sample" and isinstance(values.setdefault(part, {}), dict):
            values[part][option] = value
        else:
            values[key] = value
    try:
        return PredictOptions.model_validate_strings(values, strict=False)
    except ValidationError as error:
        raise explained(error) from None


async def _groups_of_lines(receive: Receive, longest: int) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a body in groups: as many as have arrived, up to ``_GROUP``.

    Raises:
        Problem: a line with more than ``longest`` bytes.
        ClientGone: the body does not come to its end.
    """
    rest, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = message.get("more_body", False)
        lines = (rest + message.get("body", b"")).split(b"\n")
        rest = lines.pop()
        if not more and rest:
            lines.append(rest)
        if len(rest) > longest:
            raise over_limit("max-bytes", longest, f"A line has more than {longest:,} bytes.")
        for first in range(0, len(lines), _GROUP):
            yield lines[first : first + _GROUP]


class _Stream:
    def __init__(self, state: ServiceState, predicting: Predicting, is_json: bool) -> None:
        self._state, self._predicting, self._is_json = state, predicting, is_json
        self._read = 0

    async def group(self, lines: list[bytes]) -> _Group:
        """Let the texts of some lines wait for the model, once there is room for them."""
        entries = [self._encoded(number, line) for number, line in enumerate(lines, self._read)]
        self._read += len(lines)
        items = [entry for entry in entries if isinstance(entry, EncodedText)]
        if not items:
            return _Group(entries, None)
        job = predict_job(self._predicting.call, items)
        runner = self._state.runner
        while not runner.has_room(max(len(items), runner.capacity // 2)):  # single requests go first
            await asyncio.sleep(_PAUSE)
        runner.submit(job, float("inf"))
        return _Group(entries, job)

    def _encoded(self, number: int, line: bytes) -> EncodedText | Problem | None:
        limits = self._state.limits
        try:
            text, features = self._parsed(line.removesuffix(b"\r"))
            given = features_for(self._predicting.call.served, [text], None if features is None else [features])
            check_texts([text], given, limits)
            encoded = self._predicting.encode([text], given, number)
            return encoded[0] if encoded else None
        except Problem as problem:
            problem.members["line"] = number + 1
            return problem

    def _parsed(self, line: bytes) -> tuple[str, Features | None]:
        """Return the text of a line, and its features."""
        try:
            content = line.decode()
        except UnicodeDecodeError:
            raise Problem(400, "The line is not valid UTF-8.") from None
        if not self._is_json:
            text, tab, features = content.partition("\t")
            return text, features if tab or (self._predicting.call.served.has_features and not text) else None
        if not content.strip():
            return "", "" if self._predicting.call.served.has_features else None
        if content.lstrip().startswith('"'):
            return self._string(content), None
        parsed = validated(StreamLine, content.encode())
        return parsed.text, parsed.features

    @staticmethod
    def _string(content: str) -> str:
        try:
            return str(from_json(content))
        except ValueError as error:
            raise Problem(400, f"The line is not JSON: {str(error)[:200]}.") from None

    def is_done(self, group: _Group) -> bool:
        """Return True if a group's answers are there."""
        return group.job is None or group.job.handle.done()

    async def answers(self, group: _Group) -> bytes:
        """Wait for a group's results, and return its lines."""
        results = iter(await group.job.handle if group.job else ())
        return b"".join(
            self._answer(line, next(results) if isinstance(line, EncodedText) else None) for line in group.lines
        )

    def _answer(self, line: EncodedText | Problem | None, result: Any) -> bytes:
        if isinstance(result, FailedText) and isinstance(line, EncodedText):
            number, line = line.row + 1, result.problem()
            line.members["line"] = number
        if isinstance(line, Problem):
            return to_json({"error": line.as_json()}) + b"\n"
        prediction = self._predicting.empty() if line is None else result
        return to_json(prediction_json(prediction, self._predicting.options)) + b"\n"

    def cancel(self, group: _Group) -> None:
        """Do not decode a group any more."""
        if group.job is not None and not group.job.handle.done():
            self._state.runner.cancel(group.job)
            group.job.handle.cancel()
