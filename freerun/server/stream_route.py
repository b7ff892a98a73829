"""A stream of predictions: lines in, lines out, in order and in bounded memory, for inputs of any length."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from freerun.data.features import Features
from freerun.runtime.encoded_texts import EncodedText
from freerun.runtime.prediction import Prediction
from freerun.server.api_types import PredictOptions, StreamLine
from freerun.server.batch_runner import FailedText
from freerun.server.documents import API_HEADERS
from freerun.server.fair_queue import Job
from freerun.server.model_calls import predict_job
from freerun.server.prediction_routes import Predicting, check_texts, features_for, json_size, prediction_json
from freerun.server.problem import Problem, invalid, over_limit
from freerun.server.serve_settings import RequestLimits
from freerun.server.service_state import ServiceState, check_client, content_type_of, parts_of_body
from freerun.server.validation import parsed_json, validated, validated_fields

__all__ = ["STREAM_TYPE", "predict_stream", "wants_stream"]

STREAM_TYPE: Final = "application/x-ndjson"
_GROUP: Final = 64
"""Lines of a stream that wait for the model together."""
_GROUPS: Final = 4
"""Groups of a stream that wait at a time; no more is read until the first is answered."""
_PACKET: Final = 262_144
"""Bytes that asyncio reads at a time."""
_PAUSE: Final = 0.02
"""Seconds between two looks at a queue that is full of other requests."""
_TYPES: Final = (STREAM_TYPE, "application/jsonl", "text/plain")
_MAX_FIELDS: Final = 50
_ESCAPED: Final = 12
"""Bytes of a character in JSON, at most."""


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
    if scope["http_version"] == "1.0":
        raise Problem(400, "A stream needs HTTP/1.1. In nginx: proxy_http_version 1.1")
    predicting = Predicting(served, _options_in_query(scope), state.limits)
    longest = _longest_line(state.limits)
    state.hold(scope, _PACKET + longest)
    scope["connection"].is_stream = True
    scope["deadline"] = None
    stream = _Stream(state, predicting, scope, send, is_json=content_type_of(scope) != "text/plain")
    try:
        reading = _groups_of_lines(receive, longest)
        while lines := await stream.next_of(reading):
            await stream.begin()  # not before: reading is what invites a client to send that expects "100 Continue"
            await stream.take(lines)
        await stream.begin()
        await stream.answer_all()
    finally:
        stream.cancel()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _longest_line(limits: RequestLimits) -> int:
    """Return the bytes that a text and its features may have as JSON."""
    return 2 * _ESCAPED * limits.max_characters + 1000


def _options_in_query(scope: Scope) -> PredictOptions:
    """Return the options in a query string; those of sampling are named ``sample.seed`` and so on."""
    values: dict[str, Any] = {}
    try:
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise over_limit("fields", _MAX_FIELDS, f"The query has more than {_MAX_FIELDS} fields.", 400) from None
    for key, value in pairs:
        part, dot, option = key.partition(".")
        if part != "sample":
            values[key] = value
        elif dot:
            values.setdefault(part, {})[option] = value
        else:
            raise invalid("sample: its options are fields of their own, such as sample.seed=1.")
    return validated_fields(PredictOptions, values)


async def _groups_of_lines(receive: Receive, longest: int) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a body in groups: as many as have arrived, up to ``_GROUP``.

    Of a line with more than ``longest`` bytes, only the beginning is kept: one byte too many.

    Raises:
        ClientGone: the body does not come to its end.
    """
    rest = bytearray()
    async for part in parts_of_body(receive):
        begin, lines = 0, []
        while (end := part.find(b"\n", begin)) >= 0:
            lines.append((bytes(rest) + part[begin:end])[: longest + 1])
            rest.clear()
            begin = end + 1
            if len(lines) == _GROUP:
                yield lines
                lines = []
        if lines:
            yield lines
        rest += part[begin:]
        del rest[longest + 1 :]
    if rest:
        yield [bytes(rest)]


