"""The tables of ``serve_speed.py`` in Markdown, from the figures of all rounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from service_process import BEAM, markdown

SIZES = [2**n for n in range(10)]
"""Texts of a request."""
MANY, SOME = 64, 8
"""Connections at a time: for requests with one text, and for those with up to 512."""
Figures = dict[str, float]


class Medians:
    """The medians over rounds of one measurement."""

    def __init__(self, figures: Mapping[str, Sequence[Figures]]) -> None:
        self._figures = figures

    def of(self, kind: str, figure: str) -> float:
        """Return the median of a figure of a contender."""
        return statistics.median(each[figure] for each in self._figures[kind])

    def failed(self) -> int:
        """Return the number of requests that failed, in all rounds."""
        return round(sum(each.get("failed", 0) for rounds in self._figures.values() for each in rounds))


def requests_table(a: Medians) -> str:
    """Return the table of requests with one text, and without any."""
    predict = a.of("alone, 1 texts", "mean_us")
    rows = [["`predict`, without HTTP", "", f"{1e6 / predict:,.0f}", f"{predict:.0f}", f"{predict:.0f}", "", ""]]
    for label, kind, own in (("`/live`", "live", 0.0), ("one text", "1 texts", predict)):
        for connections in (1, MANY):
            name = f"{kind}, {connections}"
            speed, cpu = a.of(name, "per_second"), a.of(name, "cpu_us")
            wall = 1e6 / speed
            beyond = [f"{wall - own:.0f}", f"{cpu - own:.0f}"] if own else ["", ""]
            rows.append([label, str(connections), f"{speed:,.0f}", f"{wall:.0f}", f"{cpu:.0f}", *beyond])
    head = ["request", "connections", "requests/s", "µs/request", "CPU µs/request"]
    return markdown([*head, "beyond `predict`, µs", "beyond `predict`, CPU µs"], rows)


def http_fraction(a: Medians, size: int) -> float:
    """Return the fraction of a request's time that is not the prediction's, for one connection."""
    return 1 - a.of(f"alone, {size} texts", "mean_us") * a.of(f"{size} texts, 1", "per_second") / 1e6


def sizes_table(a: Medians) -> str:
    """Return the table of requests with several texts, and from which number of texts on HTTP is paid for."""
    rows = []
    for size in SIZES:
        batch = size * 1e6 / a.of(f"alone, {size} texts", "mean_us")
        one, many = (size * a.of(f"{size} texts, {connections}", "per_second") for connections in (1, SOME))
        fraction = f"{100 * http_fraction(a, size):.0f} %"
        rows.append([str(size), f"{batch:,.0f}", f"{one:,.0f}", f"{many:,.0f}", fraction])
    head = ["texts per request", "`predict_batch`, texts/s", "1 connection, texts/s", f"{SOME} connections, texts/s"]
    paid = paid_from(a)
    sentence = (
        "HTTP takes half of the time or more at every size."
        if paid is None
        else (f"With one connection, HTTP takes less than half of the time from {paid} texts per request on.")
    )
    return f"{markdown([*head, 'HTTP, 1 connection'], rows)}\n\n{sentence}"


def paid_from(a: Medians) -> int | None:
    """Return the number of texts from which on HTTP takes less than half of the time, None if there is none."""
    paid = None
    for size in reversed(SIZES):
        if http_fraction(a, size) >= 0.5:
            break
        paid = size
    return paid


def batches_table(b: Medians) -> str:
    """Return the table of the service, the plain handler and the predictor alone, with what could be reached."""
    plain, service = b.of(f"plain, {MANY}", "per_second"), b.of(f"service, {MANY}", "per_second")
    alone = {size: size * 1e6 / b.of(f"alone, {size} texts", "mean_us") for size in (1, MANY, 512)}
    speeds = {
        "`predict`, without HTTP": alone[1],
        f"`predict_batch` of {MANY}, without HTTP": alone[MANY],
        "`predict_batch` of 512, without HTTP": alone[512],
        f"plain handler, {MANY} connections": plain,
        f"freerun serve, {MANY} connections": service,
    }
    rows = [
        [name, f"{speed:,.0f}", f"{speed / plain:.2f}", f"{speed / alone[MANY]:.2f}"] for name, speed in speeds.items()
    ]
    table = markdown(["", "texts/s", "of the plain handler", f"of `predict_batch` of {MANY}"], rows)
    ceiling = (
        f"Ceiling: {MANY} clients with one text each make batches of {MANY} at most. `predict_batch` of {MANY} is "
        f"{alone[MANY] / alone[1]:.2f} x as fast as `predict` and {alone[MANY] / plain:.2f} x as fast as the plain "
        f"handler: no service with this model on one core can be more than that. The service reaches "
        f"{service / plain:.2f} x."
    )
    return f"{table}\n\n{ceiling}"


def latency_table(b: Medians) -> str:
    """Return the table of latencies with one connection."""
    predict = b.of("alone, 1 texts", "median_us") / 1000
    rows = [["`predict`, without HTTP", f"{predict:.2f}", "", ""]]
    for label, kind in (("plain handler", "plain, 1"), ("freerun serve", "service, 1")):
        median, p99 = b.of(kind, "median_ms"), b.of(kind, "p99_ms")
        rows.append([label, f"{median:.2f}", f"{p99:.2f}", f"{1000 * (median - predict):.0f}"])
    return markdown(["one connection", "median, ms", "99 %, ms", "beyond `predict`, µs"], rows)


def as_text(document: Mapping[str, Any]) -> str:
    """Return all tables of a measurement in Markdown."""
    a, b = Medians(document["figures"]["a"]), Medians(document["figures"]["b"])
    parts = [
        "Model A, int8, greedy: requests with one text.",
        requests_table(a),
        "Model A: requests with several texts.",
        sizes_table(a),
        f"Model B, beam {BEAM}, one text per request.",
        batches_table(b),
        latency_table(b),
    ]
    failed = a.failed() + b.failed()
    return "\n\n".join([*parts, f"Requests that failed: {failed}."])
