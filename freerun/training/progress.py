"""Where a run is."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Progress"]


@dataclass
class Progress:
    """Where a run is: with weights and optimiser, all that it needs to go on.

    ``epoch`` and ``batch`` are the place of the next batch; ``evaluated`` and ``best_update`` are -1 before there is an
    evaluation; ``stale`` counts the evaluations since the best one. ``best`` and ``last`` are the metrics found then,
    ``interval`` the sums and counts of the figures since the last journal line.

    ``best_sha256`` is the SHA-256 of the best bundle's weights; ``journal_size`` and ``journal_sha256`` are of the
    journal. They are "" in checkpoints of earlier versions.
    """

    update: int = 0
    epoch: int = 0
    batch: int = 0
    evaluated: int = -1
    stale: int = 0
    best_update: int = -1
    best: dict[str, float | None] | None = None
    last: dict[str, float | None] | None = None
    interval: dict[str, list[float]] = field(default_factory=dict)
    journal_size: int = 0
    best_sha256: str = ""
    journal_sha256: str = ""

    def add(self, name: str, total: float, count: float) -> None:
        """Add to a figure of the present journal interval; with a count of 0 it is a sum, otherwise a mean."""
        entry = self.interval.setdefault(name, [0.0, 0.0])
        entry[0] += total
        entry[1] += count

    def take_interval(self) -> dict[str, float]:
        """The figures of the interval, which ends here."""
        figures = {name: total / count if count else int(total) for name, (total, count) in self.interval.items()}
        self.interval = {}
        return figures
