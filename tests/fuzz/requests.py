"""Damaged HTTP requests to a real service: each has a valid answer, or the connection is closed."""

from __future__ import annotations

import json
import os
import random
import select
import socket
from contextlib import suppress
from pathlib import Path

import torch

from tests.exported import write_model
from tests.fuzz.damage import ODD_VALUES, damaged_bytes, damaged_json
from tests.networks import network
from tests.serving import Service, answers_in, received

PATHS = ["/", "/docs", "/openapi.json", "/live", "/ready", "/health", "/metrics", "/languages", "/frontend/settings"]
PATHS += ["/v1/models", "/v1/models/m", "/v1/models/none", "/v2/health/live", "/v2/health/ready", "/page/%2e%2e/x"]
BODIES = {
    "/v1/models/m/predict": {
        "texts": ["a b", ""],
        "beam_size": 2,
        "num_hypotheses": 2,
        "length_penalty": 0.5,
        "max_length": 5,
        "prefix": "",
        "attention": False,
        "sample": None,
    },
    "/v1/models/m/score": {"pairs": [{"source": "a", "target": "b", "features": None}]},
    "/translate": {
        "q": ["a", "b\nc"],
        "source": "m",
        "target": "m",
        "alternatives": 1,
        "format": "text",
        "api_key": "k",
    },
    "/detect": {"q": "a"},
}
STREAM = b'"a"\n{"text": "b"}\n\n"c d"\n'
ODD_HEADERS = [
    b"Content-Length: 99999999999999999999",
    b"Content-Length: -1",
    b"Content-Length: 3",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Expect: 100-continue",
    b"Upgrade: websocket",
    b"Connection: upgrade",
    b"Connection: close, keep-alive",
    b"Host: a\0b",
    b"X: " + b"y" * 70_000,
    b" folded",
    b"Accept: application/x-ndjson",
    b"Accept-Encoding: gzip",
    b"Origin: null",
    b"Range: bytes=0-1",
    b"X-API-Key: \xff\xfe",
    b"Content-Type: application/json",
    b"Content-Type: text/plain",
    b"If-None-Match: *",
]
CHUNKS = [
    b"%x\r\n",
    b"%X;a=b\r\n",
    b"%08x\r\n",
    b"ffffffffffffffff%x\r\n",
    b"-%x\r\n",
    b" %x\r\n",
    b"%x\n",
    b"0x%x\r\n",
]
QUERIES = [
    "beam_size=2",
    "sample.seed=1",
    "sample=x&sample.seed=1",
    "max_length=3",
    "prefix=%ff",
    "a=" * 60,
    "token_scores=0",
]
WAIT = 0.02
"""Seconds for the beginning of an answer, after which a client ends its side: the service closes the connection."""
MEMORY = 300.0
"""Megabytes by which the worker may grow."""


