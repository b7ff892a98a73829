"""The position of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Progress"]


@dataclass(kw_only=True)
class Progress:
    """The position of a run: with weights and optimizer state, all that is needed to resume it.

    ``epoch``, ``window`` and ``batch`` locate the next batch: which epoch, which window of it (the pairs that are
    shuffled together), and which batch of that; ``before`` counts all batches before the window.
    ``evaluated`` and ``best_update`` are -1 before the first evaluation;
    ``stale`` counts the evaluations since the best one. ``best`` and ``last`` are their metrics, ``interval`` the sums
    and counts of the metrics since the last journal record.

    ``best_sha256`` is the SHA-256 of the best bundle's weights; ``journal_size`` and ``journal_sha256`` are of the
    journal. They are "" in checkpoints of earlier versions.
    """

    update: int = 0
    epoch: int = 0
    window: int = 0
    batch: int = 0
    before: int = 0
    evaluated: int = -1
    stale: int = 0
    best_update: int = -1
    best: dict[str, float | None] | None = None
    last: dict[str, float | None] | None = None
    interval: dict[str, list[float]] = field(default_factory=dict)
    journal_size: int = 0
    best_sha256: str = ""
    journal_sha256: str = ""

    @property
    def position(self) -> dict[str, int]:
        """What locates the next batch, by the names of the attributes."""
        return {"epoch": self.epoch, "window": self.window, "batch": self.batch, "before": self.before}

    def move_to(self, position: Mapping[str, int]) -> None:
        """Move to a ``position``."""
        for name, value in position.items():
            setattr(self, name, value)

    def add(self, name: str, total: float, count: float) -> None:
        """Add to a metric of the present journal interval; with a count of 0 it is a sum, otherwise a mean."""
        entry = self.interval.setdefault(name, [0.0, 0.0])
        entry[0] += total
        entry[1] += count

    def take_interval(self) -> dict[str, float]:
        """Return the metrics of the interval, and start the next one."""
        metrics = {name: total / count if count else int(total) for name, (total, count) in self.interval.items()}
        self.interval = {}
        return metrics
