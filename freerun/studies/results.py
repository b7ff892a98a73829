"""What is kept of a finished run of a study: figures a source, the learning curve, and what it cost. JSON."""

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

__all__ = ["FALLING", "Result", "read_result", "write_result"]

UNNAMED = "0.1.0"
"""The version of results that name none."""

FALLING = 0.05
"""A run whose symbol error rate fell by more than this share of itself in the last quarter was stopped too early."""


@dataclass(frozen=True)
class Result:
    """One arm under one seed.

    Attributes:
        arm: name of the arm; ``seed`` its seed.
        config_hash: of the complete configuration, so that a result is never taken for another's.
        failed: why there are no figures, None where there are.
        sources_hash: of the sources that the figures are of; only equal ones are compared.
        ratios: name of a figure to numerators and denominators, one of each a source, in the order of the pairs.
        scores: figures of the whole set without such parts: BLEU and chrF; NaN (null in the file) where undefined.
        curve: (update, figures on the development pairs) of every evaluation.
        updates: optimiser steps taken; ``seconds`` of training, evaluations among them.
        journal: means of what the strategy noted over the last quarter, by name.
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
        """Numerators and denominators [N] of a figure."""
        above, below = self.ratios[name]
        return np.asarray(above), np.asarray(below)

    def value(self, name: str) -> float:
        """A figure over all sources; NaN where it is undefined."""
        return ratio(*self.columns(name))

    @property
    def is_falling(self) -> bool:
        """Whether the run was stopped while its symbol error rate was still falling steeply."""
        points = self._errors
        earlier = [error for update, error in points if update <= 0.75 * self.updates]
        return bool(earlier) and points[-1][1] < (1 - FALLING) * min(earlier)

    def reached(self, error: float) -> int | None:
        """The first update at which the symbol error rate on the development pairs was this low."""
        found = [update for update, reached in self._errors if reached <= error]
        return min(found) if found else None

    @property
    def _errors(self) -> list[tuple[int, float]]:
        """The curve of the symbol error rate, where that is defined."""
        name = "symbol_error_rate.free"
        return [(update, figures[name]) for update, figures in self.curve if name in figures]


def write_result(path: Path, result: Result) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = {name: None if math.isnan(score) else score for name, score in result.scores.items()}
    write_atomic(path, json.dumps({**asdict(result), "scores": scores}, separators=(",", ":")) + "\n")


def read_result(path: Path, config_hash: str) -> Result | None:
    """What was kept at ``path``; None where nothing was.

    Raises:
        RunError: it is damaged, or that of another configuration.
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
            "this result is that of another configuration",
            "Expected the configuration that the study was begun with",
            "Undo the change, or give the study another folder with --out",
        )
    return result


def _pairs(ratios: Mapping[str, Sequence[list[float]]]) -> dict[str, tuple[list[float], list[float]]]:
    return {name: (above, below) for name, (above, below) in ratios.items()}
