"""Results of a study's finished runs, stored as JSON: metrics per source, the learning curve, and the cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from freerun.diagnostics.estimate import Columns
from freerun.errors import RunError
from freerun.files import write_atomic
from freerun.metrics.accuracy import ratio
from freerun.version import VERSION

__all__ = ["UNDERTRAINED", "Result", "read_result", "write_result"]

UNNAMED = "0.1.0"
"""The version of results that do not name one."""

UNDERTRAINED = 0.05
"""A run is undertrained if its symbol error rate fell by more than this fraction of itself in the last quarter."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One arm under one seed.

    Attributes:
        arm: name of the arm; ``seed`` its seed.
        config_hash: of the complete configuration, so that no result is mistaken for another.
        failed: why there are no metrics; None if there are.
        sources_hash: of the evaluated sources; only results with equal ones are compared.
        ratios: name of a metric -> numerators and denominators, one of each per source, in the order of the pairs.
        scores: metrics of the whole set that are no such ratios: BLEU and chrF; NaN (null in the file) if undefined.
        curve: (update, metrics on the development pairs) of every evaluation.
        updates: optimizer steps taken; ``seconds`` of training, evaluations included.
        journal: means of the strategy's own metrics over the last quarter, by name.
        freerun: the version that began the run.
    """

    arm: str
    seed: int
    config_hash: str
    failed: str | None
    sources_hash: str
    ratios: dict[str, tuple[list[float], list[float]]]
    scores: dict[str, float]
    curve: list[tuple[int, dict[str, float]]]
    updates: int
    seconds: float
    journal: dict[str, float]
    freerun: str = VERSION

    def columns(self, name: str) -> Columns:
        """Return the numerators and denominators [N] of a metric."""
        above, below = self.ratios[name]
        return np.asarray(above), np.asarray(below)

    def value(self, name: str) -> float:
        """Return a metric over all sources; NaN if undefined."""
        return ratio(*self.columns(name))

    @property
    def is_undertrained(self) -> bool:
        """True if the symbol error rate was still falling steeply when the run ended."""
        points = self._errors
        earlier = [error for update, error in points if update <= 0.75 * self.updates]
        return bool(earlier) and points[-1][1] < (1 - UNDERTRAINED) * min(earlier)

    def updates_to(self, target_error: float) -> int | None:
        """Return the first update at which the symbol error rate on the development pairs was this low."""
        return min((update for update, error in self._errors if error <= target_error), default=None)

    @property
    def _errors(self) -> list[tuple[int, float]]:
        """The defined points of the curve of the symbol error rate."""
        name = "symbol_error_rate.free"
        return [(update, metrics[name]) for update, metrics in self.curve if name in metrics]


def write_result(path: Path, result: Result) -> None:
    """Write a result atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = {name: None if math.isnan(score) else score for name, score in result.scores.items()}
    write_atomic(path, json.dumps({**asdict(result), "scores": scores}, separators=(",", ":")) + "\n")


def read_result(path: Path, config_hash: str) -> Result | None:
    """Read the result at ``path``; None if there is none.

    Raises:
        RunError: the result is damaged, or that of another configuration.
    """
    try:
        raw: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        scores = {name: math.nan if score is None else score for name, score in raw["scores"].items()}
        curve = [tuple(point) for point in raw["curve"]]
        parts = {"ratios": _pairs(raw["ratios"]), "scores": scores, "curve": curve}
        result = Result(**{"freerun": UNNAMED, **raw, **parts})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            path, f"this result cannot be read ({error})", "Expected what a study wrote", "Remove it to run it again"
        ) from None
    if result.config_hash != config_hash:
        raise RunError(
            path,
            "this result belongs to another configuration",
            "Expected the configuration that the study was begun with",
            "Revert the change, or use another directory with --out",
        )
    return result


def _pairs(ratios: Mapping[str, Sequence[list[float]]]) -> dict[str, tuple[list[float], list[float]]]:
    return {name: (above, below) for name, (above, below) in ratios.items()}
