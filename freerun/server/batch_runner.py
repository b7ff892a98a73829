"""The thread of a worker that decodes: a batch of whatever waits, whenever it is free."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from ctypes import c_int32
from dataclasses import dataclass
from typing import Any, Final, Protocol

from freerun.errors import FreerunError
from freerun.runtime.interruptible import stopped_by
from freerun.server.counts import Counts
from freerun.server.fair_queue import FairQueue, Job, TextBatch
from freerun.server.problem import Problem, unavailable
from freerun.server.server_log import ServerLog

__all__ = ["BatchRunner", "Call", "FailedText"]

_CAUTION: Final = 0.8
"""Fraction of its time that a request may be estimated to wait."""
_MEMORY: Final = 0.8
"""What a batch counts for the estimate of speed, compared with the batch after it."""


class Call(Protocol):
    """What decodes a batch. Two that are equal may share one."""

    @property
    def model(self) -> str:
        """The name of its model."""
        ...

    def run(self, items: Sequence[Any]) -> list[Any]:
        """Return a result for each item. Called in the runner's thread."""
        ...

    def count(self, counts: Counts, results: Sequence[Any]) -> None:
        """Count what was decoded."""
        ...


@dataclass(frozen=True, slots=True)
class FailedText:
    """Stands in the place of a result that could not be computed; the log says why."""

    def problem(self) -> Problem:
        """Return the answer to the request."""
        return Problem(500, "The model could not process this text. The service's log says why.")


class BatchRunner:
    """Decodes jobs in a thread; created and called in the thread of an event loop, except for ``_run``."""

    def __init__(self, capacity: int, counts: Counts, log: ServerLog) -> None:
        self.capacity = capacity
        self._queue = FairQueue(capacity)
        self._counts, self._log = counts, log
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._running: list[tuple[Job, int]] = []
        self._stop = c_int32()
        self._speeds: dict[str, tuple[float, float]] = {}  # seconds and cost of the last batches of each model
        self._thread = threading.Thread(target=self._run, name="freerun batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Texts that wait."""
        return len(self._queue)

    def wait_estimate(self) -> float:
        """Return the seconds that a text added now would wait, from the speed of the last batches of each model."""
        speeds = self._speeds
        return sum(
            waiting * speeds[model][0] / speeds[model][1]
            for model, waiting in self._queue.costs.items()
            if model in speeds
        )

    def has_room(self, texts: int = 1) -> bool:
        """Return True if so many more texts may wait."""
        return self._queue.has_room(texts)

    def check_room(self) -> None:
        """Raise Problem if no text can be added now, so that nothing of a request needs to be read."""
        if not self.has_room():
            raise self._rejection("The queue is full")

    def submit(self, job: Job, timeout: float) -> None:
        """Let a job wait for its turn; then ``job.handle``, a future, has its results, or a ``FailedText`` for each.

        Raises:
            Problem: the queue has no room, or so many texts wait that its time would be up before its turn.
        """
        with self._changed:
            if not self._queue.has_room(len(job.items)):
                raise self._rejection("The queue is full")
            if self.wait_estimate() > _CAUTION * timeout:
                raise self._rejection("The wait would be too long")
            job.handle = self._loop.create_future()
            self._queue.add(job)
            self._changed.notify()

    def _rejection(self, what: str) -> Problem:
        detail = f"{what}: {self.waiting:,} texts are ahead. Try again later."
        return unavailable(detail, min(60.0, self.wait_estimate()), limit="queue", maximum=self._queue.capacity)

    def cancel(self, job: Job) -> None:
        """Do not decode what is left of a job."""
        with self._changed:
            if not job.is_cancelled:
                self._counts.add("skipped_texts", job.model, by=job.waiting)
                self._queue.cancel(job)
            if self._running and all(each.is_cancelled for each, _ in self._running):
                self._stop.value = 1

    def _run(self) -> None:
        while True:
            with self._changed:
                while (batch := self._queue.take()) is None:
                    self._changed.wait()
                self._running = batch.parts
                self._stop = c_int32()
            began = time.perf_counter()
            results = self._results(batch.call, [job.items[number] for job, number in batch.parts])
            seconds = time.perf_counter() - began
            with self._changed:
                self._running = []
                self._queue.charge(batch.key, seconds)
            if not self._stop.value:
                self._measure(batch, seconds)
            self._count(batch, results, seconds)
            self._loop.call_soon_threadsafe(_deliver, batch, results)

    def _measure(self, batch: TextBatch, seconds: float) -> None:
        """Update the speed of a model."""
        model = batch.parts[0][0].model
        old_seconds, old_cost = self._speeds.get(model, (0.0, 0.0))
        cost = sum(job.costs[number] for job, number in batch.parts)
        self._speeds[model] = _MEMORY * old_seconds + seconds, _MEMORY * old_cost + cost

    def _count(self, batch: TextBatch, results: Sequence[Any], seconds: float) -> None:
        call: Call = batch.call
        self._counts.observe("batch_texts", len(batch.parts), call.model)
        self._counts.observe("batch_seconds", seconds, call.model)
        decoded = [each for each in results if not isinstance(each, FailedText)]
        call.count(self._counts, decoded)
        if self._stop.value:
            self._counts.add("skipped_texts", call.model, by=len(results) - len(decoded))

    def _results(self, call: Call, items: Sequence[Any]) -> list[Any]:
        """Decode texts. If that fails, decode each of them alone, so that none fails because of another."""
        if self._stop.value:  # their clients have gone
            return [FailedText()] * len(items)
        try:
            with stopped_by(self._stop):
                return list(call.run(items))
        except Exception as error:  # noqa: BLE001 (whatever it is, the service continues)
            if len(items) > 1:
                return [self._results(call, [item])[0] for item in items]
            if not self._stop.value:
                self._log.failure("a text could not be decoded", error, trace=not isinstance(error, FreerunError))
            return [FailedText()]


def _deliver(batch: TextBatch, results: Sequence[Any]) -> None:
    """Hand out results, in the thread of the event loop."""
    for (job, number), result in zip(batch.parts, results, strict=True):
        job.results[number] = result
        job.missing -= 1
        if not job.missing and not job.handle.done():
            job.handle.set_result(job.results)
