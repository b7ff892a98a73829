"""Texts that wait to be decoded, and which of them are decoded together next.

Texts that can share a call form a *class*: the same model, search options and prefix, and a similar length, because a
call ends with its longest output. A batch has texts of one class, and each request in the class has an equal share of
it. Classes share time as in fair queueing (Demers, Keshav and Shenker 1989): the next batch is of the class that has
used the least of it, and the cost of a batch is bounded. New classes start at a clock that shows an equal share, and
that never stays behind what waiting classes have used (WF2Q+, Bennett and Zhang 1997).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["FairQueue", "Job", "TextBatch"]

_LENGTHS: Final = (64, 256, 1024, 4096)
"""Bounds of the classes of lengths, in tokens: below the first one, a batch of words and phrases takes no longer."""
_MAX_COST: Final = 50_000
"""Cost of a batch: about a second for a large model, so that nothing has to wait much longer for its turn."""


@dataclass(eq=False, slots=True, kw_only=True)
class Job:
    """One request's texts.

    Attributes:
        call: what a call needs besides the texts: jobs with equal ones may share it.
        model: the name of the model, whose speed is measured.
        items: the texts, ready to be decoded.
        lengths: the length of each in tokens.
        costs: a measure of the time that each may take.
        width: the rows that a text takes in a batch.
        answer_bytes: an estimate of the memory that the results take.
        rows: the maximum number of rows in a batch.
        results: one for each item, in their order; filled by the one who decodes.
        missing: items without a result.
        waiting: items in the queue.
        is_cancelled: the results are not needed any longer.
        handle: for the one who waits.
    """

    call: Hashable
    model: str
    items: Sequence[Any]
    lengths: Sequence[int]
    costs: Sequence[int]
    width: int
    rows: int
    answer_bytes: int = 0
    results: list[Any] = field(default_factory=list)
    missing: int = 0
    waiting: int = 0
    is_cancelled: bool = False
    handle: Any = None
    waiting_cost: int = 0

    def __post_init__(self) -> None:
        self.results = [None] * len(self.items)
        self.missing = len(self.items)


@dataclass(slots=True)
class TextBatch:
    """Texts to decode in one call: (job, number of the item) each. ``key`` names their class."""

    key: Hashable
    call: Any
    parts: list[tuple[Job, int]]


@dataclass(slots=True)
class _Class:
    """Texts that may share a call: for each job in it, the numbers of its items that wait.

    ``used`` is the time that it has been given so far, compared with the other classes.
    """

    used: float
    arrived: int
    jobs: deque[tuple[Job, deque[int]]] = field(default_factory=deque)


class FairQueue:
    """Not thread-safe: its owner has a lock."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._classes: dict[Hashable, _Class] = {}
        self._used: dict[Hashable, float] = {}  # by classes that are empty now and were not long ago
        self._clock = 0.0
        self._arrivals = 0
        self._waiting = 0
        self.costs: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return the number of texts that wait."""
        return self._waiting

    def has_room(self, texts: int) -> bool:
        """Return True if so many more texts may wait."""
        return self._waiting + texts <= self.capacity

    def add(self, job: Job) -> None:
        """Add a job with at least one item; the caller has checked that there is room."""
        by_key: dict[Hashable, deque[int]] = {}
        for number, length in enumerate(job.lengths):
            by_key.setdefault((job.call, bisect_left(_LENGTHS, length)), deque()).append(number)
        for key, numbers in by_key.items():
            self._class(key).jobs.append((job, numbers))
        self._count(job, len(job.items), sum(job.costs))

    def _count(self, job: Job, items: int, cost: int) -> None:
        """Add to the number of texts that wait, and to their cost."""
        job.waiting += items
        job.waiting_cost += cost
        self._waiting += items
        self.costs[job.model] += cost

    def cancel(self, job: Job) -> None:
        """Leave out what is left of a job."""
        job.is_cancelled = True
        self._count(job, -job.waiting, -job.waiting_cost)

    def _class(self, key: Hashable) -> _Class:
        """Return a class; one that was empty starts with no advantage over those that had to wait."""
        if key not in self._classes:
            self._arrivals += 1
            used = max(self._clock, self._used.pop(key, 0.0))
            self._classes[key] = _Class(used, self._arrivals)
        return self._classes[key]

    def take(self) -> TextBatch | None:
        """Take out the texts that are decoded next; None if none wait."""
        while self._classes:
            key, chosen = min(self._classes.items(), key=lambda each: (each[1].used, each[1].arrived))
            parts = self._parts(chosen)
            self._clock = max(self._clock, chosen.used)
            if not chosen.jobs:
                del self._classes[key]
                self._used[key] = chosen.used
            if parts:
                return TextBatch(key, parts[0][0].call, parts)
        return None

    def _parts(self, chosen: _Class) -> list[tuple[Job, int]]:
        """Take texts out of a class, one of each job in turn, until the batch is full."""
        parts: list[tuple[Job, int]] = []
        rows = cost = 0
        while chosen.jobs:
            job, numbers = chosen.jobs[0]
            if job.is_cancelled:
                chosen.jobs.popleft()
                continue
            rows, cost = rows + job.width, cost + job.costs[numbers[0]]
            if parts and (rows > job.rows or cost > _MAX_COST):
                break
            parts.append((job, numbers[0]))
            self._count(job, -1, -job.costs[numbers.popleft()])
            if numbers:
                chosen.jobs.rotate(-1)
            else:
                chosen.jobs.popleft()
        return parts

    def charge(self, key: Hashable, seconds: float) -> None:
        """Record the time that a batch has taken."""
        if key in self._classes:
            self._classes[key].used += seconds
        else:
            self._used[key] = self._used.get(key, self._clock) + seconds
        self._clock += seconds / (len(self._classes) + (key not in self._classes))
        if len(self._used) > 64:
            self._used = {each: used for each, used in self._used.items() if used > self._clock}
