"""Counts of several processes in memory that they share, and their sums in Prometheus's format."""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

__all__ = ["ENDPOINTS", "OUTCOMES", "CountTable", "Counts"]

ENDPOINTS: Final = (
    "predict",
    "score",
    "stream",
    "models",
    "translate",
    "detect",
    "languages",
    "status",
    "metrics",
    "documents",
    "other",
)
OUTCOMES: Final = (
    "200",
    "304",
    "400",
    "401",
    "403",
    "404",
    "405",
    "408",
    "413",
    "415",
    "421",
    "422",
    "431",
    "499",
    "500",
    "503",
    "other",
)
"""HTTP statuses; 499: the client went away before its answer."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


class _Metric(NamedTuple):
    """A metric: for each value of its labels a number, or for a histogram (with ``bounds``) a sum and buckets."""

    kind: str
    name: str
    help: str
    labels: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    bounds: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Numbers for each value of the labels."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


def _metrics(models: Sequence[str]) -> list[_Metric]:
    named = tuple((name,) for name in models)
    asked = tuple((endpoint, outcome) for endpoint in ENDPOINTS for outcome in OUTCOMES)
    timed = tuple((endpoint,) for endpoint in ENDPOINTS)
    none: tuple[tuple[str, ...], ...] = ((),)
    model = ("model",)
    return [
        _Metric("counter", "requests", "Requests by endpoint and status.", ("endpoint", "status"), asked),
        _Metric(
            "histogram",
            "request_seconds",
            "Time from headers to answer.",
            ("endpoint",),
            timed,
            _SECONDS,
        ),
        _Metric("counter", "texts", "Texts predicted and pairs scored.", model, named),
        _Metric("counter", "tokens", "Target tokens written or scored, end tokens included.", model, named),
        _Metric("counter", "truncated_outputs", "Outputs that reached the length bound.", model, named),
        _Metric("counter", "unknown_tokens", "Source tokens that are not in the vocabulary.", model, named),
        _Metric("counter", "skipped_texts", "Texts whose client went away or whose time was up.", model, named),
        _Metric("histogram", "batch_texts", "Texts that were decoded together.", model, named, _SIZES),
        _Metric("histogram", "batch_seconds", "Time to decode a batch.", model, named, _SECONDS),
        _Metric("gauge", "queue_texts", "Texts in the queue.", (), none),
        _Metric("gauge", "connections", "Connected clients.", (), none),
        _Metric("counter", "rejected_connections", "Connections beyond --max-connections.", (), none),
        _Metric("counter", "cut_off_connections", "Clients that sent or read too slowly.", (), none),
        _Metric("counter", "lost_log_lines", "Lines of the log that could not be written.", (), none),
        _Metric("counter", "replaced_workers", "Workers that died and were replaced.", (), none),
        _Metric("counter", "reloads", "Attempts to load models again.", ("outcome",), (("loaded",), ("failed",))),
    ]


class CountTable:
    """Numbers of several processes, created before they are forked: a row for each, which it alone writes."""

    def __init__(self, rows: int, models: Sequence[str]) -> None:
        self._metrics = _metrics(models)
        self._columns: dict[tuple[str, ...], int] = {}
        end = 0
        for metric in self._metrics:
            for values in metric.values:
                self._columns[(metric.name, *values)] = end
                end += metric.width
        self._width, self._rows = end, rows
        self._numbers = memoryview(mmap.mmap(-1, 8 * rows * end)).cast("d")

    def row(self, number: int) -> Counts:
        """Return the counts of one process; they continue those of the process that had the row before."""
        start = number * self._width
        bounds = {metric.name: metric.bounds for metric in self._metrics}
        return Counts(self._numbers[start : start + self._width], self._columns, bounds)

    def clear_gauges(self, number: int) -> None:
        """Reset what a process that has ended was doing."""
        for metric in self._metrics:
            if metric.kind == "gauge":
                for values in metric.values:
                    self._numbers[number * self._width + self._columns[(metric.name, *values)]] = 0.0

    def _sums(self, column: int, width: int) -> list[float]:
        starts = range(column, self._rows * self._width, self._width)
        return [sum(self._numbers[start + n] for start in starts) for n in range(width)]

    def collect(self) -> Iterable[Any]:
        """Yield Prometheus's metric families, summed over all processes."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        families = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        for metric in self._metrics:
            family: Any = families[metric.kind](f"freerun_{metric.name}", metric.help, labels=metric.labels)
            for values in metric.values:
                numbers = self._sums(self._columns[(metric.name, *values)], metric.width)
                if metric.kind == "histogram":
                    total, *buckets = numbers
                    names = [*map(str, metric.bounds), "+Inf"]
                    family.add_metric(values, list(zip(names, accumulate(buckets), strict=True)), total)
                elif metric.name != "requests" or numbers[0]:  # most pairs of endpoint and status never occur
                    family.add_metric(values, numbers[0])
            yield family


class Counts:
    """The numbers that one process counts."""

    def __init__(
        self, numbers: memoryview[float], columns: dict[tuple[str, ...], int], bounds: dict[str, tuple[float, ...]]
    ) -> None:
        self._numbers, self._columns, self._bounds = numbers, columns, bounds

    def add(self, name: str, *labels: str, by: float = 1.0) -> None:
        """Add to a counter."""
        self._numbers[self._columns[(name, *labels)]] += by

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        self._numbers[self._columns[(name,)]] = value

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add a value to a histogram."""
        column = self._columns[(name, *labels)]
        self._numbers[column] += value
        self._numbers[column + 1 + bisect_left(self._bounds[name], value)] += 1.0

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        outcome = str(status)
        self.add("requests", endpoint, outcome if outcome in OUTCOMES else "other")
        self.observe("request_seconds", seconds, endpoint)
