"""Excess error: how many more errors a model makes free-running than teacher-forced (after Arora et al. 2022).

    eps(l) = sum_i sum_(t <= min(l, n_i)) e_(i,t) / sum_i min(l, n_i)

where e is 1 if a step is wrong and n_i is the number of steps of source i, with EOS. A model whose errors do not depend
on its earlier predictions has eps_free = eps_teacher.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from freerun.diagnostics.estimate import Columns, Estimate, Resampled
from freerun.diagnostics.record import Recorded
from freerun.diagnostics.steps import Steps

__all__ = ["AtLength", "ExcessError", "excess_error", "forced_columns"]

POINTS = 20


class AtLength(NamedTuple):
    """Step error rates over the first ``steps`` steps, and the excess in %."""

    steps: int
    free: Estimate
    teacher: Estimate
    excess: Estimate


class ExcessError(NamedTuple):
    """Step error rates over all steps.

    Attributes:
        excess: ``100 * (free / teacher - 1)``, in %.
        free: the free-running step error rate.
        teacher: the teacher-forced step error rate.
        ending_regret: edits per output that its ending costs, beyond those of its steps.
        curve: the same by length.
    """

    excess: Estimate
    free: Estimate
    teacher: Estimate
    ending_regret: Estimate
    curve: list[AtLength]


def excess_error(recorded: Recorded) -> ExcessError:
    """Compare the two step error rates; undefined if the model makes no teacher-forced error."""
    lengths = recorded.forced.errors.lengths
    longest = int(np.quantile(lengths, 0.99)) if len(lengths) else 0
    cuts = sorted({round(float(cut)) for cut in np.linspace(1, max(1, longest), POINTS)})
    ratios: dict[str, Columns] = {"ending": (recorded.free.ending_regret, np.ones(len(recorded.pairs)))}
    for name, cut in _named(cuts):
        ratios[f"free {name}"] = recorded.free.errors.window(0, cut)
        ratios[f"teacher {name}"] = forced_columns(recorded, recorded.forced.errors, 0, cut)
    resampled = Resampled(ratios)

    def at(name: str) -> tuple[Estimate, Estimate, Estimate]:
        free, teacher = f"free {name}", f"teacher {name}"
        excess = resampled.of(
            lambda above, below: 100 * (above / np.where(below == 0, np.nan, below) - 1), free, teacher
        )
        return resampled.ratio(free), resampled.ratio(teacher), excess

    free, teacher, excess = at("all")
    curve = [AtLength(cut, *at(name)) for name, cut in _named(cuts) if cut is not None]
    return ExcessError(excess, free, teacher, resampled.ratio("ending"), curve)


def forced_columns(recorded: Recorded, steps: Steps, first: int, last: int | None) -> Columns:
    """Return sums and counts [N] over the forced steps ``first`` to ``last``; each of R references weighs 1 / R."""
    owners = recorded.pairs.owners_P
    weights = 1 / np.bincount(owners)[owners]
    sums, counts = steps.window(first, last)
    size = len(recorded.pairs)
    return np.bincount(owners, sums * weights, size), np.bincount(owners, counts * weights, size)


def _named(cuts: Iterable[int]) -> list[tuple[str, int | None]]:
    return [*((str(cut), cut) for cut in cuts), ("all", None)]
