"""``freerun serve`` as a process of its own, and clients that ask it, for what is tested over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
START = 60.0
"""Seconds that a service may take to start on a busy machine."""


@dataclass(frozen=True)
class Answer:
    """A response; the names of ``headers`` are in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self):
        """The content as an object."""
        return json.loads(self.content)

    @property
    def lines(self):
        """The objects of a stream."""
        return [json.loads(line) for line in self.content.splitlines()]

    @property
    def text(self):
        """The content as text."""
        return self.content.decode()


class Service:
    """A running ``freerun serve``. Arguments are those of the command; the log is in a file."""

    def __init__(self, *arguments, log, environment=None):
        self.log = Path(log)
        self._connection = None
        command = [sys.executable, "-m", "freerun", "serve", *map(str, arguments), "--port", "0"]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
            )
        try:
            self.host, self.port = self._address()
        except BaseException:
            self.kill()
            raise

    def _address(self):
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            found = re.search(r"serving .* at http://(?:\[(.+?)\]|([^:\s]+)):(\d+)", self.log_text)
            if found:
                return found[1] or found[2], int(found[3])
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"the service did not start:\n{self.log_text}")

    @property
    def url(self):
        """The address, without a slash at its end."""
        return f"http://{self.host}:{self.port}"

    @property
    def log_text(self):
        """All that was logged until now."""
        return self.log.read_text(errors="replace")

    @property
    def workers(self):
        """The process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in children.read_text().split()]

    # ---------------------------------------------------------------------------------------------------------- asking

    def ask(self, method, path, body=None, headers=(), timeout=60.0, keep=True):
        """Send a request, over the connection of the one before unless ``keep`` is False."""
        if isinstance(body, dict | list):
            headers, body = {"Content-Type": "application/json", **dict(headers)}, json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        if not keep:
            with self.client(timeout) as connection:
                return exchange(connection, method, path, body, headers)
        try:
            return self._kept(timeout, method, path, body, headers)
        except (http.client.RemoteDisconnected, ConnectionError):  # it was idle for too long
            self._connection = None
            return self._kept(timeout, method, path, body, headers)

    def _kept(self, timeout, method, path, body, headers):
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            return exchange(self._connection, method, path, body, headers)
        except BaseException:
            self._connection.close()
            self._connection = None
            raise

    def get(self, path, **headers):
        """GET; underscores in the names of headers stand for hyphens."""
        return self.ask("GET", path, headers=_named(headers))

    def post(self, path, body, **headers):
        """POST; a list or dict is sent as JSON."""
        return self.ask("POST", path, body, _named(headers))

    def predict(self, model, texts, **options):
        """Return the predictions of a model; raises unless they are there."""
        answer = self.post(f"/v1/models/{model}/predict", {"texts": texts, **options})
        assert answer.status == 200, answer.text
        return answer.json["predictions"]

    @contextmanager
    def client(self, timeout=60.0):
        """A connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def socket(self, timeout=30.0):
        """A socket that is connected, for what no client sends."""
        with socket.create_connection((self.host, self.port), timeout) as connection:
            yield connection

    def raw(self, content, timeout=30.0):
        """Send bytes, and return all that comes back until the service closes the connection."""
        with self.socket(timeout) as connection:
            with suppress(ConnectionError):  # it may have been rejected before all was sent
                connection.sendall(content)
            return received(connection)

    def counts(self, key=None):
        """The numbers at /metrics: by name and labels."""
        from prometheus_client.parser import text_string_to_metric_families

        answer = self.ask("GET", "/metrics", headers={"X-API-Key": key} if key else {})
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    # ---------------------------------------------------------------------------------------------------------- ending

    def stop(self, how=signal.SIGTERM, timeout=60.0):
        """End it, and return the exit code."""
        self._close()
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self):
        """Kill it, whatever it does; its workers notice."""
        self._close()
        self.process.kill()
        self.process.wait()

    def _close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()


def exchange(connection, method, path, body=None, headers=()):
    """Send a request over a connection of ``http.client``, and return its Answer."""
    connection.request(method, path, body, dict(headers))
    return _answer(connection.getresponse())


def answer_from(connection):
    """Return the next answer that a socket receives."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return _answer(response)


def _answer(response):
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def received(connection):
    """Return all that comes from a socket until it is closed."""
    parts = []
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def answers_in(content):
    """Return the Answers in bytes that a service has sent; raises ValueError if they are not valid HTTP."""
    answers = []
    while content:
        answer, content = _first_answer(content)
        if answer.status >= 200:
            answers.append(answer)
    return answers


def _first_answer(content):
    head, end, rest = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    match = re.fullmatch(r"HTTP/1\.1 ([1-5]\d\d) [A-Za-z -]*", first)
    if not end or not match:
        raise ValueError(f"not an answer: {content[:200]!r}")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"not a header: {line!r}")
        headers[name.lower()] = value.strip()
    status = int(match[1])
    if headers.get("transfer-encoding") == "chunked":
        body, rest = _unchunked(rest)
    else:
        length = int(headers.get("content-length", 0))
        body, rest = rest[:length], rest[length:]
        if len(body) < length and status != 304:
            raise ValueError(f"{len(body)} bytes instead of {length}: {content[:200]!r}")
    return Answer(status, headers, body), rest


def _unchunked(content):
    parts = []
    while True:
        size, end, rest = content.partition(b"\r\n")
        if not end:
            raise ValueError("the chunks have no end")
        length = int(size, 16)
        parts.append(rest[:length])
        if rest[length : length + 2] != b"\r\n":
            raise ValueError("a chunk has no end")
        content = rest[length + 2 :]
        if not length:
            return b"".join(parts), content


def _named(headers):
    return {name.replace("_", "-"): value for name, value in headers.items()}