class _Stream:
    """One stream: groups of lines wait for the model, and are answered in their order."""

    def __init__(self, state: ServiceState, predicting: Predicting, scope: Scope, send: Send, *, is_json: bool) -> None:
        self._state, self._predicting, self._is_json = state, predicting, is_json
        self._scope, self._send = scope, send
        self._has_begun = False
        self._read = 0
        self._groups: deque[_Group] = deque()
        self._size = min(_GROUP, max(1, state.runner.capacity // 2))

    async def begin(self) -> None:
        """Send the headers, the first time."""
        if not self._has_begun:
            self._has_begun = True
            headers = [(b"content-type", STREAM_TYPE.encode()), *API_HEADERS]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, content: bytes) -> None:
        """Send lines. Raises ClientGone if the client has gone."""
        await self._send({"type": "http.response.body", "body": content, "more_body": True})
        check_client(self._scope)

    async def next_of(self, reading: AsyncIterator[list[bytes]]) -> list[bytes] | None:
        """Return the next lines, None after the last ones. Answers that are there earlier are sent meanwhile."""
        coming = asyncio.ensure_future(anext(reading, None))
        try:
            while self._groups and not coming.done():
                job = self._groups[0].job
                self._scope["connection"].is_patient = True  # the client may wait for them
                if job is not None:
                    await asyncio.wait({coming, job.handle}, return_when=asyncio.FIRST_COMPLETED)
                if self._is_done(self._groups[0]):
                    await self._answer_first()
            self._scope["connection"].is_patient = False
            return await coming
        finally:
            coming.cancel()

    async def take(self, lines: list[bytes]) -> None:
        """Let lines wait for the model, and answer those before them that are ready."""
        entries = [self._encoded(number, line) for number, line in enumerate(lines, self._read)]
        self._read += len(lines)
        for group in self._divided(entries):
            while len(self._groups) >= _GROUPS:
                await self._answer_first()
            await self._wait_for_room(group)
            self._groups.append(group)
        while self._groups and self._is_done(self._groups[0]):
            await self._answer_first()

    def _divided(self, entries: list[EncodedText | Problem | None]) -> Iterator[_Group]:
        """Yield lines as groups whose answers, all of a stream's groups together, are no larger than one request's."""
        lines: list[EncodedText | Problem | None] = []
        used = 0.0
        for entry in entries:
            share = _GROUPS * self._predicting.share(entry) if isinstance(entry, EncodedText) else 0.0
            if lines and (len(lines) == self._size or used + share > 1):
                yield self._grouped(lines)
                lines, used = [], 0.0
            lines.append(entry)
            used += share
        yield self._grouped(lines)

    def _grouped(self, lines: list[EncodedText | Problem | None]) -> _Group:
        items = [line for line in lines if isinstance(line, EncodedText)]
        return _Group(lines, predict_job(self._predicting.call, items) if items else None)

    async def _wait_for_room(self, group: _Group) -> None:
        """Put a group into the queue as soon as single requests, which go first, leave it half empty."""
        job, runner, state = group.job, self._state.runner, self._state
        if job is None:
            return
        connection = self._scope["connection"]
        connection.is_patient = True
        while runner.waiting > runner.capacity // 2 or not runner.has_room(len(job.items)) or not self._may_hold(job):
            if self._groups and self._is_done(self._groups[0]):
                await self._answer_first()
            else:
                await asyncio.sleep(_PAUSE)
            check_client(self._scope)
        connection.is_patient = False
        state.hold(self._scope, job.answer_bytes)
        runner.submit(job, float("inf"))

    def _may_hold(self, job: Job) -> bool:
        return self._state.may_hold(self._scope, job.answer_bytes)

    def _encoded(self, number: int, line: bytes) -> EncodedText | Problem | None:
        limits = self._state.limits
        try:
            self._check_length(line)
            text, features = self._parsed(line.removesuffix(b"\r"))
            given = features_for(self._predicting.call.served, [text], None if features is None else [features])
            check_texts([text], given, limits)
            encoded = self._predicting.encode([text], given, number)
            return encoded[0] if encoded else None
        except Problem as problem:
            problem.members["line"] = number + 1
            return problem

    def _check_length(self, line: bytes) -> None:
        longest = _longest_line(self._state.limits)
        if len(line) > longest:
            maximum = self._state.limits.max_characters
            detail = f"The line has more than {longest:,} bytes, and a text may have {maximum:,} characters."
            raise over_limit("max-characters", maximum, detail)

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
        value = parsed_json(content, "line")
        if isinstance(value, str):
            return value, None
        parsed = validated(StreamLine, value)
        return parsed.text, parsed.features

    @staticmethod
    def _is_done(group: _Group) -> bool:
        """Return True if a group's answers are there."""
        return group.job is None or group.job.handle.done()

    async def answer_all(self) -> None:
        """Answer all lines that wait."""
        while self._groups:
            await self._answer_first()

    async def _answer_first(self) -> None:
        """Answer the lines that have waited longest. Raises ClientGone if the client has gone."""
        group, connection = self._groups[0], self._scope["connection"]
        connection.is_patient = True
        if group.job is not None and not group.job.handle.done():
            connection.when_lost.add(self.cancel)
            try:
                await asyncio.wait([group.job.handle])
            finally:
                connection.when_lost.discard(self.cancel)
        check_client(self._scope)
        connection.is_patient = False
        self._groups.popleft()
        results = iter(group.job.handle.result() if group.job else ())
        answers = [(line, next(results) if isinstance(line, EncodedText) else None) for line in group.lines]
        size = sum(json_size(result) for _, result in answers if isinstance(result, Prediction))
        await self.write(await self._state.written(self._scope, size, self._answers, answers))
        self._state.release(self._scope, group.job.answer_bytes if group.job else 0)

    def _answers(self, answers: list[tuple[EncodedText | Problem | None, Any]]) -> bytes:
        return b"".join(self._answer(line, result) for line, result in answers)

    def _answer(self, line: EncodedText | Problem | None, result: Any) -> bytes:
        if isinstance(result, FailedText) and isinstance(line, EncodedText):
            number, line = line.row + 1, result.problem()
            line.members["line"] = number
        if isinstance(line, Problem):
            return to_json({"error": line.as_json()}) + b"\n"
        prediction = self._predicting.empty() if line is None else result
        return to_json(prediction_json(prediction, self._predicting.options)) + b"\n"

    def cancel(self) -> None:
        """Do not decode any more."""
        for group in self._groups:
            if group.job is not None and not group.job.handle.done():
                self._state.runner.cancel(group.job)
                group.job.handle.cancel()
