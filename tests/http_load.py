"""Clients in threads that keep their connections and ask without a pause, and what became of each request."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import threading
import time
from dataclasses import dataclass

PATIENCE = 60
"""Seconds that an answer may take on a busy machine."""


@dataclass(frozen=True)
class Outcome:
    """What became of a request: ``status`` is None if there was no answer. ``port`` is the client's own."""

    began: float
    port: int
    status: int | None = None
    error: str = ""


class Load:
    """Runs within a ``with`` block; outcomes are complete after it.

    ``keeps``: clients keep their connections while the service does; otherwise each request has one of its own.
    """

    def __init__(self, port, clients=8, keeps=True, path="/v1/models/m/predict", texts=("abc", "cab", "ab", "bca")):
        self._port, self._path, self._keeps = port, path, keeps
        self.outcomes, self.rejected, self.wrong = [], 0, []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(texts[number % len(texts)],)) for number in range(clients)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def wait(self, answers=100):
        """Return when there are so many more answers."""
        goal, end = self.answered + answers, time.monotonic() + PATIENCE
        while self.answered < goal:
            assert time.monotonic() < end, f"{self.answered} of {goal} answers; {self.lost[:3]}"
            time.sleep(0.01)

    @property
    def answered(self):
        """The number of requests that were answered with 200."""
        return sum(each.status == 200 for each in self.outcomes)

    @property
    def lost(self):
        """The requests that were sent on an open connection, and not answered with 200 or 503."""
        return [each for each in self.outcomes if each.status not in (200, 503)]

    def _run(self, text):
        connection, first = None, None
        while not self._is_over.is_set():
            if connection is None or _is_closed(connection.sock):
                connection = self._connected(connection)
                continue
            outcome, content = self._asked(connection, text)
            self.outcomes.append(outcome)
            if outcome.status == 200:
                outputs = [each["text"] for each in json.loads(content)["predictions"][0]["hypotheses"]]
                first = first or (text, outputs)
                if (json.loads(content)["predictions"][0]["source"], outputs) != first:
                    self.wrong.append(content)
            if outcome.status is None or not self._keeps:
                connection.close()
        if connection is not None:
            connection.close()

    def _connected(self, former):
        """A new connection, None if it is rejected."""
        if former is not None:
            former.close()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        connection.auto_open = 0
        try:
            connection.connect()
        except OSError:
            self.rejected += 1
            time.sleep(0.02)
            return None
        return connection

    def _asked(self, connection, text):
        body, began, port = json.dumps({"texts": [text]}), time.monotonic(), connection.sock.getsockname()[1]
        try:
            connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return Outcome(began, port, answer.status), answer.read()
        except (OSError, http.client.HTTPException) as error:
            return Outcome(began, port, None, type(error).__name__), b""


def _is_closed(connection):
    """Return True if the service has closed a connection already: a client does not send on it."""
    if connection is None:
        return True
    with contextlib.suppress(OSError):
        return bool(select.select([connection], [], [], 0)[0]) and connection.recv(1, socket.MSG_PEEK) == b""
    return True