class Requests:
    """A case sends one to three requests, most of them damaged, over one connection."""

    name = "requests"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_model(folder / "model", network(1, torch.float32, scale=1.5))
        options = ["--read-timeout", "1", "--max-length", "20", "--max-beam-size", "5", "--timeout", "8"]
        options += ["--max-bytes", "200000"]
        self._service = Service(f"m={folder / 'model'}", *options, log=folder / "log")
        [self._worker] = self._service.workers
        self._service.post("/v1/models/m/predict", {"texts": ["a b"]})
        self._files, self._megabytes = self._open_files(), self._memory()

    def __del__(self) -> None:
        self._service.kill()

    def __call__(self, number: int) -> str:
        """Send the requests of a case; raises AssertionError or ValueError for a wrong answer."""
        draw = random.Random(number)
        content = b"".join(_request(draw) for _ in range(draw.choice([1, 1, 1, 2, 3])))
        if draw.random() < 0.5:
            content = damaged_bytes(draw, content, draw.choice(ODD_HEADERS) + b"\r\n\r\n")
        received_bytes = self._exchanged(content)
        assert not received_bytes or received_bytes.startswith(b"HTTP/1.1 "), received_bytes[:200]
        try:
            answers = answers_in(received_bytes)
        except ValueError:  # the client has ended its side; and an answer to HEAD has a length and no content
            assert b" 500 Internal" not in received_bytes, received_bytes[:300]
            return "cut off"
        for answer in answers:
            assert answer.status < 500 or answer.status == 503, answer
            if answer.headers.get("content-encoding") != "gzip" and "json" in answer.headers.get("content-type", ""):
                [json.loads(line) for line in _documents(answer)]
        if number % 200 == 0:
            self.check()
        return "answered" if answers else "closed"

    def _exchanged(self, content: bytes) -> bytes:
        with self._service.socket(9.0) as connection, suppress(OSError):
            connection.sendall(content)
            select.select([connection], [], [], WAIT)
            connection.shutdown(socket.SHUT_WR)  # nothing more comes: the service need not wait for it
            return received(connection)
        return b""

    def check(self) -> None:
        """Raise AssertionError if the worker was replaced, or keeps files or memory."""
        assert self._service.workers == [self._worker], self._service.log_text[-3000:]
        assert self._open_files() <= self._files + 20
        assert self._memory() <= self._megabytes + MEMORY
        assert self._service.get("/live").status == 200
        log = self._service.log_text
        assert "Traceback" not in log, log[-3000:]

    def _open_files(self) -> int:
        return len(os.listdir(f"/proc/{self._worker}/fd"))

    def _memory(self) -> float:
        lines = Path(f"/proc/{self._worker}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


FORMS = [
    (b"application/x-www-form-urlencoded", b"q=a&q=%ff&source=m&target=m&alternatives=1"),
    (
        b"multipart/form-data; boundary=e",
        (
            b'--e\r\nContent-Disposition: form-data; name="q"\r\n\r\na\r\n'
            b'--e\r\nContent-Disposition: form-data; name="source"\r\nContent-Transfer-Encoding: base64\r\n\r\nbQ==\r\n'
            b'--e\r\nContent-Disposition: form-data; name="target"\r\n\r\nm\r\n--e--\r\n'
        ),
    ),
]


def _request(draw) -> bytes:
    """A valid request, or one that is odd in the places where requests are."""
    path = draw.choice([*PATHS, *list(BODIES) * 6])
    headers = [b"Host: localhost", *draw.choices(ODD_HEADERS, k=draw.choice([0, 0, 0, 0, 1, 1, 2]))]
    method, body = b"GET", b""
    if path in BODIES:
        method, body = b"POST", json.dumps(BODIES[path]).encode()
        kind = b"application/json"
        if path.endswith("predict") and draw.random() < 0.4:
            kind, body = draw.choice([b"application/x-ndjson", b"text/plain"]), STREAM * draw.choice([1, 1, 30])
            headers.append(b"Accept: application/x-ndjson")
            path += "?" + "&".join(draw.choices(QUERIES, k=draw.choice([0, 1, 2])))
        elif draw.random() < 0.5:
            body = _damaged(draw, body)
        elif path == "/translate" and draw.random() < 0.5:
            kind, body = draw.choice(FORMS)
        headers.append(b"Content-Type: " + kind)
        if draw.random() < 0.1:
            body = json.dumps({"texts": draw.choices(ODD_VALUES, k=3)}).encode()
    if draw.random() < 0.1:
        method = draw.choice([b"HEAD", b"OPTIONS", b"PUT", b"CONNECT", b"PRI", b"\0", b"get", b"G" * 9000])
    if body and draw.random() < 0.3:
        headers.append(b"Transfer-Encoding: chunked")
        body = b"".join(_chunk(draw, body[start : start + 50]) for start in range(0, len(body), 50)) + b"0\r\n\r\n"
    elif body:
        headers.append(b"Content-Length: %d" % (len(body) + draw.choice([0] * 9 + [-1, 1, 10])))
    draw.shuffle(headers)
    version = draw.choice([b"1.1"] * 9 + [b"1.0", b"2.0", b"9.9", b""])
    return b"%b %b HTTP/%b\r\n" % (method, path.encode(), version) + b"\r\n".join([*headers, b"", body])


def _damaged(draw, body: bytes) -> bytes:
    try:
        return damaged_json(draw, body)
    except RecursionError:  # of what was nested already, and is copied
        return b'{"a":' * 3000


def _documents(answer) -> list[bytes]:
    """The JSON in an answer: each line of a stream, else all of it."""
    is_stream = answer.headers["content-type"] == "application/x-ndjson"
    return [each for each in (answer.content.splitlines() if is_stream else [answer.content]) if each]


def _chunk(draw, content: bytes) -> bytes:
    size = draw.choice(CHUNKS) if draw.random() < 0.03 else b"%x\r\n"
    return size % len(content) + content + b"\r\n"
